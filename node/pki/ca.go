package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net/url"
	"time"

	"banyan"
)

// CA is the certificate authority of one cluster, with its key. Every node
// holds it, so that every node can let others in. It is immutable.
type CA struct {
	cluster string
	cert    *x509.Certificate
	key     crypto.Signer
}

// NewCA makes the authority of a new cluster.
func NewCA(cluster string, now time.Time) (*CA, error) {
	if err := validCluster(cluster); err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "banyan cluster " + cluster},
		URIs:                  []*url.URL{{Scheme: uriScheme, Host: cluster, Path: "/ca"}},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(authorityTTL),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, banyan.Errorf(banyan.Internal, "making the authority of cluster %s: %w", cluster, err)
	}
	return newCA(der, key)
}

// ParseCA reads an authority from its certificate and its PKCS #8 key, and
// refuses a key that is not the certificate's.
func ParseCA(certDER, keyDER []byte) (*CA, error) {
	key, err := parseKey(keyDER)
	if err != nil {
		return nil, err
	}
	return newCA(certDER, key)
}

func newCA(der []byte, key crypto.Signer) (*CA, error) {
	cert, cluster, err := parseAuthority(der)
	if err != nil {
		return nil, err
	}
	if !samePublicKey(cert.PublicKey, key) {
		return nil, banyan.Errorf(banyan.Corrupt, "the authority's key is not that of its certificate (cluster %s)", cluster)
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// parseAuthority reads an authority's certificate and the cluster it names.
func parseAuthority(der []byte) (*x509.Certificate, string, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, "", banyan.Errorf(banyan.Corrupt, "the authority's certificate cannot be read: %w", err)
	}
	if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].Scheme != uriScheme || cert.URIs[0].Path != "/ca" {
		return nil, "", banyan.Errorf(banyan.Invalid, "the certificate of %q is not that of a banyan cluster's authority", cert.Subject.CommonName)
	}
	return cert, cert.URIs[0].Host, validCluster(cert.URIs[0].Host)
}

// Cluster is the id of the cluster.
func (ca *CA) Cluster() string { return ca.cluster }

// CertDER is the authority's certificate. Do not modify it.
func (ca *CA) CertDER() []byte { return ca.cert.Raw }

// KeyDER is the authority's key, PKCS #8.
func (ca *CA) KeyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(ca.key) }

// NotAfter is when the authority's own certificate expires.
func (ca *CA) NotAfter() time.Time { return ca.cert.NotAfter }

// Fingerprint is the SHA-256 of the authority's certificate in hexadecimal;
// join tokens carry it.
func (ca *CA) Fingerprint() string { return fingerprint(ca.cert.Raw) }

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Sign makes a certificate for the key of a signing request. Who it names is
// s alone: what the request says of itself does not count.
func (ca *CA) Sign(csrDER []byte, s Subject, now time.Time, ttl time.Duration) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	csr, err := parseRequest(csrDER)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: s.Name, OrganizationalUnit: []string{string(s.Kind)}, Organization: []string{ca.cluster}},
		URIs:         []*url.URL{s.uri(ca.cluster)},
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(ttl),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if s.Kind == Node {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames = []string{serverName} // for foreign clients that insist on a host name
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, csr.PublicKey, ca.key)
	if err != nil {
		return nil, banyan.Errorf(banyan.Internal, "signing the certificate of %s %s: %w", s.Kind, s.Name, err)
	}
	return der, nil
}

// RequestKey names the key that a signing request is for and was made with, by
// the hash of its public half.
func RequestKey(csrDER []byte) (string, error) {
	csr, err := parseRequest(csrDER)
	if err != nil {
		return "", err
	}
	return fingerprint(csr.RawSubjectPublicKeyInfo), nil
}

func parseRequest(csrDER []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, banyan.Errorf(banyan.Invalid, "bad certificate signing request: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, banyan.Errorf(banyan.Invalid, "bad certificate signing request: the key must be ECDSA, it is %T", csr.PublicKey)
	}
	switch key.Curve {
	case elliptic.P256(), elliptic.P384(), elliptic.P521():
		return csr, nil
	}
	return nil, banyan.Errorf(banyan.Invalid, "bad certificate signing request: the key is on the curve %s: use P-256, P-384 or P-521", key.Curve.Params().Name)
}

// NewRequest makes a fresh key and a signing request for it: PKCS #10 and PKCS #8.
func NewRequest() (csrDER, keyDER []byte, err error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	if csrDER, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
		return nil, nil, banyan.Errorf(banyan.Internal, "making a certificate signing request: %w", err)
	}
	if keyDER, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, nil, banyan.Errorf(banyan.Internal, "encoding a key: %w", err)
	}
	return csrDER, keyDER, nil
}

// newKey draws a P-256 key: fast to make, and every TLS client knows it.
func newKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, banyan.Errorf(banyan.Internal, "making a key: %w", err)
	}
	return key, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "the private key cannot be read: %w", err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, banyan.Errorf(banyan.Corrupt, "the private key is a %T, not an ECDSA key", key)
	}
	return signer, nil
}

func samePublicKey(public any, key crypto.Signer) bool {
	p, ok := key.Public().(*ecdsa.PublicKey)
	return ok && p.Equal(public)
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f
	b[15] |= 1 // never zero
	return new(big.Int).SetBytes(b[:])
}
