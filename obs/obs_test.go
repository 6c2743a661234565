package obs

import (
	"errors"
	"log/slog"
	"net/http"
	"testing"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestWithoutExporterTheTraceIsPassedOn(t *testing.T) {
	ctx, span := Start(WithTraceparent(t.Context(), parent), "work", slog.Int("n", 1))
	if got := Traceparent(ctx); got != parent {
		t.Errorf("the trace context became %q", got)
	}
	h := http.Header{}
	ToHeader(ctx, h)
	if got := Traceparent(FromHeader(t.Context(), h)); got != parent {
		t.Errorf("through a header it became %q", got)
	}
	span.End(errors.New("x"))
	for _, bad := range []string{"", "x", "00-00000000000000000000000000000000-0000000000000000-01"} {
		if got := Traceparent(WithTraceparent(t.Context(), bad)); got != "" {
			t.Errorf("%q was taken for a trace context: %q", bad, got)
		}
	}
}

func BenchmarkStartWithoutExporter(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, s := Start(b.Context(), "x")
		s.End(nil)
	}
}
