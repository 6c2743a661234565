package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"banyan"
	"banyan/core/mvcc"
)

// history is what the clients asked and were told.
type history struct {
	ops      []*op
	answered int
	unsure   int
}

// took checks at once what can be checked of one answer.
func (h *history) took(w *world, o *op) {
	h.answered++
	t := w.truth[o.shard]
	if o.answer.revision > t.revision() {
		w.fail("client %d was told of revision %d of shard %d, and nobody has applied more than %d", o.client, o.answer.revision, o.shard, t.revision())
		return
	}
	if !o.answer.effect {
		return
	}
	key, deleted := o.key, o.kind == del
	if o.kind == appendTo {
		key = string(mvcc.SequenceKey([]byte(o.key), o.answer.sequence))
	}
	for _, e := range t.revisions[o.answer.revision-1] {
		if string(e.Row.Key) == key && e.Deleted == deleted && (deleted || string(e.Row.Value) == o.value) {
			return
		}
	}
	w.fail("%s of %q to shard %d was acknowledged at revision %d, but that was %v", kindNames[o.kind], key, o.shard, o.answer.revision, showEvents(t.revisions[o.answer.revision-1]))
}

// checkAge holds a stale read to the age it says. Messages are taken to travel
// in no time, so what they took is added, there and back, and the clocks' drift.
func (w *world) checkAge(p *process, shard banyan.ShardID, a answer) {
	if a.err != nil {
		return
	}
	w.reach("stale read")
	if a.age > time.Second {
		w.reach("stale read that says it is old")
	}
	age := a.age + time.Duration(float64(a.age)*w.plan.drift) + 2*w.net.slowest + 10*time.Millisecond
	if must := w.truth[shard].ackedBy(w.now - age); a.revision < must {
		w.fail("%v: shard %d: a stale read at revision %d said it was %v old, but revision %d had been acknowledged by then", p.n.id, shard, a.revision, a.age, must)
	}
}

// checkHistories looks at the whole when all is over.
func (w *world) checkHistories() {
	for _, shard := range w.shards() {
		var ops []*op
		for _, o := range w.history.ops {
			if o.shard == shard {
				ops = append(ops, o)
			}
		}
		w.checkOrder(shard, ops)
		w.checkLists(shard, ops)
		byKey := map[string][]*op{}
		for _, o := range ops {
			byKey[o.key] = append(byKey[o.key], o)
		}
		delete(byKey, listPrefix)
		for _, key := range slices.Sorted(maps.Keys(byKey)) {
			w.checkOnce(shard, key)
			w.checkKey(shard, key, byKey[key])
		}
	}
}

// checkOrder holds revisions to real time: what is asked after something was
// told is at the same revision or a later one, and no two effects share one.
func (w *world) checkOrder(shard banyan.ShardID, ops []*op) {
	var back []*op
	owner := map[banyan.Revision]*op{}
	for _, o := range ops {
		if !o.done || o.kind == stale {
			continue
		}
		back = append(back, o)
		if !o.answer.effect {
			continue
		}
		if other := owner[o.answer.revision]; other != nil {
			w.fail("shard %d: %s and %s were both told that they are revision %d", shard, other, o, o.answer.revision)
		}
		owner[o.answer.revision] = o
	}
	byCall := slices.Clone(back)
	slices.SortStableFunc(back, func(a, b *op) int { return cmp.Compare(a.back, b.back) })
	slices.SortStableFunc(byCall, func(a, b *op) int { return cmp.Compare(a.call, b.call) })
	var newest *op
	for _, o := range byCall {
		for len(back) > 0 && back[0].back < o.call {
			if newest == nil || back[0].answer.revision > newest.answer.revision {
				newest = back[0]
			}
			back = back[1:]
		}
		if newest != nil && o.answer.revision < newest.answer.revision {
			w.fail("shard %d: %s came after %s and was told of an older state", shard, o, newest)
			return
		}
	}
}

// checkOnce holds every write to one effect: each writes a value of its own.
func (w *world) checkOnce(shard banyan.ShardID, key string) {
	written := map[string]bool{}
	for _, e := range w.truth[shard].values[key] {
		value := string(e.Row.Value)
		if !e.Deleted && written[value] {
			w.fail("shard %d: %q was written to %q twice", shard, value, key)
		}
		written[value] = true
	}
}

// checkLists finds gaps and repeats among appended rows, as they are now.
func (w *world) checkLists(shard banyan.ShardID, ops []*op) {
	bySequence := map[uint64]string{}
	values := map[string]bool{}
	n := uint64(0)
	for _, events := range w.truth[shard].revisions {
		for _, e := range events {
			if !strings.HasPrefix(string(e.Row.Key), listPrefix) {
				continue
			}
			n++
			if want := mvcc.SequenceKey([]byte(listPrefix), n); string(e.Row.Key) != string(want) {
				w.fail("shard %d: append %d went to %q", shard, n, e.Row.Key)
				return
			}
			if values[string(e.Row.Value)] {
				w.fail("shard %d: %q was appended twice", shard, e.Row.Value)
			}
			bySequence[n], values[string(e.Row.Value)] = string(e.Row.Value), true
		}
	}
	for _, o := range ops {
		if o.kind == appendTo && o.done && bySequence[o.answer.sequence] != o.value {
			w.fail("shard %d: %s was told sequence %d, which holds %q", shard, o, o.answer.sequence, bySequence[o.answer.sequence])
		}
	}
}

// porcupineTime bounds the check of one key's history.
const porcupineTime = 10 * time.Second

// checkKey asks porcupine whether a key's history is linearizable.
func (w *world) checkKey(shard banyan.ShardID, key string, ops []*op) {
	var history []porcupine.Operation
	for _, o := range ops {
		if o.kind == stale || !o.done && (o.kind == get || o.kind == getPair) {
			continue
		}
		back := o.back
		if !o.done {
			back = time.Duration(1<<62) + o.call // it may take effect at any time
		}
		history = append(history, porcupine.Operation{ClientId: o.client, Input: o, Call: int64(o.call), Output: o, Return: int64(back)})
	}
	switch porcupine.CheckOperationsTimeout(register, history, porcupineTime) {
	case porcupine.Illegal:
		w.fail("shard %d: the history of %q is not linearizable:\n%s", shard, key, showOps(ops))
	case porcupine.Unknown:
		w.history.unsure++
	}
}

// register is what one key is to its clients: its value, "" for none.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o, now := input.(*op), state.(string)
		switch o.kind {
		case put, putPair:
			return true, o.value
		case get, getPair:
			return o.answer.value == now, now
		case del:
			return !o.done || (o.answer.deleted == 1) == (now != ""), ""
		}
		holds := o.kind == create && now == "" || o.kind == cas && now == o.expect
		if o.done && o.answer.ok != holds {
			return false, now
		}
		if holds {
			return true, o.value
		}
		return true, now
	},
}

// String shows an operation in a failure.
func (o *op) String() string {
	s := fmt.Sprintf("client %d %s %q %q", o.client, kindNames[o.kind], o.key, o.value)
	if o.kind == cas {
		s += fmt.Sprintf(" if %q", o.expect)
	}
	if !o.done {
		return s + fmt.Sprintf(" [%v, unknown]", o.call)
	}
	return s + fmt.Sprintf(" → ok=%v value=%q revision %d [%v, %v]", o.answer.ok, o.answer.value, o.answer.revision, o.call, o.back)
}

func showOps(ops []*op) string {
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintln(&b, " ", o)
	}
	return b.String()
}
