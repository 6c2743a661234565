package cli

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/node/pki"
)

// writeTestContext makes a context and chooses it.
func writeTestContext(t *testing.T, dir, name string, addresses ...string) {
	t.Helper()
	ca, err := pki.NewCA("c-"+name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(csr, pki.Subject{Kind: pki.User, Name: "ann"}, time.Now(), pki.UserTTL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.NewContext(name, addresses, ca.CertDER(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.SaveContext(dir, c); err != nil {
		t.Fatal(err)
	}
	if err := pki.SetCurrentContext(dir, name); err != nil {
		t.Fatal(err)
	}
}

func TestContextsAreRenamedAndRemoved(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "config")
	writeTestContext(t, dir, "work", "127.0.0.1:1")
	writeTestContext(t, dir, "home", "127.0.0.1:2")
	for _, c := range []struct {
		args string
		code int
		says string
		left []string
		now  string
	}{
		{"context rename home work", 1, "already", []string{"home", "work"}, "home"},
		{"context rename home ../x", 1, "bad context name", []string{"home", "work"}, "home"},
		{"context rename nowhere x", 1, "there is no context", []string{"home", "work"}, "home"},
		{"context rename home house", 0, "", []string{"house", "work"}, "house"},
		{"context rename work office", 0, "", []string{"house", "office"}, "house"},
		{"context remove nowhere", 1, "there is no context", []string{"house", "office"}, "house"},
		{"context remove office", 0, "", []string{"house"}, "house"},
		{"context remove house", 0, "", nil, ""},
	} {
		_, errs, code := doIn(t, home, nil, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit %d: %s", c.args, code, errs)
		}
		names, err := pki.ListContexts(dir)
		now, cerr := pki.CurrentContext(dir)
		if err != nil || cerr != nil || !slices.Equal(names, c.left) || now != c.now {
			t.Errorf("%s: left %v, current %q, %v %v", c.args, names, now, err, cerr)
		}
	}
}

// TestAStoppedClusterDoesNotHideTheWayOn: 'run' with the context of a cluster
// that is not up says in a second what else there is to do.
func TestAStoppedClusterDoesNotHideTheWayOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	home := t.TempDir()
	writeTestContext(t, filepath.Join(home, "config"), "stopped", l.Addr().String())
	_, errs, code := doIn(t, home, nil, "", "run", "true", ":::", "1")
	if code != 255 || !strings.Contains(errs, "--local") || !strings.Contains(errs, "context remove stopped") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestACorrectedAddressStays: the address that answers is not replaced by those
// that the nodes had before.
func TestACorrectedAddressStays(t *testing.T) {
	dir := t.TempDir()
	writeTestContext(t, dir, "moved", "127.0.0.1:9")
	c, err := pki.LoadContext(dir, "moved")
	if err != nil {
		t.Fatal(err)
	}
	cl := (&fakeCluster{nodes: [][]*banyanv1.Node{nil}}).session(t).Client
	if _, err := cl.Cluster().Map(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Addresses = []string{cl.Answers(), "10.0.0.1:1"}
	s := &session{Client: cl, dir: dir, context: c}
	if err := s.remember([]*banyanv1.Node{{Id: 1, Address: "10.0.0.9:1"}}); err != nil {
		t.Fatal(err)
	}
	if want := []string{cl.Answers(), "10.0.0.9:1"}; !slices.Equal(c.Addresses, want) {
		t.Errorf("addresses %v, want %v", c.Addresses, want)
	}
}
