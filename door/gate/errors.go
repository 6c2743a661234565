package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"banyan"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/obs"
	"banyan/obs/metric"

	"connectrpc.com/connect"
)

// Status gives the status code that a kind of error has outside; package wire
// holds the table, so that clients read the same one.
func Status(k banyan.Kind) connect.Code { return wire.Code(k) }

// ClientInterceptor makes a generated client return *banyan.Error with the kind
// and the leader that the other side gave.
func ClientInterceptor() connect.Interceptor { return wire.ClientInterceptor() }

// httpStatus is for callers that speak plain HTTP, and only for what the
// middleware itself refuses.
func httpStatus(k banyan.Kind) int {
	switch k {
	case banyan.Unauthenticated:
		return http.StatusUnauthorized
	case banyan.PermissionDenied, banyan.Removed:
		return http.StatusForbidden
	case banyan.Exhausted:
		return http.StatusTooManyRequests
	case banyan.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// edge stands between Connect and the layers: a span for each call, errors with
// their kind, faults of ours logged in full and shown bare.
type edge struct {
	node banyan.NodeID
	log  *slog.Logger
	peer bool // nodes are shown all

	metrics *metric.Set
}

func (e *edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	var meter atomic.Pointer[callMeter]
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		began := time.Now()
		ctx, span := obs.StartServer(ctx, strings.TrimPrefix(req.Spec().Procedure, "/"))
		defer func() {
			err = e.answer(ctx, req.Spec(), recover(), err)
			e.once(&meter, req.Spec().Procedure, false).answered(began, meant(req.Any()), err)
			span.End(err)
		}()
		bill := billOf(ctx)
		if err := bill.unpacked(req.Any()); err != nil {
			return nil, err
		}
		if res, err = next(ctx, req); err != nil {
			return nil, err
		}
		if err := bill.answer(res); err != nil {
			return nil, err
		}
		return res, nil
	}
}

func (e *edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	var meter atomic.Pointer[callMeter]
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if bill := billOf(ctx); bill != nil && bill.packed {
			conn = packedStream{conn, bill}
		}
		err := e.stream(ctx, &meter, conn.Spec().Procedure, func(ctx context.Context) error { return next(ctx, conn) })
		if err != nil {
			return wire.Encode(err)
		}
		return nil
	}
}

// stream answers a stream of calls; its error is one that the caller may see.
func (e *edge) stream(ctx context.Context, at *atomic.Pointer[callMeter], procedure string, run func(context.Context) error) (err error) {
	meter := e.once(at, procedure, true)
	meter.opened.Inc()
	var span obs.Span
	switch procedure {
	case peerv1connect.PeerWorkProcedure, banyanv1connect.KVSessionProcedure: // last as long as the caller
	default:
		ctx, span = obs.StartServer(ctx, strings.TrimPrefix(procedure, "/"))
	}
	defer func() {
		if err = e.explain(ctx, procedure, recover(), err); err != nil {
			meter.failed(wire.Encode(err))
		}
		span.End(err)
	}()
	return run(ctx)
}

func (e *edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// answer gives the error its form for the wire. Its result is nil only without
// an error or a panic.
func (e *edge) answer(ctx context.Context, spec connect.Spec, panicked any, err error) error {
	if err = e.explain(ctx, spec.Procedure, panicked, err); err != nil {
		return wire.Encode(err)
	}
	return nil
}

// explain gives the error that the caller may see: faults of ours are logged in
// full and shown bare.
func (e *edge) explain(ctx context.Context, procedure string, panicked any, err error) error {
	if panicked != nil {
		if panicked == http.ErrAbortHandler { //nolint:errorlint // what was thrown, not an error that is handed up
			panic(panicked)
		}
		err = fmt.Errorf("panic: %v\n%s", panicked, debug.Stack())
	}
	if err != nil && errors.Is(context.Cause(ctx), errLeaving) {
		err = errLeaving
	}
	if err == nil || wire.Encode(err).Code() != connect.CodeInternal || (e.peer && panicked == nil) {
		return err
	}
	ref := banyan.NewRequestID().String()[:8]
	e.log.ErrorContext(ctx, "a call failed by a fault of this node", "call", procedure, "ref", ref, "error", err)
	return &banyan.Error{Kind: banyan.Internal, Msg: fmt.Sprintf("node %v failed to answer: its log has the reason under ref=%s", e.node, ref)}
}
