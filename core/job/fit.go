package job

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// signalBytesMax bounds the name of a signal.
const signalBytesMax = 64

// killedBytesMax bounds the name of a process that a task left behind.
const killedBytesMax = 256

// Fit makes a result one that can be sent and stored, whatever a task or its
// files put into it: its texts become UTF-8 of bounded length, and a result that
// is too large for a row becomes a failure that says so.
func Fit(r *banyanv1.TaskResult) {
	r.Error, r.Signal = Text(r.Error, banyan.ErrorBytesMax), Text(r.Signal, signalBytesMax)
	for i, k := range r.Killed {
		r.Killed[i] = Text(k, killedBytesMax)
	}
	size := proto.Size(r)
	if size <= banyan.ResultBytesMax {
		return
	}
	because := Text(r.Error, banyan.ErrorBytesMax/2)
	r.Error = fmt.Sprintf("the result is %d bytes long, the most is %d (ResultBytesMax): have the task print less, or write to files and return those", size, banyan.ResultBytesMax)
	if because != "" {
		r.Error = because + "; " + r.Error
	}
	if r.State == banyanv1.TaskState_TASK_STATE_SUCCEEDED {
		r.State = banyanv1.TaskState_TASK_STATE_FAILED
	}
	r.Returned, r.ReturnedList, r.Input, r.Killed, r.Dropped = nil, nil, nil, nil, nil
	for _, o := range []*banyanv1.Output{r.Stdout, r.Stderr} {
		if o != nil {
			o.Inline, o.Chunks, o.Truncated = nil, nil, o.Bytes > 0
		}
	}
}

// Text makes valid UTF-8 of at most so many bytes. A byte that is no text shows
// as \xe9.
func Text(s string, most int) string {
	if len(s) > 4*most {
		s = s[:4*most] // the rest could not show
	}
	if !utf8.ValidString(s) {
		var b strings.Builder
		for i, r := range s {
			if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			} else {
				b.WriteRune(r)
			}
		}
		s = b.String()
	}
	if len(s) <= most {
		return s
	}
	at := most - len("…")
	for at > 0 && !utf8.RuneStart(s[at]) {
		at--
	}
	return s[:at] + "…"
}
