// Package obs makes spans and logs: the one place that knows OpenTelemetry. Its
// exporter is apart, in obs/otlp, so that the SDK does not carry it.
//
// Without an exporter a span costs next to nothing, yet a W3C trace
// context that comes in still goes out again, to other nodes and to tasks.
package obs

import (
	"context"
	"log/slog"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"
)

const (
	// TraceparentEnv is the variable in which a task's process, and the
	// command line, get the trace context.
	TraceparentEnv = "TRACEPARENT"

	header = "Traceparent"
	tracer = "banyan"
)

// Span is a piece of work that is timed. The zero Span is none.
type Span struct{ s oteltrace.Span }

// unset is the provider of spans of a process that exports none. What it makes
// does nothing but cost memory.
var unset = otel.GetTracerProvider()

// Start begins a span, the child of the one in ctx. Whoever starts it ends it.
func Start(ctx context.Context, name string, attrs ...slog.Attr) (context.Context, Span) {
	if otel.GetTracerProvider() == unset {
		return ctx, Span{}
	}
	ctx, s := otel.Tracer(tracer).Start(ctx, name)
	span := Span{s}
	span.Set(attrs...)
	return ctx, span
}

// StartServer is Start for a call that came in.
func StartServer(ctx context.Context, name string) (context.Context, Span) {
	if otel.GetTracerProvider() == unset {
		return ctx, Span{}
	}
	ctx, s := otel.Tracer(tracer).Start(ctx, name, oteltrace.WithSpanKind(oteltrace.SpanKindServer))
	return ctx, Span{s}
}

// Set adds attributes to the span.
func (s Span) Set(attrs ...slog.Attr) {
	if len(attrs) == 0 || s.s == nil || !s.s.IsRecording() {
		return
	}
	for _, a := range attrs {
		s.s.SetAttributes(keyValue(a))
	}
}

func keyValue(a slog.Attr) attribute.KeyValue {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindInt64:
		return attribute.Int64(a.Key, v.Int64())
	case slog.KindUint64:
		return attribute.Int64(a.Key, int64(v.Uint64()))
	case slog.KindFloat64:
		return attribute.Float64(a.Key, v.Float64())
	case slog.KindBool:
		return attribute.Bool(a.Key, v.Bool())
	default:
		return attribute.String(a.Key, v.String())
	}
}

// End ends the span; an error marks it as failed.
func (s Span) End(err error) {
	if s.s == nil {
		return
	}
	if err != nil && s.s.IsRecording() {
		s.s.SetStatus(codes.Error, err.Error())
	}
	s.s.End()
}

// Traceparent gives the W3C form of the span in ctx, "" if there is none: the
// value of TRACEPARENT for a task.
func Traceparent(ctx context.Context) string {
	if !oteltrace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	return c["traceparent"]
}

// WithTraceparent gives a context whose spans belong to a trace that began
// elsewhere. A malformed or empty value changes nothing.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// FromHeader is WithTraceparent with what a caller sent.
func FromHeader(ctx context.Context, h http.Header) context.Context {
	return WithTraceparent(ctx, h.Get(header))
}

// ToHeader sends the span in ctx along with a call.
func ToHeader(ctx context.Context, h http.Header) {
	if tp := Traceparent(ctx); tp != "" {
		h.Set(header, tp)
	}
}
