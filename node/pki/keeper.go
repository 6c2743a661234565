package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"banyan"
)

// checkEvery is how often Run looks whether a renewal is due.
const checkEvery = time.Minute

// Keeper holds a node's current certificate and renews it without a restart:
// configurations it gave out use the new one from the next handshake on.
type Keeper struct {
	dir       string // "": memory only
	ca        *CA
	authority authority
	subject   Subject
	now       func() time.Time
	renewing  sync.Mutex
	current   atomic.Pointer[tls.Certificate]
}

// NewKeeper keeps a fresh certificate for s in memory only.
func NewKeeper(ca *CA, s Subject, now func() time.Time) (*Keeper, error) {
	k := &Keeper{ca: ca, authority: newAuthority(ca.cluster, ca.cert), subject: s, now: now}
	return k, k.issue()
}

// OpenKeeper opens what SaveDir wrote. A certificate that is due, expired, not valid yet or
// does not belong to the key beside it (a renewal was cut short) is renewed at
// once. It returns NotFound when the directory holds no node's certificate.
func OpenKeeper(dir string, now func() time.Time) (*Keeper, error) {
	files, err := loadDir(dir)
	if err != nil {
		return nil, err
	}
	ca, err := ParseCA(files.caCert, files.caKey)
	if err != nil {
		return nil, banyan.Errorf(banyan.KindOf(err), "in %s: %w", dir, err)
	}
	cert, err := x509.ParseCertificate(files.cert)
	if err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "%s/%s cannot be read: %w", dir, nodeCertFile, err)
	}
	subject, _, err := SubjectOf(cert)
	if err == nil {
		err = cert.CheckSignatureFrom(ca.cert)
	}
	if err != nil || subject.Kind != Node {
		return nil, banyan.Errorf(banyan.Corrupt, "%s/%s is not a node's certificate signed by the authority beside it (%v): the files of two clusters are mixed; restore them from one backup", dir, nodeCertFile, err)
	}
	k := &Keeper{dir: dir, ca: ca, authority: newAuthority(ca.cluster, ca.cert), subject: subject, now: now}
	key, err := parseKey(files.key)
	if err != nil || !samePublicKey(cert.PublicKey, key) {
		return k, k.issue()
	}
	k.current.Store(&tls.Certificate{Certificate: [][]byte{cert.Raw, ca.cert.Raw}, PrivateKey: key, Leaf: cert})
	_, err = k.Renew()
	return k, err
}

// CA is the cluster's authority.
func (k *Keeper) CA() *CA { return k.ca }

// Subject is whom the certificates name.
func (k *Keeper) Subject() Subject { return k.subject }

// Certificate is the current certificate. Do not modify it.
func (k *Keeper) Certificate() *x509.Certificate { return k.current.Load().Leaf }

// Renew makes a new key and certificate if a third or less of the current
// one's life is left, and says whether it did. On an error the old one stays.
func (k *Keeper) Renew() (bool, error) {
	if !RenewDue(k.Certificate(), k.now()) {
		return false, nil
	}
	return true, k.issue()
}

func (k *Keeper) issue() error {
	k.renewing.Lock()
	defer k.renewing.Unlock()
	csr, keyDER, err := NewRequest()
	if err != nil {
		return err
	}
	der, err := k.ca.Sign(csr, k.subject, k.now(), NodeTTL)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return banyan.Errorf(banyan.Internal, "reading back a new certificate: %w", err)
	}
	key, err := parseKey(keyDER)
	if err != nil {
		return err
	}
	if k.dir != "" {
		if err := saveNode(k.dir, der, keyDER); err != nil {
			return err
		}
	}
	k.current.Store(&tls.Certificate{Certificate: [][]byte{der, k.ca.cert.Raw}, PrivateKey: key, Leaf: cert})
	return nil
}

// Run renews the certificate whenever it is due, until ctx ends.
func (k *Keeper) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		renewed, err := k.Renew()
		switch {
		case err != nil:
			log.Error("the node's certificate could not be renewed", "error", err, "expires", k.Certificate().NotAfter)
		case renewed:
			log.Info("renewed the node's certificate", "expires", k.Certificate().NotAfter)
		}
	}
}

func (k *Keeper) certificate() (*tls.Certificate, error) { return k.current.Load(), nil }

// ServerTLS is for accepting connections. A caller that shows a certificate
// must show one of this cluster; one that shows none gets in this far, and
// whoever serves it decides by the verified chains what it may do (Join).
func (k *Keeper) ServerTLS(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.certificate() },
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              k.authority.roots,
		SessionTicketsDisabled: true, // every connection shows its certificate anew
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			_, _, err := SubjectOf(cs.PeerCertificates[0])
			return err
		},
		Time: k.now,
	}
}

// ClientTLS is for calling nodes of the cluster: it shows the node's own
// certificate and accepts any node of the cluster, whatever its host name.
func (k *Keeper) ClientTLS(protocols ...string) *tls.Config {
	return clientTLS(k.authority, k.certificate, k.now, protocols)
}
