package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/transport"
)

// Notes of the store. What a node has promised to others is on its disk; a
// second process on a copy of that disk would promise otherwise. So each start
// draws a number and writes it down before it speaks, and the others listen to
// one line of starts only, for good.
const (
	lifeNote    = "life"    // of this node
	refusedNote = "refused" // why this directory is of no use any more
)

func metNote(id banyan.NodeID) string { return "met " + id.String() }

// met is the process of another node that this one listens to.
type met struct {
	Count  uint64 `json:"count"`
	Number uint64 `json:"number"`
}

// lives is what this node remembers of starts, its own and others'.
type lives struct {
	store *store.Store
	own   transport.Life

	mu    sync.Mutex
	known map[banyan.NodeID]met
}

// beginLife draws the number of this start and makes it durable.
func beginLife(st *store.Store, dir string) (*lives, error) {
	refused, err := st.Note(refusedNote)
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, banyan.Errorf(banyan.Removed, "%s is of no use any more: %s", dir, refused)
	}
	l := &lives{store: st, known: map[banyan.NodeID]met{}}
	if err := l.read(lifeNote, &l.own); err != nil {
		return nil, err
	}
	var number [8]byte
	rand.Read(number[:])
	l.own = l.own.Next(binary.BigEndian.Uint64(number[:]) | 1) // 0 is none
	return l, l.write(lifeNote, l.own)
}

func (l *lives) read(note string, into any) error {
	value, err := l.store.Note(note)
	if err != nil || value == nil {
		return err
	}
	if err := json.Unmarshal(value, into); err != nil {
		return banyan.Errorf(banyan.Corrupt, "note %q of the store: %w", note, err)
	}
	return nil
}

func (l *lives) write(note string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return l.store.SetNote(note, value)
}

// meet is transport.Config.Meet: one call at a time for a node.
func (l *lives) meet(id banyan.NodeID, life transport.Life, answers func(uint64) bool) error {
	have, err := l.last(id)
	if err != nil || have.Number == life.Last() {
		return err
	}
	why := ""
	switch {
	case have.Count == 0:
	case !life.Follows(have.Count, have.Number):
		why = "another process is it, or was, on a copy of its directory, or on its directory before that was put back from an older copy"
	case answers(have.Number):
		why = "it runs already, and this is a second process on a copy of its directory"
	}
	if why != "" {
		return banyan.Errorf(banyan.Removed, "this is not the node %v that is known here: %s; two of them would lose data: remove the directory, and let the machine join as a new node if it is to be one", id, why)
	}
	now := met{Count: life.Count, Number: life.Last()}
	if err := l.write(metNote(id), now); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[id] = now
	return nil
}

func (l *lives) last(id banyan.NodeID) (met, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, ok := l.known[id]
	if !ok {
		if err := l.read(metNote(id), &have); err != nil {
			return met{}, err
		}
		l.known[id] = have
	}
	return have, nil
}

// refuse writes down that others have refused this node for good, so that it
// is not tried again when they happen not to be there.
func (n *Server) refuse(err error) {
	text := fmt.Appendf(nil, "at %s %s", time.Now().UTC().Format(time.RFC3339), err)
	if werr := n.store.SetNote(refusedNote, text); werr != nil {
		n.log.Warn("could not be written down; the others will say it again", "error", werr)
	}
	n.expel(err)
}

// introduce has the other nodes take note of this process before it takes
// part in anything.
func (n *Server) introduce(ctx context.Context) error {
	var others []banyan.NodeID
	for _, row := range n.nodes.list() {
		if row.ID != n.file.Node {
			others = append(others, row.ID)
		}
	}
	n.port.Introduce(ctx, others)
	select {
	case err := <-n.expelled:
		return err
	default:
		return nil
	}
}
