package client

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"banyan/node/pki"
)

const (
	laneCount   = 4
	laneCalls   = 64 // calls under way on a connection before the next one is used too
	dialTimeout = 5 * time.Second
)

// lanes is a transport that keeps up to laneCount HTTP/2 connections to each
// node: many calls at once would queue on the locks of one, and a few need no
// more than one.
type lanes struct {
	each [laneCount]struct {
		http.Transport
		busy atomic.Int32
	}
}

func newLanes(config *tls.Config) *lanes {
	l := &lanes{}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	for i := range l.each {
		t := &l.each[i].Transport
		t.TLSClientConfig = config.Clone()
		t.Protocols = protocols
		t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
		t.TLSHandshakeTimeout = dialTimeout
		t.IdleConnTimeout = 90 * time.Second
		t.DisableCompression = true
		t.HTTP2 = &http.HTTP2Config{
			MaxReadFrameSize:              256 << 10,
			MaxReceiveBufferPerConnection: 4<<20 - 1,
			MaxReceiveBufferPerStream:     1 << 20,
			// A node that hangs is told from one that is slow: its connection
			// is given up, and streams go on elsewhere.
			SendPingTimeout: 2 * time.Second,
			PingTimeout:     3 * time.Second,
		}
	}
	return l
}

// RoundTrip uses the first lane that is not busy, or the least busy one.
func (l *lanes) RoundTrip(req *http.Request) (*http.Response, error) {
	lane := &l.each[0]
	for i := range l.each {
		if l.each[i].busy.Load() < laneCalls {
			lane = &l.each[i]
			break
		}
		if l.each[i].busy.Load() < lane.busy.Load() {
			lane = &l.each[i]
		}
	}
	lane.busy.Add(1)
	defer lane.busy.Add(-1)
	res, err := lane.Transport.RoundTrip(req)
	return res, pki.Explain(req.URL.Host, err)
}

// Close closes connections that carry no call.
func (l *lanes) Close() error {
	for i := range l.each {
		l.each[i].CloseIdleConnections()
	}
	return nil
}
