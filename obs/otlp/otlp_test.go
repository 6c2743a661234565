package otlp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"banyan/obs"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestWithoutEndpointNothingIsBuilt(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	before := otel.GetTracerProvider()
	shutdown, err := Setup(t.Context(), "test")
	if err != nil || otel.GetTracerProvider() != before {
		t.Fatalf("a provider was set, or %v", err)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Error(err)
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
	ctx, span := obs.Start(obs.WithTraceparent(t.Context(), parent), "outer-work", slog.String("key", "some-value"))
	if tp := obs.Traceparent(ctx); tp == parent || !strings.Contains(tp, "0af7651916cd43dd8448eb211c80319c") {
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
