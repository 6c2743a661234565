package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/route"
	"banyan/node/pki"
)

// comer is a newcomer that nobody has seen yet.
func comer(token string, now time.Time) newcomer {
	id := banyan.NewRequestID()
	return newcomer{token: token, request: id, key: id.String(), row: nodeRow{Name: id.String(), JoinMs: now.UnixMilli()}}
}

// newcomers gives a root shard to join at, and what makes tokens for it.
func newcomers(t *testing.T) (db *route.Router, mint func(ttl time.Duration, uses int) string) {
	t.Helper()
	n, _ := start(t, filepath.Join(t.TempDir(), "node"))
	if err := found(t.Context(), n.router, clusterRow{ID: "c"}, shardmap.New(1), nodeRow{ID: 1}); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA("c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return n.router, func(ttl time.Duration, uses int) string {
		t.Helper()
		token, _, _, err := createToken(t.Context(), n.router, ca.Fingerprint(), ttl, uses, time.Now(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
}

func TestATokenIsSpentAsOftenAsItMay(t *testing.T) {
	db, mint := newcomers(t)
	token := mint(time.Hour, 3)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		ids = map[banyan.NodeID]bool{}
	)
	for range 10 {
		wg.Go(func() {
			node, err := admit(t.Context(), db, comer(token, time.Now()), anyProtocol)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && ids[node.ID]:
				t.Errorf("node id %v was given twice", node.ID)
			case err == nil:
				ids[node.ID] = true
			case !banyan.IsKind(err, banyan.Unauthenticated):
				t.Errorf("admit: %v", err)
			}
		})
	}
	wg.Wait()
	if len(ids) != 3 {
		t.Errorf("%d nodes were let in with 3 uses: %v", len(ids), ids)
	}
	once := mint(time.Hour, 1)
	refused := errors.New("speaks another")
	if _, err := admit(t.Context(), db, comer(once, time.Now()), func(uint32) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a node that does not fit: %v", err)
	}
	var looks []uint32
	if _, err := admit(t.Context(), db, comer(once, time.Now()), func(acts uint32) error {
		if looks = append(looks, acts); len(looks) > 1 {
			return nil
		}
		_, err := db.Commit(t.Context(), banyan.RootShard, &mvcc.Command{ // the cluster rises behind the look
			Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(protocolKey), Value: strconv.AppendUint(nil, banyan.ProtocolVersion+1, 10)}},
		})
		return err
	}); err != nil || !slices.Equal(looks, []uint32{banyan.ProtocolMin, banyan.ProtocolVersion + 1}) {
		t.Errorf("joining while the protocol rises: %v, looked at %v", err, looks)
	}
	short := mint(time.Hour, 1)
	if _, err := admit(t.Context(), db, comer(short, time.Now().Add(2*time.Hour)), anyProtocol); !banyan.IsKind(err, banyan.Unauthenticated) {
		t.Errorf("an expired token: %v", err)
	}
}

func anyProtocol(uint32) error { return nil }

func TestJoinChecksTheCaller(t *testing.T) {
	now := time.Now()
	csr, _, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	good := func() *banyanv1.JoinRequest {
		return &banyanv1.JoinRequest{Name: "node", Listening: true, Protocol: banyan.ProtocolVersion, ProtocolMin: banyan.ProtocolMin, NowMs: now.UnixMilli(), Address: "127.0.0.1:1", Csr: csr}
	}
	check := func(r *banyanv1.JoinRequest, acts uint32) error {
		who, err := readNewcomer(r, now)
		if err == nil && who.request == (banyan.RequestID{}) {
			t.Error("a join without a request_id can be repeated by others without one")
		}
		return errors.Join(checkJoin(r, now), checkProtocols(r, acts), err)
	}
	for acts := uint32(banyan.ProtocolMin); acts <= banyan.ProtocolVersion; acts++ {
		if err := check(good(), acts); err != nil {
			t.Fatal(err)
		}
	}
	for name, spoil := range map[string]func(*banyanv1.JoinRequest){
		"clock":   func(r *banyanv1.JoinRequest) { r.NowMs += clockSkewMax.Milliseconds() + 1 },
		"old one": func(r *banyanv1.JoinRequest) { r.Protocol, r.ProtocolMin = banyan.ProtocolVersion-1, 0 },
		"new one": func(r *banyanv1.JoinRequest) {
			r.Protocol, r.ProtocolMin = banyan.ProtocolVersion+1, banyan.ProtocolVersion+1
		},
		"request": func(r *banyanv1.JoinRequest) { r.RequestId = []byte{1} },
		"csr":     func(r *banyanv1.JoinRequest) { r.Csr = csr[:len(csr)-1] },
		"address": func(r *banyanv1.JoinRequest) { r.Address = "nowhere" },
		"port":    func(r *banyanv1.JoinRequest) { r.Address = "127.0.0.1:0" },
		"host":    func(r *banyanv1.JoinRequest) { r.Address = "0.0.0.0:7117" },
		"escape":  func(r *banyanv1.JoinRequest) { r.Name = "\x1b[31mred" },
		"C1":      func(r *banyanv1.JoinRequest) { r.Name = "a\u009b31m" },
		"bidi":    func(r *banyanv1.JoinRequest) { r.Zone = "a\u202eb" },
		"line":    func(r *banyanv1.JoinRequest) { r.Zone = "a\u2028b" },
		"version": func(r *banyanv1.JoinRequest) { r.Version = "1\n2" },
		"no name": func(r *banyanv1.JoinRequest) { r.Name = "" },
		"name":    func(r *banyanv1.JoinRequest) { r.Name = strings.Repeat("x", banyan.NameBytesMax+1) },
	} {
		r := good()
		spoil(r)
		if err := check(r, banyan.ProtocolVersion); err == nil {
			t.Errorf("a join with a bad %s was taken", name)
		}
	}
}

