package client_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/door/gate"
	"banyan/node/pki"
)

// exampleClient stands for one of the two ways to a real node below.
func exampleClient() *client.Client {
	door := gate.Operator(newFake().handler(1, "example", nil))
	c, err := client.Open(client.Config{Transport: client.InProcess(door)})
	if err != nil {
		panic(err)
	}
	return c
}

// A program outside reaches the cluster by a context, which 'banyan up' writes.
func ExampleOpen() {
	dir, err := pki.ConfigDir()
	if err != nil {
		fmt.Println(err)
		return
	}
	saved, err := pki.LoadContext(dir, "lab")
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg, err := client.FromContext(saved)
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := client.Open(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	status, err := c.Cluster().Status(context.Background())
	fmt.Println(status.GetClusterId(), err)
}

func ExampleKV() {
	c := exampleClient()
	defer c.Close()
	ctx := context.Background()
	kv := c.KV()

	if _, err := kv.Put(ctx, []byte("fruit/fig"), []byte("3")); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := kv.Put(ctx, []byte("fruit/date"), []byte("7")); err != nil {
		fmt.Println(err)
		return
	}
	got, err := kv.Get(ctx, []byte("fruit/fig"))
	fmt.Println(string(got.GetValue()), err)

	for kv, err := range kv.List(ctx, []byte("fruit/")) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s=%s\n", kv.Key, kv.Value)
	}
	_, err = kv.Get(ctx, []byte("fruit/plum"))
	fmt.Println(banyan.KindOf(err))
	// Output:
	// 3 <nil>
	// fruit/date=7
	// fruit/fig=3
	// not found
}

// A transaction creates a key only if it is not there yet.
func ExampleKV_Txn() {
	c := exampleClient()
	defer c.Close()
	key := []byte("locks/builder")
	take := &banyanv1.TxnRequest{
		Conditions: []*banyanv1.Condition{{Key: key, Test: &banyanv1.Condition_Exists{Exists: false}}},
		Mutations:  []*banyanv1.Mutation{{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: key, Value: []byte("me")}}}},
	}
	for range 2 {
		res, err := c.KV().Txn(context.Background(), take)
		fmt.Println(res.GetSucceeded(), err)
	}
	// Output:
	// true <nil>
	// false <nil>
}

func ExampleJobs() {
	c := exampleClient()
	defer c.Close()
	ctx := context.Background()

	id := banyan.NewJobID(1700000000000, 1) // time.Now().UnixMilli(), rand.Uint32()
	spec := &banyanv1.JobSpec{Command: banyanv1.NewCommand("gzip", "-9", "{}")}
	inputs := []*banyanv1.Input{{Columns: banyanv1.Bytes("a.log")}, {Columns: banyanv1.Bytes("b.log")}}

	tasks, err := c.Jobs().Submit(ctx, id, spec, slices.Values(inputs))
	fmt.Println(tasks, err)
	err = c.Jobs().Follow(ctx, id, 0, func(m *banyanv1.FollowResponse) error {
		for _, r := range m.Results {
			fmt.Printf("%s", r.Stdout.Inline)
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// 2 <nil>
	// task 1
	// task 2
	// <nil>
}

func ExampleBlobs() {
	c := exampleClient()
	defer c.Close()
	ctx := context.Background()

	chunks, size, err := c.Blobs().Upload(ctx, strings.NewReader("a few bytes\n"))
	fmt.Println(len(chunks), size, err)
	err = c.Blobs().Download(ctx, chunks, os.Stdout)
	fmt.Println(err)
	// Output:
	// 1 12 <nil>
	// a few bytes
	// <nil>
}
