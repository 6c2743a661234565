package transport

import (
	"container/list"
	"net"
	"time"

	"banyan"
)

// class says who a connection is from, as far as that is known. Each class has
// places of its own, so that none can take another's.
type class int

const (
	ofArriving class = iota // it has not shown yet who it is
	ofStranger              // it has no certificate
	ofUser
	ofNode
	classes
)

// roomsFor shares out the files that the process may have open. A part is kept
// for the store, for tasks and for calls to others; of the rest half is for
// users and a quarter for nodes.
func roomsFor(files int) [classes]int {
	rest := files - min(files/2, banyan.FilesKeptMax)
	return [classes]int{
		ofArriving: min(banyan.ArrivalsMax, rest/8),
		ofStranger: min(banyan.StrangersMax, rest/16),
		ofUser:     min(banyan.ConnectionsMax, rest/2),
		ofNode:     min(banyan.NodeConnectionsMax, rest/4),
	}
}

// room is the connections of one class, the oldest first.
type room struct {
	places int
	conns  *list.List // of *accepted
}

// accepted is a connection whose first byte was looked at and that is counted.
type accepted struct {
	net.Conn
	t     *Transport
	first []byte

	// By t.mu.
	class class
	at    *list.Element // nil: it is not counted any more
	until time.Time     // when the certificate that it began with expires
	end   *time.Timer   // that closes it then
}

func (c *accepted) Read(b []byte) (int, error) {
	if len(c.first) > 0 && len(b) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *accepted) Close() error {
	c.t.mu.Lock()
	c.leave()
	if c.end != nil {
		c.end.Stop()
	}
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// endAt closes a connection when the certificate that it began with expires,
// and with it all watches, sessions and conversations on it. Whoever has a new
// certificate connects again.
func (c *accepted) endAt(until time.Time) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if c.at != nil {
		c.until, c.end = until, time.AfterFunc(time.Until(until), func() { _ = c.Close() })
	}
}

// leave gives the place back, under t.mu.
func (c *accepted) leave() {
	if c.at != nil {
		c.t.rooms[c.class].conns.Remove(c.at)
		c.at = nil
	}
}

// admit counts a new connection.
func (t *Transport) admit(conn net.Conn) (*accepted, bool) {
	c := &accepted{Conn: conn, t: t}
	return c, t.enter(c, ofArriving)
}

// enter gives a connection a place in another class. Where nobody is known the
// oldest one makes room for it: whoever means well is done in a moment, so that
// a crowd of idle connections keeps nobody out. Users and nodes keep their
// places; false: there is none left.
func (t *Transport) enter(c *accepted, as class) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || as != ofArriving && c.at == nil {
		return false
	}
	r := &t.rooms[as]
	if r.conns.Len() >= r.places {
		t.meter.tooMany.Inc()
		if as != ofArriving && as != ofStranger || r.places == 0 {
			t.refusedMs.Store(time.Now().UnixMilli())
			return false
		}
		oldest := r.conns.Front().Value.(*accepted)
		oldest.leave()
		_ = oldest.Conn.Close() // an error of a connection that is given up says nothing
	}
	c.leave()
	c.class, c.at = as, r.conns.PushBack(c)
	return true
}

// Connections is how many connections of users there are and may be.
type Connections struct {
	Open, Most int
	Files      int       // which the process may have open; 0: not known
	Refused    time.Time // when one of a user or a node last found no place
}

// Connections says how near this node is to its limit of connections.
func (t *Transport) Connections() Connections {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := Connections{Open: t.rooms[ofUser].conns.Len(), Most: t.rooms[ofUser].places, Files: t.files}
	if ms := t.refusedMs.Load(); ms != 0 {
		c.Refused = time.UnixMilli(ms)
	}
	return c
}
