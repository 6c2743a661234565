package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/core/sweep"
	"banyan/layer/work"
	"banyan/node/worker"
)

// chunks is what is known of outputs that are too large for a row: who refers to
// them, and on which nodes' word. Chunks themselves are on the nodes.
type chunks struct {
	dice  dice
	epoch uint64 // the row of the root shard

	counted map[work.Key]map[banyan.NodeID]bool // who said that an attempt's output is there, when that was last asked
	refs    map[banyan.Hash]map[work.Key]bool   // rows that refer to it now
}

const (
	copies      = 3
	sharedFew   = 5 // outputs that many tasks have alike
	storeWait   = 120 * time.Millisecond
	markWait    = 3 * time.Second
	sweepTick   = 300 * time.Millisecond
	epochTick   = 700 * time.Millisecond
	removeTick  = 200 * time.Millisecond
	removeAfter = 2 * time.Second // at the most after a job's end
)

func (w *world) beginChunks() {
	w.chunks = chunks{
		dice: newDice(w.cfg.Seed, 0x5eeb), epoch: 1,
		counted: map[work.Key]map[banyan.NodeID]bool{}, refs: map[banyan.Hash]map[work.Key]bool{},
	}
	if w.plan.sweeps {
		w.countEpochs()
	}
}

func (w *world) countEpochs() {
	w.after(w.chunks.dice.between(epochTick/4, 2*epochTick), func() {
		if !w.operator.calm {
			w.chunks.epoch++
		}
		w.countEpochs()
	})
}

// openChunks starts a process with what its node's disk has.
func (p *process) openChunks() {
	p.holder = sweep.NewHolder(p.n.condemned)
	if p.w.plan.sweeps {
		p.sweepAgain()
	}
}

func (p *process) sweepAgain() {
	p.after(p.w.chunks.dice.between(sweepTick/2, 3*sweepTick/2), func() {
		p.sweep()
		p.sweepAgain()
	})
}

// touch stores a chunk, or asks for it, at another node, and hears in time or not.
func (p *process) touch(to *node, epoch uint64, h banyan.Hash, store bool, heard func(has bool)) {
	w := p.w
	w.after(w.chunks.latency(), func() {
		q := to.proc
		if q == nil || w.net.isCut(p.n.id, to.id) || w.net.isCut(to.id, p.n.id) {
			return
		}
		q.resume(func() {
			q.holder.Learn(epoch)
			if q.holder.Condemned(h) != 0 {
				w.reach("condemned chunk touched")
				q.holder.Free(h)
				delete(to.condemned, h)
			}
			if store {
				to.chunks[h] = true
			}
			has := to.chunks[h]
			w.after(w.chunks.latency(), func() { p.resume(func() { heard(has) }) })
		})
	})
}

func (c *chunks) latency() time.Duration {
	return c.dice.between(100*time.Microsecond, 20*time.Millisecond)
}

// keepers are the nodes that are to have a chunk.
func (w *world) keepers(h banyan.Hash) (out []*node) {
	first := int(h[0])
	for i := range w.nodes {
		if n := w.nodes[(first+i)%len(w.nodes)]; !n.gone && !n.leaving && len(out) < copies {
			out = append(out, n)
		}
	}
	return out
}

// finishLarge stores an attempt's output, then reports it.
func (c *crew) finishLarge(k worker.Key) {
	d := &c.p.w.chunks.dice
	var h banyan.Hash
	if h[0] = byte(d.IntN(sharedFew)); !d.chance(0.3) {
		copy(h[:], k.Job)
		binary.BigEndian.PutUint32(h[16:], k.Task)
		binary.BigEndian.PutUint64(h[20:], k.Attempt)
		h[0] = byte(d.IntN(256))
	}
	c.store(k, h, c.p.holder.Epoch())
}

func (c *crew) store(k worker.Key, h banyan.Hash, epoch uint64) {
	counted := map[banyan.NodeID]bool{}
	keepers := c.p.w.keepers(h)
	for _, n := range keepers {
		c.p.touch(n, epoch, h, true, func(bool) { counted[n.id] = true })
	}
	c.p.after(storeWait, func() {
		if len(counted) <= len(keepers)/2 {
			c.store(k, h, epoch)
			return
		}
		c.p.w.chunks.counted[work.Key(k)] = maps.Clone(counted)
		delete(c.running, k)
		c.p.w.jobs.all[k.Job].ran[work.Key(k)] = banyanv1.TaskState_TASK_STATE_SUCCEEDED
		c.core.Touched(k, epoch)
		c.core.Finish(c.now(), k, &banyanv1.TaskResult{
			Task: k.Task, Node: uint64(c.p.n.id), State: banyanv1.TaskState_TASK_STATE_SUCCEEDED,
			Stdout: &banyanv1.Output{Bytes: 1 << 20, Chunks: [][]byte{bytes.Clone(h[:])}},
		})
		c.act()
	})
}

