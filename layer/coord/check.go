package coord

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// waitMaxMs is the longest time that one Acquire may wait; then it is repeated.
const waitMaxMs = 30_000

func checkName(name string) error {
	switch {
	case name == "" || name[0] == '/':
		return banyan.Errorf(banyan.Invalid, "a lock has no name: give one, such as nightly or shop/stock")
	case len(name) > banyan.NameBytesMax:
		return banyan.Errorf(banyan.Exhausted, "the name %.32q… of a lock has %d bytes: at most %d are allowed (NameBytesMax)", name, len(name), banyan.NameBytesMax)
	}
	return checkText("the name", name)
}

func checkText(what, s string) error {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return banyan.Errorf(banyan.Invalid, "%s %.64q of a lock has characters that cannot be printed: leave them out", what, s)
	}
	return nil
}

func checkLease(lease uint64) error {
	if lease == 0 {
		return banyan.Errorf(banyan.Invalid, "lease is 0: draw a number at random")
	}
	return nil
}

func checkAcquire(req *banyanv1.AcquireRequest) error {
	if err := checkName(req.Name); err != nil {
		return err
	}
	if err := checkLease(req.Lease); err != nil {
		return err
	}
	switch {
	case req.TtlMs != 0 && (req.TtlMs < TTLMinMs || req.TtlMs > TTLMaxMs):
		return banyan.Errorf(banyan.Invalid, "lock %q: a TTL of %d ms: give one from %d s to %d h", req.Name, req.TtlMs, TTLMinMs/1000, TTLMaxMs/3_600_000)
	case req.Permits > banyan.LockPermitsMax:
		return banyan.Errorf(banyan.Exhausted, "lock %q: %d permits: at most %d are allowed (LockPermitsMax)", req.Name, req.Permits, banyan.LockPermitsMax)
	case req.Permits > 1 && req.Shared:
		return banyan.Errorf(banyan.Invalid, "lock %q: shared and %d permits at once: give one or the other", req.Name, req.Permits)
	case len(req.Owner) > banyan.NameBytesMax:
		return banyan.Errorf(banyan.Exhausted, "lock %q: the owner has %d bytes: at most %d are allowed (NameBytesMax)", req.Name, len(req.Owner), banyan.NameBytesMax)
	case len(req.Value) > banyan.LockValueBytesMax:
		return banyan.Errorf(banyan.Exhausted, "lock %q: the value has %d bytes: at most %d are allowed (LockValueBytesMax)", req.Name, len(req.Value), banyan.LockValueBytesMax)
	}
	return checkText("the owner", req.Owner)
}

func checkKeepAlive(req *banyanv1.KeepAliveRequest) error {
	if len(req.Leases) > banyan.LeaseBatchMax {
		return banyan.Errorf(banyan.Exhausted, "%d leases in one call: at most %d are allowed (LeaseBatchMax)", len(req.Leases), banyan.LeaseBatchMax)
	}
	for _, ref := range req.Leases {
		if err := checkName(ref.Partition); err != nil {
			return err
		}
	}
	return nil
}
