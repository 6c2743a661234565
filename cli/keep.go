package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// forever is what is kept without a bound.
const forever = "forever"

// keepNothing has a job that its command does not remove go with the next look.
const keepNothing = 1

// parseKeep reads --keep of run: a time, a number of jobs, "forever" or 0.
func parseKeep(s string) (ms int64, newest uint32, err error) {
	bad := usage("bad --keep %q: give a time such as 7d, a number of jobs such as 5, %q, or 0", s, forever)
	switch {
	case s == "":
		return 0, 0, nil
	case s == forever:
		return -1, 0, nil
	case strings.Trim(s, "0123456789") == "":
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, 0, bad
		}
		if n == 0 {
			return keepNothing, 0, nil
		}
		return 0, uint32(n), nil
	}
	if ms, err = parseTimeout(s); err != nil || ms <= 0 {
		return 0, 0, bad
	}
	return ms, 0, nil
}

// parseCount reads a number above 0.
func parseCount(flag, s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return 0, usage("bad %s %q: give a number above 0, or %q", flag, s, forever)
	}
	return n, nil
}

// bound shows a bound of what is kept.
func bound(n int64, show func(int64) string) string {
	if n <= 0 {
		return forever
	}
	return show(n)
}

// days shows milliseconds, in days if they are some.
func days(ms int64) string {
	const day = 24 * 60 * 60 * 1000
	if ms%day == 0 {
		return fmt.Sprintf("%dd", ms/day)
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

// dispose removes a job of which nothing is to be kept, once it has ended and all
// of it was shown. Should it fail, the cluster does it with its next look.
func (a *app) dispose(ctx context.Context, s *session, spec *banyanv1.JobSpec, id banyan.JobID) {
	if spec.KeepMs != keepNothing {
		return
	}
	if _, err := s.Jobs().Remove(ctx, id, false); err == nil && s.lane != nil {
		s.lane.forget(id)
	}
}
