// Package otlp exports spans over OTLP/HTTP.
package otlp

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// flushMax is given to the last spans at shutdown.
const flushMax = 3 * time.Second

// Setup starts the export of spans over OTLP/HTTP if the standard environment
// asks for it with OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT), and does
// nothing otherwise. The other OTEL_ variables mean what they mean everywhere.
// shutdown sends what is left and waits for at most three seconds. Call Setup
// once per process, from its composition root.
func Setup(ctx context.Context, service string) (shutdown func(context.Context) error, err error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot export traces to OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	res, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", service)), resource.WithHost(), resource.WithProcessPID(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("cannot describe this process for traces: %w", err)
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(res))
	otel.SetTracerProvider(provider)
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, flushMax)
		defer cancel()
		return provider.Shutdown(ctx)
	}, nil
}
