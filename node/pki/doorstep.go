package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"time"

	"banyan"
)

// doorstepProtocol is what a member asks for when it calls a machine that
// wants to join.
const doorstepProtocol = "banyan-join/1"

// DoorstepTLS is for a machine that wants to join and has no certificate yet:
// it answers with the key of its signing request.
func DoorstepTLS(keyDER []byte) (*tls.Config, error) {
	key, err := parseKey(keyDER)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: serial(), NotBefore: time.Now().Add(-skew), NotAfter: time.Now().Add(skew)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, banyan.Errorf(banyan.Internal, "making a certificate to join with: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{doorstepProtocol},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, nil
}

// CallBackTLS is for a member: it accepts only who holds the key that
// RequestKey named.
func CallBackTLS(requestKey string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{doorstepProtocol},
		ServerName:         serverName,
		InsecureSkipVerify: true, // the key below takes its place
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) > 0 && fingerprint(cs.PeerCertificates[0].RawSubjectPublicKeyInfo) == requestKey {
				return nil
			}
			return banyan.Errorf(banyan.Invalid, "somebody else answers there, not the machine that wants to join")
		},
	}
}
