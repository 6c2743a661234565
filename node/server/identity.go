package server

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banyan"
	"banyan/core/shardmap"
	"banyan/engine/store"
	"banyan/node/pki"
)

// nodeFileVersion is the version of node.json this binary writes.
const nodeFileVersion = 2

// nodeFile is node.json: who this node is, and where it last knew the others.
// It is written last when a node is created, so that its presence says that
// the directory is whole.
type nodeFile struct {
	Version int                      `json:"version"`
	Cluster string                   `json:"cluster"`
	Node    banyan.NodeID            `json:"node"`
	Name    string                   `json:"name"`
	Zone    string                   `json:"zone,omitempty"`
	Listen  string                   `json:"listen,omitempty"`
	Address string                   `json:"address,omitempty"`
	Slots   int                      `json:"slots"`
	Memory  int64                    `json:"memory,omitempty"` // 0: what the machine has
	Peers   map[banyan.NodeID]string `json:"peers,omitempty"`
}

// readNodeFile gives nil, nil for a directory that holds no node yet.
func readNodeFile(c Config) (*nodeFile, error) {
	text, err := os.ReadFile(c.nodeFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, checkEmpty(c.Dir)
	}
	if err != nil {
		return nil, err
	}
	var v struct{ Version int }
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "%s is damaged (%w): restore it from a copy, or let this machine join anew with an empty directory", c.nodeFile(), err)
	}
	if v.Version > nodeFileVersion {
		return nil, banyan.Errorf(banyan.TooNew, "%s has format %d, this binary knows up to %d: run the newer banyan that wrote it", c.nodeFile(), v.Version, nodeFileVersion)
	}
	if v.Version < nodeFileVersion {
		return nil, banyan.Errorf(banyan.TooNew, "%s has format %d, this binary (banyan %s) reads format %d only and does not convert: run the release that wrote it, or begin with a new directory", c.nodeFile(), v.Version, banyan.Version, nodeFileVersion)
	}
	var f nodeFile
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		if _, field, ok := strings.Cut(err.Error(), "unknown field "); ok {
			return nil, banyan.Errorf(banyan.Invalid, "%s has the field %s, which banyan %s does not know: take it out if it was put there by hand; if a newer banyan wrote it, start that one", c.nodeFile(), field, banyan.Version)
		}
		return nil, banyan.Errorf(banyan.Corrupt, "%s is damaged (%w): restore it from a copy, or let this machine join anew with an empty directory", c.nodeFile(), err)
	}
	if f.Node == 0 {
		return nil, banyan.Errorf(banyan.Corrupt, "%s names no node: restore it from a copy", c.nodeFile())
	}
	return &f, nil
}

// Holds says which node a directory holds, and where others reach it.
func Holds(c Config) (node banyan.NodeID, cluster, address string, err error) {
	f, err := readNodeFile(c)
	if err == nil && f == nil {
		err = banyan.Errorf(banyan.NotFound, "%s holds no node", c.Dir)
	}
	if err != nil {
		return 0, "", "", err
	}
	return f.Node, f.Cluster, f.Address, nil
}

// checkEmpty refuses a directory with files in it but no node.json.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) == 0 && err == nil {
		return nil
	}
	if err != nil {
		return err
	}
	return banyan.Errorf(banyan.Invalid, "%s is not empty and holds no whole node (no node.json; it has %q): give an empty directory, or remove this one if an earlier start was cut off", dir, entries[0].Name())
}

// write replaces node.json atomically and waits for the disk.
func (f *nodeFile) write(c Config) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(c, c.nodeFile(), text, !c.Embedded)
}

// replaceFile replaces a file of the node's directory atomically.
func replaceFile(c Config, path string, text []byte, sync bool) error {
	tmp, err := os.CreateTemp(c.Dir, ".node.json-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(text, '\n'))
	if err == nil && sync {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return os.Rename(tmp.Name(), path)
}

// prepareDir makes the directory, and refuses one that others own or can read.
func prepareDir(c Config) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return banyan.Errorf(banyan.Invalid, "cannot make the directory %s (%w): give another with --dir", c.Dir, err)
	}
	return pki.CheckOwned(c.Dir)
}

