package work

import (
	"testing"

	"banyan"
)

// A shard that is loaded again in a term, as after a split, goes on with the
// numbers of its attempts: two attempts of a task never have one key.
func TestAttemptsAreNumberedOnAcrossLoadsOfATerm(t *testing.T) {
	c := NewCore(func([]byte) banyan.ShardID { return 1 })
	c.Lead(1, 1, 5, 1, nil, nil)
	c.shards[0].attempts = 7
	c.Lose(1)
	c.Lead(2, 1, 5, 1, nil, nil)
	if n := c.shards[0].attempts; n != 7 {
		t.Errorf("loaded again, the term has %d attempts", n)
	}
	c.Lead(3, 1, 6, 1, nil, nil)
	if n := c.shards[0].attempts; n != 0 {
		t.Errorf("another term begins with %d attempts", n)
	}
}
