package replica

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"banyan"
)

// await calls then's caller and gives what then is told.
func await(read func(banyan.ShardID, func(error)) error, shard banyan.ShardID) <-chan error {
	answer := make(chan error, 1)
	if err := read(shard, func(err error) { answer <- err }); err != nil {
		answer <- err
	}
	return answer
}

// TestReadThen: a read that nobody waits for sees what was acknowledged before
// it, and is refused where the shard is not led.
func TestReadThen(t *testing.T) {
	m := threeHosts(t, 2)
	one, ctx := m.at(1), deadline(t)
	var pending []<-chan error
	for i := range 3 * readsAtOnce {
		shard, key := banyan.ShardID(i%2), fmt.Sprintf("key-%d", i)
		res, err := one.Propose(ctx, shard, put(key, "value"))
		if err != nil {
			t.Fatal(err)
		}
		answer := make(chan error, 1)
		pending = append(pending, answer)
		err = one.ReadThen(shard, func(err error) {
			row, at, err2 := one.Get(shard, []byte(key))
			if err == nil && (err2 != nil || row == nil || row.Mod != res.Revision || at < row.Mod) {
				err = fmt.Errorf("written at %d, read %+v at %d, %w", res.Revision, row, at, err2)
			}
			answer <- err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, answer := range pending {
		if err := <-answer; err != nil {
			t.Error(err)
		}
	}
	now := one.hub.Revision(0)
	one.hub.topic(0).revision = 1 // as if a commit were on the disk that it has not heard of
	for _, key := range []string{fmt.Sprintf("key-%d", 3*readsAtOnce-2), "absent"} {
		if row, at, err := one.Get(0, []byte(key)); err != nil || at != now || (row == nil) != (key == "absent") {
			t.Errorf("%s: %+v at %d of %d, %v", key, row, at, now, err)
		}
	}
	if n := one.slot(0).reads.Load(); n != 0 {
		t.Errorf("%d reads are counted as waiting when all are answered", n)
	}
	if err := <-await(m.at(2).ReadThen, 0); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("at a follower: %v", err)
	}
}

// TestQueueWakesAnother: what one worker leaves in a queue another takes.
func TestQueueWakesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue[int]()
		var took atomic.Int32
		release := make(chan struct{})
		for range 2 {
			go func() {
				q.take(1)
				took.Add(1)
				<-release
			}()
		}
		synctest.Wait()
		q.put([]int{1, 2})
		synctest.Wait()
		if n := took.Load(); n != 2 {
			t.Errorf("%d of two idle workers have taken something", n)
		}
		close(release)
		q.close()
	})
}
