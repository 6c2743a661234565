//go:build unix

package e2e

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/node/pki"
)

// history is what some clients asked while faults came and went, and what they
// were told. Keys take turns, so that each has a history that can be checked.
type history struct {
	t       *testing.T
	clients []*client.Client
	began   time.Time
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	ops      []porcupine.Operation
	keys     map[string]bool
	answered []int // calls, by client
	period   period
}

// period is what clients saw for some time.
type period struct {
	done    int
	failed  []string
	longest time.Duration // that a call took, also one that failed
	gap     time.Duration // in which no write ended well
	written time.Time     // when the last write ended well
}

const (
	turnOf   = 2 * time.Second // then other keys take their turn
	turnKeys = 8
	think    = 4 * time.Millisecond // at most, between two calls of a client

	flowCalls = 2 * turnKeys // enough to meet most shards
)

// ask is one call. The outcome is in answer.
type ask struct {
	kind               askKind
	key, value, expect string
}

type askKind int

const (
	get askKind = iota
	put
	cas
)

// answer is what a call was told; without known nobody knows what it did.
type answer struct {
	known, ok bool
	value     string
}

// sdk opens the SDK as the operator. The caller closes it.
func (c *cluster) sdk(addresses ...string) *client.Client {
	c.t.Helper()
	dir := filepath.Join(c.dir, "config")
	name, err := pki.CurrentContext(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	way, err := pki.LoadContext(dir, name)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg, err := client.FromContext(way)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(addresses) > 0 {
		cfg.Addresses = addresses
	} else if cfg.Addresses = nil; true {
		for _, n := range c.nodes {
			cfg.Addresses = append(cfg.Addresses, n.addr)
		}
	}
	sdk, err := client.Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	return sdk
}

// traffic starts n clients; end it with check.
func (c *cluster) traffic(n int) *history {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	h := &history{t: c.t, began: time.Now(), stop: stop, keys: map[string]bool{}, answered: make([]int, n), period: period{written: time.Now()}}
	for range n {
		h.clients = append(h.clients, c.sdk())
	}
	for i, sdk := range h.clients {
		h.running.Go(func() { h.run(ctx, i, sdk) })
	}
	c.t.Cleanup(h.end)
	return h
}

func (h *history) end() {
	h.stop()
	h.running.Wait()
	for _, sdk := range h.clients {
		if err := sdk.Close(); err != nil {
			h.t.Errorf("closing a client: %v", err)
		}
	}
	h.clients = nil
}

// run asks one thing after the other. A client that does not know what became
// of its write is another client from then on.
func (h *history) run(ctx context.Context, id int, sdk *client.Client) {
	seen := map[string]string{}
	for i := 0; ctx.Err() == nil; i++ {
		turn := time.Since(h.began) / turnOf
		a := ask{kind: askKind(rand.N(3)), key: fmt.Sprintf("h%d-%d", turn, rand.N(turnKeys)), value: fmt.Sprintf("%d.%d", id, i)}
		a.expect = seen[a.key]
		if a.expect == "" && a.kind == cas {
			a.kind = get
		}
		got := h.call(sdk, id, a)
		if !got.known {
			id += len(h.clients)
		}
		if a.kind == get && got.known {
			seen[a.key] = got.value
		}
		time.Sleep(rand.N(think)) // else the clients are the load
	}
}

// call makes a call and notes it.
func (h *history) call(sdk *client.Client, id int, a ask) answer {
	start := time.Since(h.began)
	got, err := a.do(sdk)
	end := time.Since(h.began)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.period.note(a, err, end-start)
	h.keys[a.key] = true
	if err == nil && id >= 0 {
		h.answered[id%len(h.answered)]++
	}
	op := porcupine.Operation{ClientId: id, Input: a, Output: got, Call: int64(start), Return: int64(end)}
	switch {
	case got.known:
	case a.kind == get:
		return got // it says nothing
	default:
		op.Return = math.MaxInt64 // it may be done at any time
	}
	h.ops = append(h.ops, op)
	return got
}

func (p *period) note(a ask, err error, took time.Duration) {
	p.longest = max(p.longest, took)
	if err != nil {
		p.failed = append(p.failed, fmt.Sprintf("after %v: %v: %v", took.Round(time.Millisecond), banyan.KindOf(err), err))
		return
	}
	p.done++
	if a.kind != get {
		now := time.Now()
		p.gap = max(p.gap, now.Sub(p.written))
		p.written = now
	}
}

func (a ask) do(sdk *client.Client) (answer, error) {
	ctx := context.Background() // the SDK's own patience
	key := []byte(a.key)
	switch a.kind {
	case put:
		_, err := sdk.KV().Put(ctx, key, []byte(a.value))
		return answer{known: err == nil}, err
	case cas:
		res, err := sdk.KV().Txn(ctx, &banyanv1.TxnRequest{
			Conditions: []*banyanv1.Condition{{Key: key, Test: &banyanv1.Condition_Value{Value: []byte(a.expect)}}},
			Mutations:  []*banyanv1.Mutation{{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: key, Value: []byte(a.value)}}}},
		})
		return answer{known: err == nil, ok: res.GetSucceeded()}, err
	default:
		kv, err := sdk.KV().Get(ctx, key)
		if banyan.IsKind(err, banyan.NotFound) {
			err = nil
		}
		return answer{known: err == nil, value: string(kv.GetValue())}, err
	}
}