// TestAJoinIsRepeated, by who made it, and spends one use of its token.
func TestAJoinIsRepeated(t *testing.T) {
	db, mint := newcomers(t)
	const tries, rounds = 64, 4
	now := time.Now()
	wide := mint(time.Hour, tries*rounds)
	for round := range banyan.NodeID(rounds) {
		hasty := comer(wide, now)
		var wg sync.WaitGroup
		for range tries {
			wg.Go(func() {
				if node, err := admit(t.Context(), db, hasty, anyProtocol); err != nil || node.ID != 2+round || node.Name != hasty.row.Name {
					t.Errorf("one of several tries at once: %+v, %v", node, err)
				}
			})
		}
		wg.Wait()
	}
	token := mint(10*time.Second, 2)
	first, second := comer(token, now), comer(token, now)
	at := func(who newcomer, after time.Duration) newcomer {
		who.row.JoinMs = now.Add(after).UnixMilli()
		return who
	}
	other := first
	other.key = "another"
	for _, step := range []struct {
		name string
		who  newcomer
		node banyan.NodeID
		kind banyan.Kind
	}{
		{"the first use", first, 6, 0},
		{"another key with the same request", other, 0, banyan.Unauthenticated},
		{"the second use", second, 7, 0},
		{"a third one", comer(token, now), 0, banyan.Unauthenticated},
		{"again when the token is used up", first, 6, 0},
		{"again when the token has expired", at(second, 20*time.Second), 7, 0},
		{"again when it is long ago", at(second, repeatMax), 0, banyan.Unauthenticated},
	} {
		node, err := admit(t.Context(), db, step.who, anyProtocol)
		if node.ID != step.node || (err == nil) != (step.node != 0) || err != nil && !banyan.IsKind(err, step.kind) {
			t.Errorf("%s: node %v, %v", step.name, node.ID, err)
		}
	}
	if _, err := editNode(t.Context(), db, 6, func(row *nodeRow) bool { row.RemovedMs = 1; return true }); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(t.Context(), db, first, anyProtocol); !banyan.IsKind(err, banyan.NotFound) {
		t.Errorf("again when the node was removed: %v", err)
	}
	for _, step := range []struct {
		after time.Duration
		left  int
	}{{0, 1 + rounds + 2}, {repeatMax, 1}} { // the wide token, and what each join left
		if err := sweepExpired(t.Context(), db, now.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		res, err := db.Read(t.Context(), banyan.RootShard, route.ReadQuery{Key: []byte(tokenPrefix), End: mvcc.PrefixEnd([]byte(tokenPrefix)), Limit: 100})
		if err != nil || len(res.Rows) != step.left {
			t.Errorf("left after %v: %d rows, %v; want %d", step.after, len(res.Rows), err, step.left)
		}
	}
}

// TestAJoinFromNowhere names an address at which nobody is reached, and one at
// which somebody else is: neither is let in, and the token is as good as before.
func TestAJoinFromNowhere(t *testing.T) {
	n, _ := run(t, Config{Dir: filepath.Join(t.TempDir(), "n1"), Listen: "127.0.0.1:0", ConfigDir: t.TempDir(), Slots: 1, Shards: 1})
	token, id, _, err := createToken(t.Context(), n.router, n.keeper.CA().Fingerprint(), time.Hour, 1, time.Now(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for what, address := range map[string]string{"nobody": l.Addr().String(), "the member": n.Address()} {
		c := Config{Dir: filepath.Join(t.TempDir(), "new"), Listen: "127.0.0.1:0", Advertise: address, Slots: 1}
		err := Join(t.Context(), c, n.Address(), token)
		if !banyan.IsKind(err, banyan.Invalid) || !strings.Contains(err.Error(), address) {
			t.Errorf("joining from where %s answers: %v", what, err)
		}
	}
	tokens, _, err := validTokens(t.Context(), n.router, time.Now())
	if err != nil || len(tokens) != 1 || tokens[0].Id != id || tokens[0].Uses != 1 {
		t.Errorf("the tokens afterwards: %v, %v", tokens, err)
	}
	if rows := n.nodes.list(); len(rows) != 1 {
		t.Errorf("%d nodes", len(rows))
	}
}

func TestTokensAreListedAndRevoked(t *testing.T) {
	db, mint := newcomers(t)
	now := time.Now()
	long, short := mint(2*time.Hour, 2), mint(time.Hour, 1)
	mint(time.Nanosecond, 1)
	if _, err := admit(t.Context(), db, comer(long, now), anyProtocol); err != nil { // leaves an admission, which is no token
		t.Fatal(err)
	}
	tokens, _, err := validTokens(t.Context(), db, now.Add(time.Second))
	if err != nil || len(tokens) != 2 || tokens[0].ExpireMs > tokens[1].ExpireMs || tokens[1].Uses != 1 || tokens[0].MadeBy != "ann" || tokens[0].CreateMs == 0 {
		t.Fatalf("%v, %v", tokens, err)
	}
	for _, id := range []string{"", "xyz", "abc", "t/0000", strings.Repeat("0", 65)} {
		if _, err := revokeToken(t.Context(), db, id, now); !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("revoking %q: %v", id, err)
		}
	}
	if was, err := revokeToken(t.Context(), db, strings.ToUpper(tokens[0].Id), now); err != nil || was.Id != tokens[0].Id {
		t.Errorf("%v, %v", was, err)
	}
	if _, err := revokeToken(t.Context(), db, tokens[0].Id, now); !banyan.IsKind(err, banyan.NotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := admit(t.Context(), db, comer(short, now), anyProtocol); !banyan.IsKind(err, banyan.Unauthenticated) {
		t.Errorf("a revoked token: %v", err)
	}
	if _, err := admit(t.Context(), db, comer(long, now), anyProtocol); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

func TestJoiningWhereNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = askToJoin(t.Context(), slog.New(slog.DiscardHandler), l.Addr().String(), "", &banyanv1.JoinRequest{})
	if !banyan.IsKind(err, banyan.Unavailable) || !strings.Contains(err.Error(), "'banyan nodes' on a member") {
		t.Error(err)
	}
}

// TestJoiningWithoutAMajority: what is missing is said, and what to do.
func TestJoiningWithoutAMajority(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if err := notLetIn(ctx, ctx.Err()); !banyan.IsKind(err, banyan.Unavailable) || !strings.Contains(err.Error(), "no majority") || strings.Contains(err.Error(), "deadline") {
		t.Error(err)
	}
	interrupted := banyan.Errorf(banyan.Canceled, "interrupted")
	if err := notLetIn(t.Context(), interrupted); !errors.Is(err, interrupted) {
		t.Error(err)
	}
}

// TestALostAnswer cuts the connection of a join before each TLS record of the
// member in turn: the token has one use, and lets one node in, at once or with
// a second attempt of somebody who could not connect.
func TestALostAnswer(t *testing.T) {
	n, _ := run(t, Config{Dir: filepath.Join(t.TempDir(), "n1"), Listen: "127.0.0.1:0", ConfigDir: t.TempDir(), Slots: 1, Shards: 1})
	members := func() int {
		res, err := n.router.Read(t.Context(), banyan.RootShard, route.ReadQuery{Key: []byte(nodePrefix), End: mvcc.PrefixEnd([]byte(nodePrefix))})
		if err != nil {
			t.Error(err)
		}
		return len(res.Rows)
	}
	var late atomic.Int32 // cut after the commit
	for record := 1; ; record++ {
		have := members()
		var cut atomic.Bool
		addr := cutter(t, n.Address(), record, func() {
			cut.Store(true)
			if members() > have {
				late.Add(1)
			}
		})
		token, _, _, err := createToken(t.Context(), n.router, n.keeper.CA().Fingerprint(), time.Hour, 1, time.Now(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		c := Config{Dir: filepath.Join(t.TempDir(), "new"), Listen: "127.0.0.1:0", Slots: 1}
		err = Join(t.Context(), c, addr, token)
		if err != nil && members() == have {
			err = Join(t.Context(), c, addr, token)
		}
		if err != nil || members() != have+1 {
			t.Fatalf("cut before record %d: %v, %d nodes more", record, err, members()-have)
		}
		if f, err := readNodeFile(c); err != nil || int(f.Node) != have+1 {
			t.Fatalf("cut before record %d: %+v, %v", record, f, err)
		}
		if !cut.Load() {
			break
		}
	}
	if late.Load() == 0 {
		t.Error("no answer was lost")
	}
}

// cutter is a way to addr that breaks its first connection off when the n-th
// TLS record comes back. It calls cut before.
func cutter(t *testing.T, addr string, n int, cut func()) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	t.Cleanup(passing.Wait)
	t.Cleanup(func() { _ = l.Close() })
	passing.Go(func() {
		for first := true; ; first = false {
			near, err := l.Accept()
			if err != nil {
				return
			}
			passing.Go(func() {
				defer near.Close()
				far, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer far.Close()
				go func() { _, _ = io.Copy(far, near) }() // ends with the connections
				head := make([]byte, 5)
				for record := 1; ; record++ {
					if _, err := io.ReadFull(far, head); err != nil {
						return
					}
					if first && record == n {
						cut()
						return
					}
					_, _ = near.Write(head)
					if _, err := io.CopyN(near, far, int64(binary.BigEndian.Uint16(head[3:]))); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}
