package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"banyan"
)

// contextVersion is the newest format of a context file that we know.
const contextVersion = 1

// Context is what a user of the command line has of a cluster: where it is
// and a certificate for it.
type Context struct {
	Name      string   `json:"name"`
	Cluster   string   `json:"cluster"`
	Addresses []string `json:"addresses"` // host:port of nodes; one that answers is enough
	CA        string   `json:"ca"`        // PEM
	Cert      string   `json:"cert"`      // PEM
	Key       string   `json:"key"`       // PEM
}

type contextFile struct {
	Version int `json:"version"`
	Context
}

// NewContext builds a context from the authority's and the user's certificate
// and the user's key (PKCS #8).
func NewContext(name string, addresses []string, caDER, certDER, keyDER []byte) (*Context, error) {
	_, cluster, err := parseAuthority(caDER)
	if err != nil {
		return nil, err
	}
	text := func(block string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}))
	}
	c := &Context{Name: name, Cluster: cluster, Addresses: addresses, CA: text(pemCert, caDER), Cert: text(pemCert, certDER), Key: text(pemKey, keyDER)}
	if _, err := c.pair(); err != nil {
		return nil, err
	}
	return c, nil
}

// pair gives the context's certificate with its key.
func (c *Context) pair() (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
	if err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "the certificate of context %s cannot be used: %w", c.Name, err)
	}
	return &pair, nil
}

// TLS is for calling the nodes of the context's cluster. A certificate that
// has expired is refused here, where the message can name it.
func (c *Context) TLS() (*tls.Config, error) {
	block, _ := pem.Decode([]byte(c.CA))
	if block == nil {
		return nil, banyan.Errorf(banyan.Corrupt, "context %s holds no authority's certificate: make it anew", c.Name)
	}
	cert, cluster, err := parseAuthority(block.Bytes)
	if err != nil {
		return nil, err
	}
	pair, err := c.pair()
	if err != nil {
		return nil, err
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, banyan.Errorf(banyan.Unauthenticated, "the certificate of context %s expired on %s (this machine's clock says %s): have an operator make a new context; 'banyan context renew' does it while one is valid", c.Name, pair.Leaf.NotAfter.Format(time.DateOnly), now.Format(time.DateOnly))
	}
	return clientTLS(newAuthority(cluster, cert), func() (*tls.Certificate, error) { return pair, nil }, time.Now, []string{"h2", "http/1.1"}), nil
}

// RenewDue says that a third or less of the life of the context's certificate
// is left: ask a node to sign a new one (Cluster.Renew) and save it.
func (c *Context) RenewDue(now time.Time) bool {
	block, _ := pem.Decode([]byte(c.Cert))
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err == nil && RenewDue(cert, now)
}

// Expires is until when the context's certificate is valid.
func (c *Context) Expires() (time.Time, error) {
	pair, err := c.pair()
	if err != nil {
		return time.Time{}, err
	}
	return pair.Leaf.NotAfter, nil
}

// ConfigDir is BANYAN_CONFIG, or banyan in the user's configuration directory.
func ConfigDir() (string, error) {
	if dir := os.Getenv("BANYAN_CONFIG"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", banyan.Errorf(banyan.Unavailable, "no configuration directory (%w): set BANYAN_CONFIG to one", err)
	}
	return filepath.Join(dir, "banyan"), nil
}

