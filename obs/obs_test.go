package obs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestWithoutExporterTheTraceIsPassedOn(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	shutdown, err := Setup(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
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
	if err := shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "x", "00-00000000000000000000000000000000-0000000000000000-01"} {
		if got := Traceparent(WithTraceparent(t.Context(), bad)); got != "" {
			t.Errorf("%q was taken for a trace context: %q", bad, got)
		}
	}
}

func TestExport(t *testing.T) {
	got := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.URL.Path + " " + string(b)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	shutdown, err := Setup(t.Context(), "test-service")
	if err != nil {
		t.Fatal(err)
	}
	defer otel.SetTracerProvider(noop.NewTracerProvider())
	ctx, span := Start(WithTraceparent(t.Context(), parent), "outer-work", slog.String("key", "some-value"))
	if tp := Traceparent(ctx); tp == parent || !strings.Contains(tp, "0af7651916cd43dd8448eb211c80319c") {
		t.Errorf("the span is not in the caller's trace: %q", tp)
	}
	span.End(errors.New("it-broke"))
	if err := shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	sent := <-got
	for _, want := range []string{"/v1/traces", "test-service", "outer-work", "some-value", "it-broke"} {
		if !strings.Contains(sent, want) {
			t.Errorf("the export lacks %q", want)
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
