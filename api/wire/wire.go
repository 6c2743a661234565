// Package wire carries the kind of an error over the wire, both ways: one table
// maps kinds to the status codes of Connect and gRPC, and two headers beside the
// status keep what the code alone would lose. It also holds the form that the
// messages of a session have on a connection of their own.
package wire

import (
	"context"
	"errors"
	"io"
	"strconv"
	"syscall"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"

	"connectrpc.com/connect"
)

// The headers (trailers, in streams and gRPC) that go with an error.
const (
	KindHeader   = "Banyan-Kind"   // the number of the banyan.Kind
	LeaderHeader = "Banyan-Leader" // with NotLeader: the id of the node that leads
)

// codes is the table: which status a kind has for those who do not read KindHeader.
var codes = [banyan.Kinds]connect.Code{
	banyan.Internal:         connect.CodeInternal,
	banyan.Invalid:          connect.CodeInvalidArgument,
	banyan.NotFound:         connect.CodeNotFound,
	banyan.AlreadyExists:    connect.CodeAlreadyExists,
	banyan.Conflict:         connect.CodeFailedPrecondition,
	banyan.NotLeader:        connect.CodeUnavailable,
	banyan.Unavailable:      connect.CodeUnavailable,
	banyan.Timeout:          connect.CodeDeadlineExceeded,
	banyan.Canceled:         connect.CodeCanceled,
	banyan.Unauthenticated:  connect.CodeUnauthenticated,
	banyan.PermissionDenied: connect.CodePermissionDenied,
	banyan.Exhausted:        connect.CodeResourceExhausted,
	banyan.Corrupt:          connect.CodeDataLoss,
	banyan.TooNew:           connect.CodeUnimplemented,
	banyan.Stale:            connect.CodeAborted,
	banyan.Compacted:        connect.CodeOutOfRange,
	banyan.Removed:          connect.CodePermissionDenied,
	banyan.Forgotten:        connect.CodeOutOfRange,
	banyan.Moved:            connect.CodeUnavailable,
}

// Code gives the status of a kind; a kind newer than this binary is internal.
func Code(k banyan.Kind) connect.Code {
	if int(k) < len(codes) {
		return codes[k]
	}
	return connect.CodeInternal
}

// kindOf reads the table backwards, for errors of servers that sent no KindHeader.
func kindOf(c connect.Code) banyan.Kind {
	if c == connect.CodeUnavailable {
		return banyan.Unavailable
	}
	for k, code := range codes {
		if code == c {
			return banyan.Kind(k)
		}
	}
	return banyan.Internal
}

// Encode makes an error ready for the wire. An error without a kind is Internal,
// but for the ends of contexts.
func Encode(err error) *connect.Error {
	e := known(err)
	if e == nil {
		var ce *connect.Error // made by Connect itself: a malformed or too large request
		if errors.As(err, &ce) {
			ce.Meta().Set(KindHeader, strconv.Itoa(int(kindOf(ce.Code()))))
			return ce
		}
		e = &banyan.Error{Kind: banyan.Internal}
	}
	ce := connect.NewError(Code(e.Kind), errors.New(err.Error()))
	ce.Meta().Set(KindHeader, strconv.Itoa(int(e.Kind)))
	if e.Leader != 0 {
		ce.Meta().Set(LeaderHeader, strconv.FormatUint(uint64(e.Leader), 10))
	}
	return ce
}

// known gives the error of ours that err is or wraps, nil if there is none.
func known(err error) *banyan.Error {
	var e *banyan.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return &banyan.Error{Kind: banyan.Canceled}
	case errors.Is(err, context.DeadlineExceeded):
		return &banyan.Error{Kind: banyan.Timeout}
	}
	return nil
}

// EncodeCall is Encode for one call of a session.
func EncodeCall(err error) *banyanv1.CallError {
	e := known(err)
	if e == nil {
		e = &banyan.Error{Kind: banyan.Internal}
	}
	return &banyanv1.CallError{Kind: uint32(e.Kind), Message: err.Error(), Leader: uint64(e.Leader)}
}

// DecodeCall gives what EncodeCall was given, as Decode does.
func DecodeCall(e *banyanv1.CallError) *banyan.Error {
	out := &banyan.Error{Kind: banyan.Internal, Msg: e.GetMessage(), Leader: banyan.NodeID(e.GetLeader())}
	if e.GetKind() < uint32(banyan.Kinds) {
		out.Kind = banyan.Kind(e.GetKind())
	}
	return out
}

// Decode gives what Encode was given: a *banyan.Error with its kind, message
// and leader. An error that did not come from the other side (refused, broken
// off) is Unavailable unless the context ended. nil, io.EOF and errors that
// have a kind stay as they are, but for what Connect wrapped around them.
func Decode(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	var e *banyan.Error
	var ce *connect.Error
	wrapped := errors.As(err, &ce)
	switch {
	case errors.As(err, &e) && wrapped:
		return e
	case e != nil:
		return err
	case !wrapped:
		return &banyan.Error{Kind: localKind(err, connect.CodeUnavailable), Err: err}
	}
	out := &banyan.Error{Msg: ce.Message(), Kind: kindOf(ce.Code())}
	if !connect.IsWireError(err) && ce.Code() == connect.CodeUnimplemented {
		return &banyan.Error{Kind: banyan.TooNew, Msg: "the node that was asked runs an older release, which does not know this call: upgrade it", Err: ce.Unwrap()}
	}
	if !connect.IsWireError(err) {
		return &banyan.Error{Kind: localKind(err, ce.Code()), Err: ce.Unwrap()}
	}
	if k, perr := strconv.ParseUint(ce.Meta().Get(KindHeader), 10, 8); perr == nil && k < uint64(banyan.Kinds) {
		out.Kind = banyan.Kind(k)
	}
	if n, perr := strconv.ParseUint(ce.Meta().Get(LeaderHeader), 10, 64); perr == nil {
		out.Leader = banyan.NodeID(n)
	}
	return out
}

// localKind is the kind of an error made on this side of the wire.
func localKind(err error, code connect.Code) banyan.Kind {
	switch {
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		// Connect calls this canceled, taking every end for a server's, whose
		// client went away. Here it is the other way round.
		return banyan.Unavailable
	case errors.Is(err, context.Canceled) || code == connect.CodeCanceled:
		return banyan.Canceled
	case errors.Is(err, context.DeadlineExceeded) || code == connect.CodeDeadlineExceeded:
		return banyan.Timeout
	case code == connect.CodeResourceExhausted:
		return banyan.Exhausted
	}
	return banyan.Unavailable
}
