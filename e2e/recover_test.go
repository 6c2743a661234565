//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banyan/core/shardmap"
	"banyan/engine/store"
)

// TestMajorityLost loses two of three nodes with their disks: the third is
// recovered by command, says so ever after, and a lost one that comes back after
// all does no harm.
func TestMajorityLost(t *testing.T) {
	long(t)
	c := newCluster(t, 3)
	c.run("kv", "put", "a/1", "kept")
	left, lost := c.nodes[0], c.nodes[1:]
	for _, n := range c.nodes {
		n.kill()
	}
	plan := []string{"recover", "--dir", left.dir, "--lost", "n2,n3"}
	out := c.run(plan...)
	if !strings.Contains(out, "9 of 9 shards") || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("what is shown first:\n%s", out)
	}
	if _, errOut, code := c.try(append(plan, "--yes", "another")...); code == 0 || !strings.Contains(errOut, "nothing was changed") {
		t.Errorf("--yes for another cluster: exit %d, %s", code, errOut)
	}
	_, id, _ := strings.Cut(out, "of cluster ")
	id, _, _ = strings.Cut(id, ".")
	c.run(append(plan, "--yes", id)...)
	if _, errOut, code := c.try(append(plan, "--yes", id)...); code == 0 || !strings.Contains(errOut, "was done here at") {
		t.Errorf("given again: exit %d, %s", code, errOut)
	}
	if err := os.RemoveAll(lost[1].dir); err != nil {
		t.Fatal(err)
	}
	left.restart()
	if got := strings.TrimSpace(c.run("kv", "get", "a/1")); got != "kept" {
		t.Errorf("kv get: %q", got)
	}
	c.comeBack(lost[0])
	c.grow(5)
	left.kill()
	left.restart()
	c.eventually("status remembers", func() bool {
		out, _, _ := c.try("status")
		return strings.Contains(out, "remember:") && strings.Contains(out, "after n2, n3 were lost")
	})
	if _, errOut, code := c.try("recover", "--dir", left.dir, "--lost", "n4,n5"); code == 0 || !strings.Contains(errOut, "in use") {
		t.Errorf("recover beside a running node: exit %d, %s", code, errOut)
	}
}

// TestRecoverFromACopy loses the machine of the only voters: the second node has
// a copy of every shard.
func TestRecoverFromACopy(t *testing.T) {
	long(t)
	c := emptyCluster(t)
	lost := c.up(filepath.Join(c.dir, "n1"), "--shards", "1")
	left := c.join(c.token())
	c.run("kv", "put", "a/1", "kept")
	for _, shard := range []string{"0", "1"} {
		c.eventually("n2 has a copy of shard "+shard, func() bool {
			var last []uint64
			for line := range strings.Lines(c.run("debug", "shard", shard, "-o", "json")) {
				var r struct {
					Last uint64 `json:"last_index"`
				}
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatal(err)
				}
				last = append(last, r.Last)
			}
			return len(last) == 2 && last[0] == last[1]
		})
	}
	lost.kill()
	left.kill()
	if err := os.RemoveAll(lost.dir); err != nil {
		t.Fatal(err)
	}
	plan := []string{"recover", "--dir", left.dir, "--lost", "n1"}
	out := c.run(plan...)
	if !strings.Contains(out, "2 of 2 shards") || strings.Contains(out, "nothing is left") {
		t.Errorf("what is shown first:\n%s", out)
	}
	_, id, _ := strings.Cut(out, "of cluster ")
	id, _, _ = strings.Cut(id, ".")
	c.run(append(plan, "--yes", id)...)
	left.restart()
	if got := strings.TrimSpace(c.run("kv", "get", "a/1")); got != "kept" {
		t.Errorf("kv get: %q", got)
	}
}

// TestCreateEmpty recovers a node that has nothing of one of its cluster's
// shards: without --create-empty that shard stays away, with it it begins anew.
func TestCreateEmpty(t *testing.T) {
	c := emptyCluster(t)
	n := c.up(filepath.Join(c.dir, "n1"), "--shards", "1")
	lost := c.join(c.token())
	c.run("kv", "put", "a/1", "kept")
	n.kill()
	lost.kill()
	st, err := store.Open(filepath.Join(n.dir, "store"), store.Options{})
	if err == nil { // as if the second shard had been on the lost node alone
		err = errors.Join(st.SetNote("shard map", shardmap.New(2).Encode()), st.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	plan := []string{"recover", "--dir", n.dir, "--lost", "n2"}
	if out := c.run(plan...); !strings.Contains(out, "nothing is left") || strings.Contains(out, "nothing: empty") {
		t.Errorf("without --create-empty:\n%s", out)
	}
	_, id, _ := strings.Cut(c.run(plan...), "of cluster ")
	id, _, _ = strings.Cut(id, ".")
	if _, errOut, code := c.try(append(plan, "--yes", id)...); code == 0 || !strings.Contains(errOut, "--create-empty n1") {
		t.Errorf("--yes without --create-empty: exit %d, %s", code, errOut)
	}
	plan = append(plan, "--create-empty", "n1")
	out := c.run(plan...)
	if !strings.Contains(out, "nothing: empty on n1") || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("with --create-empty:\n%s", out)
	}
	c.run(append(plan, "--yes", id)...)
	n.restart()
	if got := strings.TrimSpace(c.run("kv", "get", "a/1")); got != "kept" {
		t.Errorf("kv get: %q", got)
	}
	for i := range 8 { // of both shards
		c.run("kv", "put", fmt.Sprintf("p%d/1", i), "new")
	}
	c.eventually("status remembers", func() bool {
		out, _, _ := c.try("status")
		return strings.Contains(out, "remember:") && strings.Contains(out, "created empty")
	})
}
