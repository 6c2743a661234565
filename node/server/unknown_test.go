package server

import (
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/api/wire"
	"banyan/core/mvcc"
	"banyan/node/pki"

	"connectrpc.com/connect"
)

// TestWhoIsInIsInTheRows goes through what can be known of a node.
func TestWhoIsInIsInTheRows(t *testing.T) {
	table := newNodeTable(&nodeFile{Node: 1, Peers: map[banyan.NodeID]string{2: "b:1"}})
	u := table.unknown
	for _, id := range []banyan.NodeID{1, 2} {
		if err := table.admit(id); err != nil {
			t.Errorf("a member: %v", err)
		}
	}
	refused := func(what string) {
		t.Helper()
		if err := table.admit(9); !banyan.IsKind(err, banyan.Unavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("never heard of")
	<-u.wake // the root shard is asked
	u.answered(time.Now(), nil)
	refused("not in the rows")
	if len(u.wake) != 0 {
		t.Error("the root shard is asked at every try")
	}
	table.learn(nodeRow{ID: 9})
	if err := table.admit(9); err != nil {
		t.Errorf("once it is in: %v", err)
	}
	table.giveUp([]banyan.NodeID{9}, 1)
	if err := table.admit(9); !banyan.IsKind(err, banyan.Removed) {
		t.Errorf("once it was removed: %v", err)
	}
	noLeader := errors.New("no leader")
	u.answered(time.Now(), noLeader)
	if err := table.admit(8); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("when the root shard has just not answered: %v", err)
	}
	u.answered(time.Now().Add(-2*rootSilenceMax), nil)
	u.answered(time.Now().Add(-rootSilenceMax), noLeader)
	u.answered(time.Now(), noLeader)
	if err := table.admit(8); err != nil {
		t.Errorf("when the root shard gives no answer, which may need it: %v", err)
	}
	u.answered(time.Now(), nil)
	if err := table.admit(8); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("when the root shard answers again: %v", err)
	}
}

// TestANodeThatNeverJoined shows a certificate of the cluster's own authority.
func TestANodeThatNeverJoined(t *testing.T) {
	n, _ := run(t, Config{Dir: filepath.Join(t.TempDir(), "node"), Listen: "127.0.0.1:0", ConfigDir: t.TempDir(), Slots: 1})
	info := func(id banyan.NodeID) error {
		keeper, err := pki.NewKeeper(n.keeper.CA(), nodeSubject(id), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{TLSClientConfig: keeper.ClientTLS("h2"), ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		peer := peerv1connect.NewPeerClient(&http.Client{Transport: tr}, "https://"+n.file.Address, connect.WithInterceptors(wire.ClientInterceptor()))
		_, err = peer.Info(t.Context(), connect.NewRequest(&peerv1.InfoRequest{}))
		return err
	}
	for range 3 { // before and after the root shard was asked
		if err := info(99); !banyan.IsKind(err, banyan.Unavailable) {
			t.Errorf("a node that never joined: %v", err)
		}
	}
	// One whose row is there and was not heard of comes in after a while.
	row := nodeRow{ID: 7, Name: "seven", Address: "192.0.2.7:7117"}
	put := &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: nodeKey(7), Value: row.encode()}}}
	if _, err := n.router.Commit(t.Context(), banyan.RootShard, put); err != nil {
		t.Fatal(err)
	}
	for err := info(7); err != nil; err = info(7) {
		if !banyan.IsKind(err, banyan.Unavailable) {
			t.Fatal(err)
		}
	}
}
