package banyan

import (
	"errors"
	"fmt"
)

// Kind says what sort of error it is. It survives the wire: the doors map it
// to a status in one table (gate.Status) and the client maps it back.
// Do not reorder. New kinds are added only to the end.
type Kind uint8

// The kinds of error.
const (
	Internal         Kind = iota // a fault of ours; logged in full, shown bare
	Invalid                      // the request itself is wrong; retrying will not help
	NotFound                     // the named thing does not exist
	AlreadyExists                // the named thing exists already
	Conflict                     // a condition of the request did not hold
	NotLeader                    // this replica does not lead the shard; ask the leader
	Unavailable                  // cannot be done now (no quorum, no node); retry later
	Timeout                      // not done in the time given; it may still happen
	Canceled                     // the caller gave up
	Unauthenticated              // no certificate of this cluster, or a bad token
	PermissionDenied             // known, but not allowed
	Exhausted                    // a limit of docs/limits.md is reached
	Corrupt                      // stored bytes do not match their checksum
	TooNew                       // a format or protocol newer than this binary
	Stale                        // refused in apply: proposed under an older term; safe to retry
	Compacted                    // the revision asked for is below the compaction horizon
	Removed                      // the calling node was taken out of the cluster for good
	Forgotten                    // it may have been done before: that was too long ago to tell; look, do not retry
	Moved                        // the shard does not hold these rows any more; nothing happened, ask the one that does
)

var kindNames = [...]string{
	"internal", "invalid", "not found", "already exists", "conflict", "not leader",
	"unavailable", "timeout", "canceled", "unauthenticated", "permission denied",
	"limit reached", "corrupt", "too new", "stale", "compacted", "removed", "forgotten",
	"moved",
}

// String gives the kind's name in words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// Kinds is the number of kinds known to this binary.
const Kinds = len(kindNames)

// Error is an error of a kind. Msg says what happened, to what, and what to do.
type Error struct {
	Kind Kind
	Msg  string
	Err  error // the cause, or nil

	// Leader is a hint with NotLeader: the node that leads, or 0.
	Leader NodeID
}

// Error gives the message and its cause.
func (e *Error) Error() string {
	switch {
	case e.Msg == "" && e.Err == nil:
		return e.Kind.String()
	case e.Err == nil:
		return e.Msg
	case e.Msg == "":
		return e.Err.Error()
	}
	return e.Msg + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, &Error{Kind: k}) ask for the kind alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Msg == "" && t.Err == nil && t.Kind == e.Kind
}

// Errorf builds an error of a kind. A %w in the format keeps the cause.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// KindOf gives the kind of the outermost *Error in err's chain, Internal if
// there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// IsKind says whether err carries an *Error of kind k.
func IsKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}
