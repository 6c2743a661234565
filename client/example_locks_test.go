package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"banyan"
	"banyan/client"
	"banyan/door/gate"
)

// store is anything that a lock protects: a file, a table, a device. It refuses
// a token smaller than the greatest it has seen.
type store struct {
	mu    sync.Mutex
	token banyan.Revision // kept with the value, in one write
	value string
}

func (s *store) Write(token banyan.Revision, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token < s.token {
		return fmt.Errorf("token %d is over: %d has been here", token, s.token)
	}
	s.token, s.value = token, value
	return nil
}

// A holder that was paused comes back and does not know that its lock is lost.
// Its token tells the store.
func ExampleLock_Token() {
	c := exampleLocks()
	defer c.Close()
	ctx := context.Background()
	var shared store

	paused, err := c.Locks().Acquire(ctx, "shop/stock", client.LockOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("first:", shared.Write(paused.Token(), "7 lamps"))

	// The first holder's machine stands still for longer than the TTL …
	other, err := c.Locks().Acquire(ctx, "shop/stock", client.LockOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("other:", shared.Write(other.Token(), "6 lamps"))
	fmt.Println("first, back again:", shared.Write(paused.Token(), "8 lamps"))
	fmt.Println(shared.value)

	_ = paused.Release(ctx)
	_ = other.Release(ctx)
	// Output:
	// first: <nil>
	// other: <nil>
	// first, back again: token 1 is over: 2 has been here
	// 6 lamps
}

// exampleLocks stands for client.Open(cfg), where every lock is free because
// its holder was not heard of.
func exampleLocks() *client.Client {
	f := &fakeCoord{counts: true}
	in := newFake()
	c, err := client.Open(client.Config{Transport: client.InProcess(gate.Operator(gate.New(gate.Config{
		Node: 1, Cluster: "c", Logger: slog.New(slog.DiscardHandler), KV: askedKV{(*fakeKV)(in), nil}, Jobs: (*fakeJobs)(in), Blobs: (*fakeBlobs)(in), Clusters: in, Leaders: oneShard{in}, Tail: noTail{}, Coord: f,
	})))})
	if err != nil {
		panic(err)
	}
	return c
}
