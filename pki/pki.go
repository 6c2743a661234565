// Package pki holds the trust of a cluster: its certificate authority, the
// certificates of nodes and users, join tokens, rotation, and the contexts in
// which a user of the command line keeps certificates.
package pki

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"banyan"
)

type Kind string

const (
	Node Kind = "node"
	User Kind = "user"
)

type Subject struct {
	Kind Kind
	Name string
	Node banyan.NodeID // 0 for users
}
type CA struct{}

func NewCA(cluster string, now time.Time) (*CA, error) { panic("todo") }
func ParseCA(certDER, keyDER []byte) (*CA, error)      { panic("todo") } // keyDER: PKCS #8
func (ca *CA) Cluster() string                         { panic("todo") }
func (ca *CA) CertDER() []byte                         { panic("todo") }
func (ca *CA) KeyDER() ([]byte, error)                 { panic("todo") } // PKCS #8
func (ca *CA) Fingerprint() string                     { panic("todo") }
func (ca *CA) Sign(csrDER []byte, s Subject, now time.Time, ttl time.Duration) ([]byte, error) {
	panic("todo")
}

const (
	NodeTTL = 30 * 24 * time.Hour
	UserTTL = 365 * 24 * time.Hour
)

// NewRequest makes a fresh key and a signing request for it.
func NewRequest() (csrDER, keyDER []byte, err error)                          { panic("todo") }
func SubjectOf(cert *x509.Certificate) (s Subject, cluster string, err error) { panic("todo") }

// RenewDue: a third or less of the lifetime is left.
func RenewDue(cert *x509.Certificate, now time.Time) bool { panic("todo") }

// Dir: write a node's files (ca.crt ca.key node.crt node.key) into dir (created 0700).
func SaveDir(dir string, ca *CA, nodeCertDER, nodeKeyDER []byte) error { panic("todo") }
func CheckPrivate(path string) error                                   { panic("todo") } // file or directory readable by others is refused (unix)
type Keeper struct{}

func OpenKeeper(dir string, now func() time.Time) (*Keeper, error) { panic("todo") } // = LoadDir; renews at once when due
// NewKeeper keeps in memory only (tests).
func NewKeeper(ca *CA, s Subject, now func() time.Time) (*Keeper, error)     { panic("todo") }
func (k *Keeper) CA() *CA                                                    { panic("todo") }
func (k *Keeper) Subject() Subject                                           { panic("todo") }
func (k *Keeper) ServerTLS(protocols ...string) *tls.Config                  { panic("todo") }
func (k *Keeper) ClientTLS(protocols ...string) *tls.Config                  { panic("todo") }
func (k *Keeper) Renew() (renewed bool, err error)                           { panic("todo") } // if due
func NewToken(fingerprint string) (token, hash string, err error)            { panic("todo") }
func ParseToken(token string) (secret []byte, fingerprint string, err error) { panic("todo") }
func HashToken(secret []byte) string                                         { panic("todo") }
func PinnedTLS(fingerprint string) *tls.Config                               { panic("todo") }

type Context struct {
	Name          string
	Cluster       string
	Addresses     []string
	CA, Cert, Key string // PEM
}

func (c *Context) TLS() (*tls.Config, error) { panic("todo") }
func NewContext(name string, addresses []string, caDER, certDER, keyDER []byte) (*Context, error) {
	panic("todo")
}
func ConfigDir() (string, error)                     { panic("todo") }
func LoadContext(dir, name string) (*Context, error) { panic("todo") }
func SaveContext(dir string, c *Context) error       { panic("todo") }
func ListContexts(dir string) ([]string, error)      { panic("todo") }
func CurrentContext(dir string) (string, error)      { panic("todo") } // "" none
func SetCurrentContext(dir, name string) error       { panic("todo") }
