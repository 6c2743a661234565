package obs

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"

	"banyan"
)

// NewLogger gives a logger that writes each record of at least a level as one
// line, as JSON if asked.
func NewLogger(w io.Writer, level slog.Leveler, json bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if json {
		o.ReplaceAttr = inWords
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// inWords has JSON show ids as text does: n3, not 3.
func inWords(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindAny {
		if s, ok := a.Value.Any().(fmt.Stringer); ok {
			a.Value = slog.StringValue(s.String())
		}
	}
	return a
}

// Lines is the end of a log, kept in memory.
type Lines struct{ ring *Ring[[]byte] }

// KeepLines gives a logger that does what log does and keeps the last lines of
// level info and above, whatever log's own level is.
func KeepLines(log *slog.Logger) (*slog.Logger, Lines) {
	l := Lines{NewRing[[]byte](banyan.LogLinesMax)}
	return slog.New(slog.NewMultiHandler(log.Handler(), slog.NewTextHandler(l, nil))), l
}

// Write takes one line; slog's handlers write one at a time.
func (l Lines) Write(line []byte) (int, error) {
	kept := bytes.Clone(line)
	if len(kept) > banyan.LogLineBytesMax {
		kept = append(kept[:banyan.LogLineBytesMax-len(lineCut)], lineCut...)
	}
	l.ring.Put(kept)
	return len(line), nil
}

// lineCut ends a line that was too long.
const lineCut = "…\n"

// Bytes gives all lines, oldest first.
func (l Lines) Bytes() []byte { return bytes.Join(l.ring.All(), nil) }