func validContextName(name string) error {
	if len(name) > 64 || !regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`).MatchString(name) {
		return banyan.Errorf(banyan.Invalid, "bad context name %q: give up to 64 letters, digits, '.', '_' and '-'", name)
	}
	return nil
}

func contextPath(dir, name string) string { return filepath.Join(dir, "contexts", name+".json") }

// LoadContext reads a context; NotFound if there is none of that name.
func LoadContext(dir, name string) (*Context, error) {
	if err := validContextName(name); err != nil {
		return nil, err
	}
	path := contextPath(dir, name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, banyan.Errorf(banyan.NotFound, "there is no context %q in %s: 'banyan context list' lists those there are, 'banyan up' makes one", name, dir)
	}
	b, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	c, err := decodeContext(b)
	if err != nil {
		return nil, banyan.Errorf(banyan.KindOf(err), "%s: %w", path, err)
	}
	return c, nil
}

func decodeContext(b []byte) (*Context, error) {
	var version struct{ Version int }
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "not a context file: %w", err)
	}
	if version.Version > contextVersion {
		return nil, banyan.Errorf(banyan.TooNew, "format %d, this banyan (%s) knows up to %d: install a newer one", version.Version, banyan.Version, contextVersion)
	}
	var f contextFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "not a context file: %w", err)
	}
	return &f.Context, nil
}

// SaveContext writes a context for the user alone (0600), in place of one of
// the same name.
func SaveContext(dir string, c *Context) error {
	if err := validContextName(c.Name); err != nil {
		return err
	}
	b, err := json.MarshalIndent(contextFile{Version: contextVersion, Context: *c}, "", "  ")
	if err != nil {
		return banyan.Errorf(banyan.Internal, "encoding context %s: %w", c.Name, err)
	}
	path := contextPath(dir, c.Name)
	if err := MakePrivateDir(filepath.Dir(path)); err != nil {
		return err
	}
	return writePrivate(path, append(b, '\n'))
}

// ListContexts gives the names of the contexts, sorted. No directory, no contexts.
func ListContexts(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "contexts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, banyan.Errorf(banyan.Unavailable, "listing contexts: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && validContextName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// FindContext gives the context of a cluster, whatever its name; nil: there is
// none. Of several it is the current one, else the first by name.
func FindContext(dir, cluster string) (*Context, error) {
	names, err := ListContexts(dir)
	if err != nil {
		return nil, err
	}
	current, err := CurrentContext(dir)
	if err != nil {
		return nil, err
	}
	var found *Context
	for _, name := range names {
		if c, err := LoadContext(dir, name); err == nil && c.Cluster == cluster && (found == nil || name == current) {
			found = c
		}
	}
	return found, nil
}

// RenameContext gives a context another name. It stays current if it was.
func RenameContext(dir, from, to string) error {
	c, err := LoadContext(dir, from)
	if err != nil {
		return err
	}
	if err := validContextName(to); err != nil || from == to {
		return err
	}
	if _, err := os.Stat(contextPath(dir, to)); err == nil {
		return banyan.Errorf(banyan.AlreadyExists, "there is a context %q already: give another name, or remove that one first ('banyan context remove %s')", to, to)
	}
	current, err := CurrentContext(dir)
	if err != nil {
		return err
	}
	c.Name = to
	if err := SaveContext(dir, c); err != nil {
		return err
	}
	if current == from {
		if err := SetCurrentContext(dir, to); err != nil {
			return err
		}
	}
	return DeleteContext(dir, from)
}

// CurrentContext is the name of the context in use, "" if none was chosen.
func CurrentContext(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "current"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", banyan.Errorf(banyan.Unavailable, "reading which context is current: %w", err)
	}
	name := strings.TrimSpace(string(b))
	return name, validContextName(name)
}

// SetCurrentContext chooses the context in use.
func SetCurrentContext(dir, name string) error {
	if err := validContextName(name); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return banyan.Errorf(banyan.Unavailable, "creating %s: %w", dir, err)
	}
	return writePrivate(filepath.Join(dir, "current"), []byte(name+"\n"))
}

// DeleteContext removes a context, and the choice of it if it was current.
// One that is not there is fine.
func DeleteContext(dir, name string) error {
	if err := validContextName(name); err != nil {
		return err
	}
	err := os.Remove(contextPath(dir, name))
	if current, cerr := CurrentContext(dir); cerr == nil && current == name {
		err = errors.Join(err, os.Remove(filepath.Join(dir, "current")))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return banyan.Errorf(banyan.Unavailable, "deleting context %s: %w", name, err)
	}
	return nil
}
