package wire

import (
	"context"

	"connectrpc.com/connect"
)

// ClientInterceptor makes a generated client return errors as Decode gives
// them, from calls and from streams.
func ClientInterceptor() connect.Interceptor { return decoder{} }

type decoder struct{}

func (decoder) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		if err != nil {
			return nil, Decode(err)
		}
		return res, nil
	}
}

func (decoder) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return decodedConn{next(ctx, spec)}
	}
}

func (decoder) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

type decodedConn struct{ connect.StreamingClientConn }

func (c decodedConn) Send(m any) error     { return Decode(c.StreamingClientConn.Send(m)) }
func (c decodedConn) Receive(m any) error  { return Decode(c.StreamingClientConn.Receive(m)) }
func (c decodedConn) CloseRequest() error  { return Decode(c.StreamingClientConn.CloseRequest()) }
func (c decodedConn) CloseResponse() error { return Decode(c.StreamingClientConn.CloseResponse()) }
