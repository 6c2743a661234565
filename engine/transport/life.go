package transport

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"banyan"
)

// How long others are waited for: answerMax for a process that may have died
// to answer a ping, introduceFirst and introduceMax for nodes to take note of
// this one.
const (
	answerMax      = time.Second
	introduceFirst = 500 * time.Millisecond
	introduceMax   = 2 * time.Second
)

// Life is the line of a node's starts as its directory tells it. Each start
// draws a number; two processes on copies of one directory draw different ones.
type Life struct {
	Count  uint64   // starts so far; 0: not said
	Recent []uint64 // the numbers of the last of them, the running process's at the end
}

// Next is the life with one more start.
func (l Life) Next(number uint64) Life {
	recent := append(slices.Clone(l.Recent), number)
	return Life{Count: l.Count + 1, Recent: recent[max(0, len(recent)-banyan.StartsKeptMax):]}
}

// Last is the number of the running process.
func (l Life) Last() uint64 {
	if len(l.Recent) == 0 {
		return 0
	}
	return l.Recent[len(l.Recent)-1]
}

// Follows says whether the start count, which drew number, was in this
// directory too. Of one older than what it remembers it says yes.
func (l Life) Follows(count, number uint64) bool {
	if count >= l.Count {
		return false
	}
	at := len(l.Recent) - 1 - int(min(l.Count-count, banyan.StartsKeptMax))
	return at < 0 || l.Recent[at] == number
}

func (l Life) append(b []byte) []byte {
	b = binary.AppendUvarint(b, l.Count)
	b = binary.AppendUvarint(b, uint64(len(l.Recent)))
	for _, number := range l.Recent {
		b = binary.BigEndian.AppendUint64(b, number)
	}
	return b
}

// decodeLife gives none for bytes that say none, as those of older nodes.
func decodeLife(b []byte) (l Life, err error) {
	var size uint64
	for _, into := range []*uint64{&l.Count, &size} {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return Life{}, nil
		}
		*into, b = v, b[n:]
	}
	if size > banyan.StartsKeptMax || size > l.Count || size*8 > uint64(len(b)) || size == 0 && l.Count > 0 {
		return Life{}, banyan.Errorf(banyan.Corrupt, "a hello makes no sense")
	}
	for i := range size {
		l.Recent = append(l.Recent, binary.BigEndian.Uint64(b[8*i:]))
	}
	return l, nil
}

// talk is one connection that this node dialled: each ping is answered in turn.
type talk struct {
	boot         uint64
	pings, pongs atomic.Uint64
	ended        chan struct{}
}

// answers says whether the process boot of the node, which this one is
// connected to, still runs: a ping sent from now on must come back.
func (p *peer) answers(boot uint64) bool {
	k := p.talk.Load()
	if k == nil || k.boot != boot {
		return false
	}
	wanted := k.pings.Load() + 1
	nudge(p.probe)
	ctx, cancel := context.WithTimeout(p.t.ctx, answerMax)
	defer cancel()
	look := time.NewTicker(answerMax / 200)
	defer look.Stop()
	for k.pongs.Load() < wanted {
		select {
		case <-look.C:
		case <-k.ended:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Introduce says hello to the nodes, to the first one first, so that of two
// copies one is the first everywhere. It returns when each has answered,
// refused or turned out not to be reachable, or is silent for introduceMax.
func (t *Transport) Introduce(ctx context.Context, nodes []banyan.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, introduceMax)
	defer cancel()
	nodes = slices.Clone(nodes)
	slices.Sort(nodes)
	for i, node := range nodes {
		p := t.peer(node)
		if p == nil {
			continue
		}
		nudge(p.probe)
		if i == 0 {
			first, stop := context.WithTimeout(ctx, introduceFirst)
			p.waitTried(first)
			stop()
		}
	}
	for _, node := range nodes {
		if p := t.peer(node); p != nil {
			p.waitTried(ctx)
		}
	}
}

// waitTried waits until the node was dialled once, or ctx ends.
func (p *peer) waitTried(ctx context.Context) {
	select {
	case <-p.tried:
	case <-p.t.ctx.Done():
	case <-ctx.Done():
	}
}
