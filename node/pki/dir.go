package pki

import (
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"banyan"
)

// The files of a node's directory.
const (
	caCertFile   = "ca.crt"
	caKeyFile    = "ca.key"
	nodeCertFile = "node.crt"
	nodeKeyFile  = "node.key"
)

const (
	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY"
)

// fileBytesMax bounds what is read from a certificate, key or context file.
const fileBytesMax = 1 << 20

type dirFiles struct{ caCert, caKey, cert, key []byte } // DER

// SaveDir writes what a node needs into dir, which it creates with mode 0700
// or refuses if others can read it. node.crt is written last: a directory
// without it was never finished and may be written again.
func SaveDir(dir string, ca *CA, nodeCertDER, nodeKeyDER []byte) error {
	if err := MakePrivateDir(dir); err != nil {
		return err
	}
	if err := CheckOwned(dir); err != nil {
		return err
	}
	caKey, err := ca.KeyDER()
	if err != nil {
		return banyan.Errorf(banyan.Internal, "encoding the authority's key: %w", err)
	}
	if err := writePEM(dir, caKeyFile, pemKey, caKey); err != nil {
		return err
	}
	if err := writePEM(dir, caCertFile, pemCert, ca.CertDER()); err != nil {
		return err
	}
	return saveNode(dir, nodeCertDER, nodeKeyDER)
}

// saveNode writes the key first; OpenKeeper mends what a crash in between leaves.
func saveNode(dir string, certDER, keyDER []byte) error {
	if err := writePEM(dir, nodeKeyFile, pemKey, keyDER); err != nil {
		return err
	}
	return writePEM(dir, nodeCertFile, pemCert, certDER)
}

func loadDir(dir string) (f dirFiles, err error) {
	if _, err := os.Stat(filepath.Join(dir, nodeCertFile)); errors.Is(err, fs.ErrNotExist) {
		return f, banyan.Errorf(banyan.NotFound, "%s holds no node's certificate: start a cluster with 'banyan up' or join one with 'banyan join'", dir)
	}
	if err := CheckOwned(dir); err != nil {
		return f, err
	}
	for _, file := range []struct {
		name, block string
		into        *[]byte
	}{
		{caCertFile, pemCert, &f.caCert},
		{caKeyFile, pemKey, &f.caKey},
		{nodeCertFile, pemCert, &f.cert},
		{nodeKeyFile, pemKey, &f.key},
	} {
		if *file.into, err = readPEM(dir, file.name, file.block); err != nil {
			return f, err
		}
	}
	return f, nil
}

// MakePrivateDir creates dir with mode 0700, or checks that nobody else can
// read the one that is there.
func MakePrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return banyan.Errorf(banyan.Unavailable, "creating %s: %w", dir, err)
	}
	return CheckPrivate(dir)
}

func readPEM(dir, name, block string) ([]byte, error) {
	path := filepath.Join(dir, name)
	b, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	p, _ := pem.Decode(b)
	if p == nil || p.Type != block {
		return nil, banyan.Errorf(banyan.Corrupt, "%s holds no %s in PEM: restore it from a backup", path, block)
	}
	return p.Bytes, nil
}

// readPrivate reads a file of bounded size that nobody else can read.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, banyan.Errorf(banyan.NotFound, "%s is missing: restore it from a backup: %w", path, err)
	}
	if err != nil {
		return nil, banyan.Errorf(banyan.Unavailable, "reading %s: %w", path, err)
	}
	if info.Size() > fileBytesMax {
		return nil, banyan.Errorf(banyan.Corrupt, "%s has %d bytes, more than the %d such a file can have", path, info.Size(), fileBytesMax)
	}
	if err := CheckPrivate(path); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, banyan.Errorf(banyan.Unavailable, "reading %s: %w", path, err)
	}
	return b, nil
}

func writePEM(dir, name, block string, der []byte) error {
	return writePrivate(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}))
}

// WritePrivate replaces a file as a whole, whatever mode the old one had, with
// one of mode 0600.
func WritePrivate(path string, b []byte) error { return writePrivate(path, b) }

// writePrivate replaces a file as a whole, mode 0600, and returns when it is on disk.
func writePrivate(path string, b []byte) error {
	err := func() error {
		f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
		if err != nil {
			return err
		}
		defer os.Remove(f.Name()) // gone already when all went well
		_, err = f.Write(b)
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := os.Rename(f.Name(), path); err != nil {
			return err
		}
		return syncDir(filepath.Dir(path))
	}()
	if err != nil {
		return banyan.Errorf(banyan.Unavailable, "writing %s: %w", path, err)
	}
	return nil
}