func newClusterID() string {
	var b [6]byte
	rand.Read(b[:])
	return "c" + hex.EncodeToString(b[:])
}

// create makes the first node of a new cluster: its authority, its
// certificate, and every shard with this node as the only voter.
func create(c Config) (*nodeFile, error) {
	f := &nodeFile{
		Version: nodeFileVersion, Cluster: newClusterID(), Node: 1,
		Name: c.Name, Zone: c.Zone, Listen: c.Listen, Address: c.Advertise, Slots: c.Slots, Memory: c.Memory,
	}
	if !c.Embedded {
		if err := createTrust(c, f.Cluster); err != nil {
			return nil, err
		}
	}
	st, err := store.Open(c.storeDir(), store.Options{Logger: c.Logger})
	if err != nil {
		return nil, err
	}
	err = st.SetIdentity(store.Identity{Cluster: f.Cluster, Node: f.Node})
	m := shardmap.New(c.Shards)
	if err == nil {
		err = beginShards(st, m, m.All(), f.Node)
	}
	if err == nil {
		err = writeMap(st, m)
	}
	if err = errors.Join(err, st.Close()); err != nil {
		return nil, err
	}
	return f, f.write(c)
}

// checkStore refuses to make an empty store where a node's was: its replicas
// would have forgotten what they promised.
func checkStore(c Config, f *nodeFile) error {
	_, err := os.Stat(c.storeDir())
	if errors.Is(err, fs.ErrNotExist) {
		return errNoStore(c, f)
	}
	return err
}

func errNoStore(c Config, f *nodeFile) error {
	return banyan.Errorf(banyan.Corrupt, "%s says that this is node %v of cluster %s, but its data is missing: %s is not there, or is empty. Put that directory back as it was (is its disk mounted?); if it is lost, move %s away and let this machine join as a new node", c.nodeFile(), f.Node, f.Cluster, c.storeDir(), c.Dir)
}

func createTrust(c Config, cluster string) error {
	now := time.Now()
	ca, err := pki.NewCA(cluster, now)
	if err != nil {
		return err
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		return err
	}
	cert, err := ca.Sign(csr, nodeSubject(1), now, pki.NodeTTL)
	if err != nil {
		return err
	}
	return pki.SaveDir(c.pkiDir(), ca, cert, key)
}

// nodeSubject is whom a node's certificate names. Whoever connects is shown it,
// strangers too, so it holds no name that people gave.
func nodeSubject(id banyan.NodeID) pki.Subject {
	return pki.Subject{Kind: pki.Node, Name: id.String(), Node: id}
}

// writeContext gives the operator of this machine a certificate and makes the
// cluster the one that commands find.
func writeContext(configDir string, keeper *pki.Keeper, addresses []string) error {
	ca := keeper.CA()
	csr, key, err := pki.NewRequest()
	if err != nil {
		return err
	}
	cert, err := ca.Sign(csr, pki.Subject{Kind: pki.User, Name: "operator"}, time.Now(), pki.UserTTL)
	if err != nil {
		return err
	}
	ctx, err := pki.NewContext(ca.Cluster(), addresses, ca.CertDER(), cert, key)
	if err != nil {
		return err
	}
	if err := pki.SaveContext(configDir, ctx); err != nil {
		return err
	}
	return pki.SetCurrentContext(configDir, ctx.Name)
}

// sweep removes what an interrupted write of node.json left behind.
func sweep(c Config) {
	left, _ := filepath.Glob(filepath.Join(c.Dir, ".node.json-*"))
	for _, path := range left {
		_ = os.Remove(path) // tried again at the next start
	}
}
