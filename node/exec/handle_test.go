//go:build unix

package exec

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"banyan"
)

// A task that puts a link to the node's keys where its directory was gets back
// what it left in the directory, and the cleaning follows no link either.
func TestASwappedDirectoryGivesNothingOutside(t *testing.T) {
	for name, script := range map[string]string{
		"link":      `touch mine; d=$PWD; cd /; mv "$d" "$d.moved"; ln -s "$KEYS" "$d"`,
		"removed":   `touch mine; d=$PWD; cd /; rm -r "$d"; ln -s "$KEYS" "$d"`,
		"directory": `touch mine; d=$PWD; cd /; mv "$d" ../w77; mkdir "$d"; cp -r "$KEYS" "$d"; rm -rf ../w77; mv "$d" "$KEYS.copy"`,
		"inside":    `ln -s "$KEYS" keys; ln -s "$KEYS/ca.key" key`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			keys := t.TempDir()
			if err := os.WriteFile(filepath.Join(keys, "ca.key"), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			p := open(t, r, "")
			res := r.Run(context.Background(), p, Command{Args: []string{"/bin/sh", "-c", script}, Env: append(testEnv, "KEYS="+keys)})
			if !res.OK() {
				t.Fatalf("%+v, %s", res, text(t, p.Stderr()))
			}
			root, err := p.Root()
			if err == nil {
				for _, n := range []string{"ca.key", "keys/ca.key", "key"} {
					if f, err := root.Open(n); err == nil {
						t.Errorf("%s was read", n)
						f.Close()
					}
				}
				root.Close()
			}
			p.Release()
			if _, err := os.Stat(filepath.Join(keys, "ca.key")); err != nil {
				t.Errorf("what a link led to was removed: %v", err)
			}
			os.RemoveAll(keys + ".copy")
		})
	}
}

// No job works in the node's directory, by whatever name; one that works above
// it gets no file from there and puts none there.
func TestTheNodesDirectoryIsNoWorkingDirectory(t *testing.T) {
	home := t.TempDir()
	node := filepath.Join(home, "node")
	other := filepath.Join(home, "other")
	for _, d := range []string{filepath.Join(node, "pki"), other} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(home, "link")
	if err := os.Symlink(node, link); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Dir: filepath.Join(node, "tasks"), Private: link})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, dir := range []string{node, filepath.Join(node, "pki"), link, filepath.Join(link, "pki"), filepath.Join(other, "../node/tasks")} {
		if p, err := r.Open(dir); !banyan.IsKind(err, banyan.PermissionDenied) {
			t.Errorf("%s: %v, %v", dir, p, err)
		}
	}
	for dir, want := range map[string]bool{other: true, home: false, "/": false} {
		p := open(t, r, dir)
		if res := r.Run(context.Background(), p, Command{Args: []string{"/bin/sh", "-c", "pwd -P"}, Env: testEnv}); !res.OK() || text(t, p.Stdout()) != dir+"\n" {
			t.Errorf("%s: %+v, %q", dir, res, text(t, p.Stdout()))
		}
		root, err := p.Root()
		if (err == nil) != want || err != nil && !banyan.IsKind(err, banyan.PermissionDenied) {
			t.Errorf("%s: %v", dir, err)
		}
		if err == nil {
			root.Close()
		}
		p.Release()
	}
	p := open(t, r, "")
	defer p.Release()
	if err := os.Rename(p.Dir(), p.Dir()+"x"); err != nil {
		t.Fatal(err)
	}
	if root, err := p.Root(); err != nil {
		t.Error(err)
	} else if _, err := fs.ReadDir(root.FS(), "."); err != nil {
		t.Error(err)
	}
}
