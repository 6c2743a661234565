package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"banyan"
	"banyan/node/pki"
)

const (
	callBackMax  = 3 * time.Second // for a member to reach a machine that wants to join
	doorstepsMax = 16              // calls answered at once by such a machine
)

// doorstep answers at the address where a node is going to listen while it
// asks to be let in, so that a member can find out that it is reached there.
type doorstep struct {
	listener net.Listener
	serving  sync.WaitGroup
}

func openDoorstep(listen string, key []byte) (*doorstep, error) {
	config, err := pki.DoorstepTLS(key)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, banyan.Errorf(banyan.Unavailable, "cannot listen on %s: check --listen: %w", listen, err)
	}
	d := &doorstep{listener: l}
	d.serving.Go(func() { d.serve(config) })
	return d, nil
}

func (d *doorstep) serve(config *tls.Config) {
	places := make(chan struct{}, doorstepsMax)
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return // closed, or as good as closed: the member says that it reaches nobody
		}
		places <- struct{}{}
		d.serving.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			if conn.SetDeadline(time.Now().Add(callBackMax)) == nil {
				_ = tls.Server(conn, config).Handshake() // the member judges by it; a stranger is nobody's loss
			}
		})
	}
}

// address is where others reach it, unless the operator knows better.
func (d *doorstep) address() string { return reachable(d.listener.Addr().String()) }

func (d *doorstep) close() {
	_ = d.listener.Close() // the node binds the port next, and says so if it cannot
	d.serving.Wait()
}

// callBack finds out whether this node reaches a machine that wants to join
// where that machine says it is reached.
func (n *Server) callBack(ctx context.Context, who newcomer) error {
	ctx, cancel := context.WithTimeout(ctx, callBackMax)
	defer cancel()
	dialer := tls.Dialer{NetDialer: &net.Dialer{}, Config: pki.CallBackTLS(who.key)}
	conn, err := dialer.DialContext(ctx, "tcp", who.row.Address)
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = banyan.Errorf(banyan.Timeout, "no answer within %v", callBackMax)
	}
	return banyan.Errorf(banyan.Invalid, "the member at %s does not reach the joining machine at %s (%w): let it listen where members reach it (--listen), name that address (--advertise), and open the port in its firewall; the token was not used", n.file.Address, who.row.Address, err)
}