// retouch touches what a refused batch refers to, and commits it again.
func (l *ledJobs) retouch(b *work.Batch) {
	l.p.w.reach("references refused by the fence")
	fence, ok := uint64(0), false
	row, err := mvcc.Get(l.p.store.Shard(l.shard).Latest(), job.FenceKey(), 0)
	if err == nil && row != nil {
		fence, err = job.Fence(row.Value)
		ok = err == nil
	}
	if !ok { // it has none yet
		l.p.propose(l.shard, work.Raise(l.p.w.chunks.epoch), func(mvcc.Result, error) {
			l.p.after(10*time.Millisecond, func() {
				if l.current() && l.Untouched() == b {
					l.retouch(b)
				}
			})
		})
		return
	}
	if !sweep.Fresh(fence, l.p.holder.Epoch()) {
		l.p.holder.Learn(fence)
	}
	epoch := l.p.holder.Epoch()
	type answers struct{ has, asked map[banyan.NodeID]bool }
	all := map[*banyanv1.TaskResult]answers{}
	for _, res := range b.Results() {
		a := answers{map[banyan.NodeID]bool{}, map[banyan.NodeID]bool{}}
		all[res] = a
		for _, n := range l.p.w.nodes {
			if !n.gone {
				l.p.touch(n, epoch, banyan.Hash(res.Stdout.Chunks[0]), false, func(has bool) {
					a.asked[n.id] = true
					if has {
						a.has[n.id] = true
					}
				})
			}
		}
	}
	l.p.after(storeWait, func() {
		if !l.current() || l.Untouched() != b {
			return
		}
		var gone []*banyanv1.TaskResult
		for _, res := range b.Results() {
			a := all[res]
			missing := slices.ContainsFunc(l.p.w.nodes, func(n *node) bool { return !n.gone && !a.asked[n.id] })
			switch {
			case len(a.has) > 0:
				l.p.w.chunks.counted[b.Key(res)] = a.has
			case missing:
				l.retouch(b)
				return
			default:
				l.p.w.reach("result whose output is gone")
				gone = append(gone, res)
			}
		}
		b.Touched(epoch, gone)
		l.Touched()
		l.step()
	})
}

// mark reads what the rows of a shard refer to, behind its fence.
func (o *office) mark(shard banyan.ShardID, epoch uint64, reply func([]banyan.Hash)) {
	o.p.holder.Learn(epoch)
	read := func() bool {
		fence, err := work.FenceOf(context.Background(), rows{o.p}, shard)
		if err != nil || fence < epoch {
			return false
		}
		var marks []banyan.Hash
		err = work.Marks(context.Background(), rows{o.p}, shard, nil, nil, nil, func(h []byte) error {
			marks = append(marks, banyan.Hash(h))
			return nil
		})
		if err == nil {
			reply(marks)
		}
		return true
	}
	if !read() {
		o.p.propose(shard, work.Raise(epoch), func(_ mvcc.Result, err error) {
			if err == nil {
				o.p.after(o.p.w.chunks.latency(), func() { read() })
			}
		})
	}
}

// sweep is Disk.Sweep in the epoch that the root shard has now.
func (p *process) sweep() {
	epoch := p.w.chunks.epoch
	if p.sweptIn >= epoch || p.sweeping {
		return
	}
	p.sweeping = true
	p.holder.Learn(epoch)
	listed := slices.SortedFunc(maps.Keys(p.n.chunks), func(a, b banyan.Hash) int { return bytes.Compare(a[:], b[:]) })
	marked := map[banyan.Hash]bool{}
	round := sweep.NewRound(p.w.shards())
	for _, shard := range p.w.shards() {
		leader := p.w.jobs.led[shard].node
		if leader == 0 {
			continue
		}
		to := p.w.node(leader)
		p.w.after(p.w.chunks.latency(), func() {
			q := to.proc
			if q == nil || p.w.net.isCut(p.n.id, to.id) || p.w.net.isCut(to.id, p.n.id) {
				return
			}
			q.resume(func() {
				q.office.mark(shard, epoch, func(marks []banyan.Hash) {
					p.w.after(p.w.chunks.latency(), func() {
						for _, h := range marks {
							marked[h] = true
						}
						round.Read(shard)
					})
				})
			})
		})
	}
	p.after(p.w.chunks.dice.between(storeWait, markWait), func() {
		p.sweeping = false
		if !round.Whole() {
			p.w.reach("sweep given up")
			return
		}
		p.sweptIn = epoch
		for _, h := range listed {
			p.judge(epoch, h, marked[h])
		}
	})
}

