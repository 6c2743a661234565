package gate

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"
	"time"

	"banyan"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/api/wire"
	"banyan/node/pki"
	"banyan/obs"

	"connectrpc.com/connect"
)

// hopHeader marks a call that another node passed on; it goes no further.
const hopHeader = "Banyan-Hop"

// chunkMax bounds a call that holds one of the places for chunks.
const chunkMax = time.Minute

type callerKey struct{}

type hopKey struct{}

type fromKey struct{}

// From is the network address (host:port) of who asks to join.
func From(ctx context.Context) string {
	from, _ := ctx.Value(fromKey{}).(string)
	return from
}

// Caller gives who is calling: the certificate's subject, or the operator on
// an embedded node. It is not ok for a stranger, who is asked to join.
func Caller(ctx context.Context) (pki.Subject, bool) {
	s, ok := ctx.Value(callerKey{}).(pki.Subject)
	return s, ok
}

// hopped says that another node passed this call on to us.
func hopped(ctx context.Context) bool { return ctx.Value(hopKey{}) != nil }

// Operator wraps a door for calls from within the process: there is no
// certificate, the caller is the operator. Never give it to a listener.
func Operator(h http.Handler) http.Handler {
	return As(pki.Subject{Kind: pki.User, Name: "operator"}, h)
}

// As is Operator with another caller, such as the node itself.
func As(who pki.Subject, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
	})
}

// peerPrefix begins the paths of what only nodes call.
const peerPrefix = "/" + peerv1connect.PeerName + "/"

// identify lets in those it knows and says to others what to do.
func (g *gate) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := obs.FromHeader(r.Context(), r.Header)
		who, known := Caller(ctx)
		if !known {
			var err error
			if who, err = g.subject(ctx, r.TLS); err == nil {
				ctx = context.WithValue(ctx, callerKey{}, who)
			} else {
				g.strangers.Inc()
				refuse(w, r, err)
				return
			}
		}
		if g.Admit != nil {
			if err := g.Admit(who); err != nil {
				refuse(w, r, err)
				return
			}
		}
		if strings.HasPrefix(r.URL.Path, peerPrefix) && who.Kind != pki.Node {
			refuse(w, r, banyan.Errorf(banyan.PermissionDenied, "%s is for the nodes of the cluster; %s %q may call banyan.v1", r.URL.Path, who.Kind, who.Name))
			return
		}
		if who.Kind == pki.Node && r.Header.Get(hopHeader) != "" {
			ctx = context.WithValue(ctx, hopKey{}, true)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// subject reads the certificate that the TLS handshake has verified.
func (g *gate) subject(ctx context.Context, state *tls.ConnectionState) (pki.Subject, error) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return pki.Subject{}, banyan.Errorf(banyan.Unauthenticated,
			"this node answers only to holders of its cluster's certificates: use a context ('banyan up' on the first machine wrote one under its configuration directory; copy it here), or 'banyan join' with a token from 'banyan token' to make this machine a node")
	}
	cert := state.VerifiedChains[0][0]
	c := connectionOf(ctx)
	c.once.Do(func() { c.who, c.cluster, c.err = pki.SubjectOf(cert) })
	switch {
	case c.err != nil:
		return c.who, banyan.Errorf(banyan.Unauthenticated, "the certificate is not one of banyan's: %w", c.err)
	case c.cluster != g.Cluster:
		return c.who, banyan.Errorf(banyan.Unauthenticated, "the certificate is of cluster %s, this is cluster %s: choose the right context with --context", c.cluster, g.Cluster)
	case time.Now().After(cert.NotAfter): // connections outlive certificates
		return c.who, banyan.Errorf(banyan.Unauthenticated, "the certificate of %s %q expired at %s: connect again with a renewed one", c.who.Kind, c.who.Name, cert.NotAfter.Format(time.RFC3339))
	}
	return c.who, nil
}

// refuse answers in the caller's protocol, or in plain text.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	ce := wire.Encode(err)
	if writer := connect.NewErrorWriter(); r.Method == http.MethodPost && writer.IsSupported(r) {
		_ = writer.Write(w, r, ce) // the caller is gone if this fails
		return
	}
	w.Header().Set(wire.KindHeader, ce.Meta().Get(wire.KindHeader))
	http.Error(w, err.Error(), httpStatus(banyan.KindOf(err)))
}

// bounded makes calls wait for a place before their bytes are read.
func bounded(places chan struct{}) func(string, http.Handler) (string, http.Handler) {
	return func(path string, next http.Handler) (string, http.Handler) {
		return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
			case <-r.Context().Done():
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), chunkMax)
			defer cancel()
			control := http.NewResponseController(w)
			until := time.Now().Add(chunkMax)
			_ = control.SetReadDeadline(until) // not all writers can; the context bounds the rest
			_ = control.SetWriteDeadline(until)
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}
