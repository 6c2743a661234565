// Package pause waits: for a while, or before asking again by the one policy
// (package core/retry). It is what drivers use; cores count milliseconds.
package pause

import (
	"context"
	"time"

	"banyan/core/retry"
)

// For waits for d. It gives the error of ctx if that ends first.
func For(ctx context.Context, d time.Duration) error { return Until(ctx, d, nil) }

// Until waits for d, or until early is closed. It gives the error of ctx if that
// ends first.
func Until(ctx context.Context, d time.Duration, early <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-early:
		return nil
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Retry is the pauses of one loop that asks again. Its zero value is before the
// first.
type Retry struct{ retry.Wait }

// Next gives the pause before the next try.
func (r *Retry) Next() time.Duration { return time.Duration(r.Wait.Next()) * time.Millisecond }

// Pause waits before the next try. It gives the error of ctx if that ends first.
func (r *Retry) Pause(ctx context.Context) error { return For(ctx, r.Next()) }