func (p *process) judge(epoch uint64, h banyan.Hash, marked bool) {
	switch p.holder.Judge(epoch, h, marked) {
	case sweep.Keep:
	case sweep.Spare:
		p.holder.Free(h)
		delete(p.n.condemned, h)
	case sweep.Condemn:
		p.holder.Condemn(h)
		p.n.condemned[h] = p.holder.Condemned(h)
	case sweep.Go:
		p.holder.Free(h)
		delete(p.n.condemned, h)
		delete(p.n.chunks, h)
		p.w.reach("chunk removed")
		for k := range p.w.chunks.refs[h] { // any will do
			if p.w.chunks.counted[k][p.n.id] {
				p.w.fail("%v removes chunk %.4x in epoch %d, which the result of an attempt refers to that was told it is there", p.n.id, h, epoch)
			}
		}
	}
}

// refer checks that what a new result refers to is where it was said to be.
func (c *chunks) refer(w *world, s *submitted, task uint32, res *banyanv1.TaskResult) {
	if len(res.GetStdout().GetChunks()) == 0 {
		return
	}
	h, k := banyan.Hash(res.Stdout.Chunks[0]), work.Key{Job: s.id, Task: task, Attempt: res.AttemptId}
	for id := range c.counted[k] { // any will do
		if n := w.node(id); !n.gone && !n.chunks[h] {
			w.fail("a result refers to chunk %.4x, which is not on a node that said so", h)
		}
	}
	if c.refs[h] == nil {
		c.refs[h] = map[work.Key]bool{}
	}
	c.refs[h][k] = true
	w.reach("result that refers to a chunk")
}

// forget takes back what the results of a job referred to.
func (c *chunks) forget(id banyan.JobID) {
	for h, keys := range c.refs {
		maps.DeleteFunc(keys, func(k work.Key, _ bool) bool { return k.Job == id })
		if len(keys) == 0 {
			delete(c.refs, h)
		}
	}
}

// garbage counts the chunks on running nodes that nothing refers to.
func (w *world) garbage() (n int) {
	for _, p := range w.up() {
		for h := range p.n.chunks {
			if len(w.chunks.refs[h]) == 0 {
				n++
			}
		}
	}
	return n
}

// tidy says whether all jobs are removed, and all chunks with them.
func (w *world) tidy() bool {
	return !slices.ContainsFunc(w.jobs.order, func(s *submitted) bool { return !s.removed }) && w.garbage() == 0
}

// removeLater has a job removed some time after its end.
func (w *world) removeLater(s *submitted) {
	w.after(w.chunks.dice.between(0, removeAfter), func() { w.remove(s) })
}

// remove asks the shard's controller, until the job is gone.
func (w *world) remove(s *submitted) {
	if s.removed || w.over {
		return
	}
	if n := w.jobs.led[s.shard].node; n != 0 && w.node(n).proc != nil {
		p := w.node(n).proc
		w.after(w.chunks.latency(), func() { p.resume(func() { p.office.remove(s) }) })
	}
	w.after(w.chunks.dice.between(100*time.Millisecond, time.Second), func() { w.remove(s) })
}

// remove takes the first step of a job's removal.
func (o *office) remove(s *submitted) {
	row, err := mvcc.Get(o.p.store.Shard(s.shard).Latest(), job.HeaderKey(s.id), 0)
	if err != nil || row == nil || o.chairs[s.shard] == nil {
		return
	}
	if h, err := job.DecodeHeader(row.Value); err != nil || !job.Ended(h.State) {
		return
	}
	o.core.Do(&work.Op{Kind: work.OpWrite, Shard: s.shard, Job: s.id, Cmd: work.Forget(s.id, row.Mod)})
	o.act()
}

// removals takes the next step of the removals under way.
func (l *ledJobs) removals() {
	if !l.current() {
		return
	}
	if _, leads := l.o.core.Leads(l.shard); leads {
		cmd, err := work.NextRemoval(context.Background(), rows{l.p}, l.shard)
		if err == nil && cmd != nil {
			l.o.core.Do(&work.Op{Kind: work.OpWrite, Shard: l.shard, Cmd: cmd})
			l.o.act()
		}
	}
	l.p.after(l.p.w.chunks.dice.between(removeTick/2, 2*removeTick), l.removals)
}