// take gives what clients saw since the last take.
func (h *history) take() period {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.period
	p.gap = max(p.gap, time.Since(p.written))
	h.period = period{written: p.written}
	return p
}

func (p period) String() string {
	s := fmt.Sprintf("%d calls, the longest %v, %v without a write", p.done, p.longest.Round(time.Millisecond), p.gap.Round(time.Millisecond))
	if len(p.failed) > 0 {
		s += fmt.Sprintf(", %d failed: %s", len(p.failed), p.failed[0])
	}
	return s
}

// flow waits until every client has been answered some times since now.
func (h *history) flow() {
	h.t.Helper()
	h.mu.Lock()
	goal := slices.Clone(h.answered)
	h.mu.Unlock()
	for i := range goal {
		goal[i] += flowCalls
	}
	behind := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for i := range goal {
			if h.answered[i] < goal[i] {
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(patience); behind(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("a client got no answers for %v: %v", patience, h.take())
		}
	}
}

// check ends the traffic, reads every key once more, and asks porcupine whether
// the history of each is linearizable.
func (h *history) check() {
	h.t.Helper()
	h.stop()
	h.running.Wait()
	byKey := map[string][]porcupine.Operation{}
	for key := range h.keys {
		a := ask{kind: get, key: key}
		if !h.call(h.clients[0], -1, a).known {
			h.t.Errorf("%s cannot be read after the faults: %v", key, h.period.failed)
		}
	}
	h.end()
	for _, op := range h.ops {
		key := op.Input.(ask).key
		byKey[key] = append(byKey[key], op)
	}
	for key, ops := range byKey {
		switch porcupine.CheckOperationsTimeout(register, ops, 10*time.Second) {
		case porcupine.Illegal:
			h.t.Errorf("the history of %s is not linearizable:\n%s", key, show(ops))
		case porcupine.Unknown:
			h.t.Logf("the history of %s is too long to be checked (%d calls)", key, len(ops))
		}
	}
	h.t.Logf("%d calls on %d keys: linearizable unless said otherwise", len(h.ops), len(byKey))
}

// register is what one key is to its clients: its value, "" for none.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		a, got, now := input.(ask), output.(answer), state.(string)
		switch {
		case a.kind == get:
			return got.value == now, now
		case a.kind == put:
			return true, a.value
		case got.known && got.ok != (now == a.expect):
			return false, now
		case now == a.expect:
			return true, a.value
		}
		return true, now
	},
}

func show(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&b, "  client %d %+v → %+v [%v, %v]\n", op.ClientId, op.Input, op.Output, time.Duration(op.Call), time.Duration(op.Return))
	}
	return b.String()
}

// TestHistoriesAreChecked makes sure that a lost write and a stale read are seen.
func TestHistoriesAreChecked(t *testing.T) {
	op := func(a ask, got answer, call, back int64) porcupine.Operation {
		got.known = true
		return porcupine.Operation{Input: a, Output: got, Call: call, Return: back}
	}
	bad := map[string][]porcupine.Operation{
		"lost write":  {op(ask{kind: put, value: "1"}, answer{}, 1, 2), op(ask{kind: get}, answer{}, 3, 4)},
		"stale read":  {op(ask{kind: put, value: "1"}, answer{}, 1, 2), op(ask{kind: put, value: "2"}, answer{}, 3, 4), op(ask{kind: get}, answer{value: "1"}, 5, 6)},
		"two winners": {op(ask{kind: put, value: "1"}, answer{}, 1, 2), op(ask{kind: cas, expect: "1", value: "2"}, answer{ok: true}, 3, 6), op(ask{kind: cas, expect: "1", value: "3"}, answer{ok: true}, 3, 6)},
	}
	for name, ops := range bad {
		if porcupine.CheckOperations(register, ops) {
			t.Errorf("a %s is not seen", name)
		}
	}
}
