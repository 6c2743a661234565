package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
)

var nodeOne = Subject{Kind: Node, Name: "one", Node: 1}

func testCA(t testing.TB, cluster string) *CA {
	t.Helper()
	ca, err := NewCA(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func testKeeper(t testing.TB, ca *CA, s Subject) *Keeper {
	t.Helper()
	k, err := NewKeeper(ca, s, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantKind(t *testing.T, err error, kind banyan.Kind, words ...string) {
	t.Helper()
	if !banyan.IsKind(err, kind) {
		t.Fatalf("got %v, want an error of kind %s", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// handshake runs a TLS handshake and one byte each way, so that the client
// also learns what the server thinks of its certificate.
func handshake(t *testing.T, server, client *tls.Config) (*tls.ConnectionState, error, error) {
	t.Helper()
	a, b := net.Pipe()
	sc, cc := tls.Server(a, server), tls.Client(b, client)
	serverErr := make(chan error, 1)
	go func() {
		defer a.Close()
		err := sc.Handshake()
		if err == nil {
			_, err = sc.Write([]byte{1})
		}
		serverErr <- err
	}()
	err := cc.Handshake()
	if err == nil {
		_, err = io.ReadFull(cc, make([]byte, 1))
	}
	b.Close()
	state := sc.ConnectionState()
	return &state, <-serverErr, err
}

func TestSubjects(t *testing.T) {
	ca := testCA(t, "c1")
	csr, _, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Subject{
		nodeOne,
		{Kind: Node, Name: "..", Node: 1 << 63},
		{Kind: User, Name: "Zoë %2f ? # @ x"},
	} {
		der, err := ca.Sign(csr, s, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		got, cluster, err := SubjectOf(cert)
		if err != nil || got != s || cluster != "c1" {
			t.Errorf("SubjectOf = %+v %q %v, want %+v", got, cluster, err, s)
		}
	}
	for _, s := range []Subject{
		{}, {Kind: Node, Name: "x"}, {Kind: User, Name: "x", Node: 1}, {Kind: User},
		{Kind: "admin", Name: "x"}, {Kind: User, Name: "a/b"}, {Kind: User, Name: "a\nb"}, {Kind: User, Name: "\xff"},
		{Kind: User, Name: strings.Repeat("x", banyan.NameBytesMax+1)},
	} {
		_, err := ca.Sign(csr, s, time.Now(), time.Hour)
		wantKind(t, err, banyan.Invalid)
	}
	if _, err := NewCA("a/b", time.Now()); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("bad cluster id: %v", err)
	}
	_, err = ca.Sign([]byte("junk"), nodeOne, time.Now(), time.Hour)
	wantKind(t, err, banyan.Invalid)
}

func TestHandshakes(t *testing.T) {
	ca, other := testCA(t, "ours"), testCA(t, "theirs")
	one, two := testKeeper(t, ca, nodeOne), testKeeper(t, ca, Subject{Kind: Node, Name: "two", Node: 2})
	foreign := testKeeper(t, other, nodeOne)
	impostor := testKeeper(t, testCA(t, "ours"), nodeOne) // another authority of the same name
	user := testKeeper(t, ca, Subject{Kind: User, Name: "ann"})
	clientOf := func(k *Keeper) *tls.Config { return k.ClientTLS("x") }

	state, serr, cerr := handshake(t, one.ServerTLS("x"), clientOf(two))
	if serr != nil || cerr != nil {
		t.Fatalf("node to node: %v, %v", serr, cerr)
	}
	if s, _, err := SubjectOf(state.PeerCertificates[0]); err != nil || s.Node != 2 || len(state.VerifiedChains) == 0 || state.Version != tls.VersionTLS13 {
		t.Errorf("the server sees %+v, %v", s, err)
	}
	_, _, err := handshake(t, foreign.ServerTLS("x"), clientOf(one))
	wantKind(t, err, banyan.Unauthenticated, "theirs", "ours")
	_, _, err = handshake(t, impostor.ServerTLS("x"), clientOf(one))
	wantKind(t, err, banyan.Unauthenticated, "not good")
	_, _, err = handshake(t, user.ServerTLS("x"), clientOf(one))
	wantKind(t, err, banyan.Unauthenticated)

	// A caller of another cluster that does not mind whom it talks to.
	careless := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"x"}, GetClientCertificate: clientOf(foreign).GetClientCertificate}
	_, serr, err = handshake(t, one.ServerTLS("x"), careless)
	if serr == nil {
		t.Fatal("the server let another cluster's certificate in")
	}
	wantKind(t, Explain("1.2.3.4:5", err), banyan.Unauthenticated, "1.2.3.4:5", "context")

	state, serr, cerr = handshake(t, one.ServerTLS("x"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"x"}})
	if serr != nil || cerr != nil || len(state.PeerCertificates) != 0 {
		t.Errorf("without a certificate (Join): %v, %v", serr, cerr)
	}
	_, serr, _ = handshake(t, one.ServerTLS("x"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"x"}, MaxVersion: tls.VersionTLS12})
	if serr == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

func TestPinned(t *testing.T) {
	ca := testCA(t, "ours")
	server := testKeeper(t, ca, nodeOne).ServerTLS("h2")
	if _, serr, cerr := handshake(t, server, PinnedTLS(ca.Fingerprint())); serr != nil || cerr != nil {
		t.Fatalf("pinned: %v, %v", serr, cerr)
	}
	_, _, err := handshake(t, server, PinnedTLS(testCA(t, "ours").Fingerprint()))
	wantKind(t, err, banyan.Unauthenticated, "token")

	// The pinned authority's certificate is public: showing it proves nothing.
	liar := testKeeper(t, testCA(t, "ours"), nodeOne)
	cert := *liar.current.Load()
	cert.Certificate = [][]byte{cert.Certificate[0], ca.CertDER()}
	liar.current.Store(&cert)
	_, _, err = handshake(t, liar.ServerTLS("h2"), PinnedTLS(ca.Fingerprint()))
	wantKind(t, err, banyan.Unauthenticated)
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := testKeeper(t, testCA(t, "c"), nodeOne)
		server, client := k.ServerTLS("x"), k.ClientTLS("x")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.Run(ctx, slog.New(slog.DiscardHandler))
		}()
		first := k.Certificate()
		time.Sleep(NodeTTL / 2)
		synctest.Wait()
		if k.Certificate() != first {
			t.Error("renewed with half its life left")
		}
		time.Sleep(NodeTTL * 3 / 4)
		synctest.Wait()
		if k.Certificate() == first {
			t.Fatal("not renewed")
		}
		if !time.Now().After(first.NotAfter) {
			t.Fatal("the first certificate has not expired: the test proves nothing")
		}
		state, serr, cerr := handshake(t, server, client) // made before the renewal
		if serr != nil || cerr != nil {
			t.Fatalf("after rotation: %v, %v", serr, cerr)
		}
		if !state.PeerCertificates[0].Equal(k.Certificate()) {
			t.Error("the client still shows the old certificate")
		}
		cancel()
		<-done
	})
}

func saved(t *testing.T) (dir string, ca *CA) {
	t.Helper()
	ca = testCA(t, "c")
	dir = filepath.Join(t.TempDir(), "pki")
	csr, key, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(csr, nodeOne, time.Now(), NodeTTL)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveDir(dir, ca, cert, key); err != nil {
		t.Fatal(err)
	}
	return dir, ca
}

func TestDir(t *testing.T) {
	dir, ca := saved(t)
	k, err := OpenKeeper(dir, time.Now)
	if err != nil || k.Subject() != nodeOne || k.CA().Fingerprint() != ca.Fingerprint() {
		t.Fatalf("%+v, %v", k, err)
	}
	_, err = OpenKeeper(t.TempDir(), time.Now)
	wantKind(t, err, banyan.NotFound, "banyan up")

	// Expired while the node was off.
	later := func() time.Time { return time.Now().Add(2 * NodeTTL) }
	renewed, err := OpenKeeper(dir, later)
	if err != nil || renewed.Certificate().NotAfter.Before(later()) {
		t.Fatalf("not renewed at the start: %v", err)
	}
	// A renewal cut short between its two files.
	_, key, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	if err := writePEM(dir, nodeKeyFile, pemKey, key); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeeper(dir, time.Now); err != nil {
		t.Fatalf("half a renewal: %v", err)
	}
	again, err := OpenKeeper(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, serr, cerr := handshake(t, again.ServerTLS("x"), again.ClientTLS("x")); serr != nil || cerr != nil {
		t.Fatalf("%v, %v", serr, cerr)
	}
}

func TestDirRefusals(t *testing.T) {
	dir, _ := saved(t)
	other, _ := saved(t)
	mixed, err := os.ReadFile(filepath.Join(other, nodeCertFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := writePrivate(filepath.Join(dir, nodeCertFile), mixed); err != nil {
		t.Fatal(err)
	}
	_, err = OpenKeeper(dir, time.Now)
	wantKind(t, err, banyan.Corrupt, "mixed")

	if err := os.WriteFile(filepath.Join(other, caKeyFile), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenKeeper(other, time.Now)
	wantKind(t, err, banyan.Corrupt, caKeyFile)
}

func TestPrivacy(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access lists, not modes")
	}
	dir, _ := saved(t)
	for _, name := range []string{caKeyFile, caCertFile, nodeKeyFile, nodeCertFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, nodeKeyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := OpenKeeper(dir, time.Now)
	wantKind(t, err, banyan.PermissionDenied, "chmod 600 "+filepath.Join(dir, nodeKeyFile))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = OpenKeeper(dir, time.Now)
	wantKind(t, err, banyan.PermissionDenied, "chmod 700 "+dir)
	wantKind(t, MakePrivateDir(dir), banyan.PermissionDenied)
	if os.Geteuid() == 0 { // only root can give a directory away
		if err := errors.Join(os.Chmod(dir, 0o700), os.Chmod(filepath.Join(dir, nodeKeyFile), 0o600), os.Chown(dir, 12345, -1)); err != nil {
			t.Fatal(err)
		}
		_, err = OpenKeeper(dir, time.Now)
		wantKind(t, err, banyan.PermissionDenied, "owned by the user 12345")
	}
	open := filepath.Join(t.TempDir(), "key")
	if err := errors.Join(os.WriteFile(open, nil, 0o666), os.Chmod(open, 0o666), WritePrivate(open, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(open); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("written over an open file: %v, %v", info.Mode(), err)
	}
}

// TestWeakKeys are not signed: Go's TLS does not speak P-224 and RSA is not ours.
func TestWeakKeys(t *testing.T) {
	for curve, ok := range map[elliptic.Curve]bool{elliptic.P224(): false, elliptic.P256(): true, elliptic.P384(): true} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := RequestKey(csr); (err == nil) != ok || err != nil && !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("%s: %v", curve.Params().Name, err)
		}
	}
}

func TestTokens(t *testing.T) {
	ca := testCA(t, "c")
	token, hash, err := NewToken(ca.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{token, "  " + strings.ToUpper(token) + "\n", strings.ReplaceAll(token, "0", "o"), token[:40] + "\r\n  " + token[40:]} {
		secret, pin, err := ParseToken(text)
		if err != nil || pin != ca.Fingerprint() || HashToken(secret) != hash {
			t.Errorf("%q: %x %s %v", text, secret, pin, err)
		}
	}
	if again, _, _ := NewToken(ca.Fingerprint()); again == token {
		t.Error("two tokens are the same")
	}
	for i := len(tokenPrefix) + 2; i < len(token); i++ {
		other := byte('x')
		if token[i] == other {
			other = 'y'
		}
		// The very last character holds bits beyond the body.
		_, _, err := ParseToken(token[:i] + string(other) + token[i+1:])
		if i < len(token)-1 {
			wantKind(t, err, banyan.Invalid, "mistyped")
		}
	}
	_, _, err = ParseToken(token[:len(token)-1])
	wantKind(t, err, banyan.Invalid, "cut")
	_, _, err = ParseToken("hello")
	wantKind(t, err, banyan.Invalid, "banyan token")
	_, _, err = ParseToken("banyan-2-" + token[len("banyan-1-"):])
	wantKind(t, err, banyan.TooNew)
	_, _, err = NewToken("abc")
	wantKind(t, err, banyan.Invalid)
}

func FuzzParseToken(f *testing.F) {
	token, _, err := NewToken(strings.Repeat("ab", fingerprintBytes))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("banyan-1-")
	f.Add("banyan--")
	f.Add("BAnYAn-1-000000000000000000000000000000000000000000000000000000000000\r00000000000000000000000")
	f.Fuzz(func(t *testing.T, s string) {
		secret, pin, err := ParseToken(s)
		if err == nil && (len(secret) != secretBytes || len(pin) != 2*fingerprintBytes) {
			t.Fatalf("%x %s", secret, pin)
		}
		if err != nil && banyan.KindOf(err) == banyan.Internal {
			t.Fatal(err)
		}
	})
}

func TestContexts(t *testing.T) {
	ca := testCA(t, "c1")
	csr, key, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(csr, Subject{Kind: User, Name: "ann"}, time.Now(), UserTTL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewContext("home", []string{"a:1", "b:2"}, ca.CertDER(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "config")
	t.Setenv("BANYAN_CONFIG", dir)
	if got, err := ConfigDir(); err != nil || got != dir {
		t.Fatalf("ConfigDir = %q, %v", got, err)
	}
	if name, err := CurrentContext(dir); name != "" || err != nil {
		t.Errorf("current before any: %q, %v", name, err)
	}
	if err := errors.Join(SaveContext(dir, c), SetCurrentContext(dir, "home")); err != nil {
		t.Fatal(err)
	}
	got, err := LoadContext(dir, "home")
	if err != nil || got.Cluster != "c1" || len(got.Addresses) != 2 || got.Key != c.Key {
		t.Fatalf("%+v, %v", got, err)
	}
	if got.RenewDue(time.Now()) || !got.RenewDue(time.Now().Add(UserTTL*3/4)) {
		t.Error("RenewDue")
	}
	client, err := got.TLS()
	if err != nil {
		t.Fatal(err)
	}
	server := testKeeper(t, ca, nodeOne).ServerTLS("h2")
	if state, serr, cerr := handshake(t, server, client); serr != nil || cerr != nil || len(state.VerifiedChains) == 0 {
		t.Fatalf("%v, %v", serr, cerr)
	}
	names, err := ListContexts(dir)
	current, cerr := CurrentContext(dir)
	if err != nil || cerr != nil || len(names) != 1 || names[0] != "home" || current != "home" {
		t.Errorf("%q %q %v %v", names, current, err, cerr)
	}
	if err := DeleteContext(dir, "home"); err != nil {
		t.Fatal(err)
	}
	if current, err := CurrentContext(dir); current != "" || err != nil {
		t.Errorf("a deleted context is still current: %q, %v", current, err)
	}
}

func TestContextRefusals(t *testing.T) {
	dir := t.TempDir()
	_, err := LoadContext(dir, "home")
	wantKind(t, err, banyan.NotFound, "home")
	_, err = LoadContext(dir, "../home")
	wantKind(t, err, banyan.Invalid)
	_, err = decodeContext([]byte(`{"version":2}`))
	wantKind(t, err, banyan.TooNew)
	_, err = decodeContext([]byte(`{"version":1,"nick":"x"}`))
	wantKind(t, err, banyan.Corrupt, "nick")
	_, err = decodeContext([]byte(`junk`))
	wantKind(t, err, banyan.Corrupt)

	ca := testCA(t, "c")
	csr, key, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	old, err := ca.Sign(csr, Subject{Kind: User, Name: "ann"}, time.Now().Add(-2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewContext("home", nil, ca.CertDER(), old, key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.TLS()
	wantKind(t, err, banyan.Unauthenticated, "home", "expired")
}

func FuzzDecodeContext(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"x","addresses":["a:1"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeContext(b)
		if err == nil {
			_, _ = c.TLS()
			c.RenewDue(time.Time{})
		}
	})
}

func BenchmarkNewCluster(b *testing.B) {
	for b.Loop() {
		ca := testCA(b, "c")
		testKeeper(b, ca, nodeOne)
	}
}

// TestACertificateOfTheFutureIsRenewed: one made while the clock was ahead is
// accepted by nobody until its day, as an expired one is.
func TestACertificateOfTheFutureIsRenewed(t *testing.T) {
	now := time.Now()
	ca, err := NewCA("c-test", now)
	if err != nil {
		t.Fatal(err)
	}
	ahead := now.Add(30 * 24 * time.Hour)
	clock := ahead
	k, err := NewKeeper(ca, Subject{Kind: Node, Name: "n", Node: 1}, func() time.Time { return clock })
	if err != nil {
		t.Fatal(err)
	}
	clock = now
	if renewed, err := k.Renew(); err != nil || !renewed || k.Certificate().NotBefore.After(now) {
		t.Errorf("renewed %v, %v, valid from %v", renewed, err, k.Certificate().NotBefore)
	}
	if renewed, err := k.Renew(); err != nil || renewed {
		t.Errorf("renewed again: %v, %v", renewed, err)
	}
}
