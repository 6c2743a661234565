package replica

import (
	"context"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
)

// raftLog brings raft's log lines, which are about each step of each election,
// to slog at one level lower than raft thinks of them.
type raftLog struct{ log *slog.Logger }

var _ raft.Logger = raftLog{}

func (l raftLog) put(level slog.Level, v ...any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "raft: "+fmt.Sprint(v...))
	}
}

func (l raftLog) putf(level slog.Level, format string, v ...any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "raft: "+fmt.Sprintf(format, v...))
	}
}

// Debug drops what only raft's authors want.
func (l raftLog) Debug(...any) {}

// Debugf drops what only raft's authors want.
func (l raftLog) Debugf(string, ...any) {}

// Info logs at debug level.
func (l raftLog) Info(v ...any) { l.put(slog.LevelDebug, v...) }

// Infof logs at debug level.
func (l raftLog) Infof(format string, v ...any) { l.putf(slog.LevelDebug, format, v...) }

// Warning logs at info level.
func (l raftLog) Warning(v ...any) { l.put(slog.LevelInfo, v...) }

// Warningf logs at info level.
func (l raftLog) Warningf(format string, v ...any) { l.putf(slog.LevelInfo, format, v...) }

// Error logs at warning level.
func (l raftLog) Error(v ...any) { l.put(slog.LevelWarn, v...) }

// Errorf logs at warning level.
func (l raftLog) Errorf(format string, v ...any) { l.putf(slog.LevelWarn, format, v...) }

// Fatal panics: an invariant of raft is broken, and the node must not go on.
func (l raftLog) Fatal(v ...any) { panic("raft: " + fmt.Sprint(v...)) }

// Fatalf panics: an invariant of raft is broken, and the node must not go on.
func (l raftLog) Fatalf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }

// Panic panics: an invariant of raft is broken, and the node must not go on.
func (l raftLog) Panic(v ...any) { l.Fatal(v...) }

// Panicf panics: an invariant of raft is broken, and the node must not go on.
func (l raftLog) Panicf(format string, v ...any) { l.Fatalf(format, v...) }
