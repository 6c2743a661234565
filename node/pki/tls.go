package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"banyan"
)

// serverName is what clients ask for (SNI) and what every node's certificate
// carries, so that foreign clients have a host name to insist on.
const serverName = "banyan"

// authority is the part of a CA that a verifier needs.
type authority struct {
	cluster string
	cert    *x509.Certificate
	roots   *x509.CertPool
}

func newAuthority(cluster string, cert *x509.Certificate) authority {
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return authority{cluster: cluster, cert: cert, roots: roots}
}

// verifyServer accepts a certificate of a node of this cluster, whatever host
// name it was reached by.
func (a authority) verifyServer(cs tls.ConnectionState, now time.Time) error {
	if len(cs.PeerCertificates) == 0 {
		return banyan.Errorf(banyan.Unauthenticated, "the node shows no certificate")
	}
	leaf := cs.PeerCertificates[0]
	s, cluster, err := SubjectOf(leaf)
	if err != nil {
		return err
	}
	if cluster != a.cluster {
		return banyan.Errorf(banyan.Unauthenticated, "this is a node of cluster %s, not of cluster %s: check the address; to reach %s, choose its context (--context; 'banyan context list' lists them)", cluster, a.cluster, cluster)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: a.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return banyan.Errorf(banyan.Unauthenticated, "the certificate of node %s (%s) is not good: %w", s.Node, s.Name, err)
	}
	if s.Kind != Node {
		return banyan.Errorf(banyan.Unauthenticated, "the server shows the certificate of %s %s, not of a node", s.Kind, s.Name)
	}
	return nil
}

// clientTLS shows the certificate that cert gives and accepts nodes of a.
func clientTLS(a authority, cert func() (*tls.Certificate, error), now func() time.Time, protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         protocols,
		ServerName:         serverName,
		InsecureSkipVerify: true, // verifyServer checks everything but the host name
		VerifyConnection:   func(cs tls.ConnectionState) error { return a.verifyServer(cs, now()) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert()
		},
		Time: now,
	}
}

// PinnedTLS is for callers that have a join token and no certificate yet: it
// accepts a node whose chain holds the authority of this fingerprint. It offers
// HTTP/2: in an http.Transport, set ForceAttemptHTTP2.
func PinnedTLS(fingerprintHex string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2", "http/1.1"},
		ServerName:         serverName,
		InsecureSkipVerify: true, // the pin below takes its place
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, cert := range cs.PeerCertificates {
				if fingerprint(cert.Raw) != fingerprintHex {
					continue
				}
				authorityCert, cluster, err := parseAuthority(cert.Raw)
				if err != nil {
					return err
				}
				return newAuthority(cluster, authorityCert).verifyServer(cs, time.Now())
			}
			return banyan.Errorf(banyan.Unauthenticated, "this is %s, not one of the cluster that made the token: check the address, or get a token from that cluster with 'banyan token'", described(cs))
		},
	}
}

// described says whose node shows itself.
func described(cs tls.ConnectionState) string {
	if len(cs.PeerCertificates) > 0 {
		if _, cluster, err := SubjectOf(cs.PeerCertificates[0]); err == nil {
			return "a node of cluster " + cluster
		}
	}
	return "no node of banyan"
}

// Explain turns what a failed handshake or first read with addr says into
// words that name the address and the remedy. Errors of the operating system
// name it already and are returned as they are.
func Explain(addr string, err error) error {
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case banyan.KindOf(err) != banyan.Internal:
		return banyan.Errorf(banyan.KindOf(err), "%s: %w", addr, err)
	case errors.As(err, &record):
		return banyan.Errorf(banyan.Unavailable, "%s is not a banyan node (it does not speak TLS): check host and port", addr)
	case errors.Is(err, io.EOF):
		return banyan.Errorf(banyan.Unavailable, "%s closed the connection before it said anything: check that it is a banyan node", addr)
	case errors.As(err, &op) && op.Op == "remote error":
		return explainAlert(addr, op.Err)
	}
	return err
}

func explainAlert(addr string, alert error) error {
	text := alert.Error()
	for _, a := range []struct{ alert, remedy string }{
		{"unknown certificate authority", "it does not know our certificate's cluster: check the address, or choose that cluster's context"},
		{"expired certificate", "our certificate has expired: renew it ('banyan join' again for a node, 'banyan context renew' in time for a user), or check the clock"},
		{"bad certificate", "it does not accept our certificate: check that it has not expired and that both clocks are right"},
		{"certificate required", "it wants a certificate: use a context of its cluster"},
		{"no application protocol", "it speaks none of our protocols: check that it is a banyan node of a version near ours"},
		{"protocol version not supported", "it does not speak TLS 1.3: check that it is a banyan node"},
	} {
		if strings.Contains(text, a.alert) {
			return banyan.Errorf(banyan.Unauthenticated, "%s refused us: %s", addr, a.remedy)
		}
	}
	return banyan.Errorf(banyan.Unavailable, "%s refused the connection: %w", addr, alert)
}
