package obs

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"banyan"
)

func TestLastLinesAreKept(t *testing.T) {
	var out bytes.Buffer
	log, lines := KeepLines(NewLogger(&out, slog.LevelWarn, true))
	log.Debug("too little")
	log.With("node", 1).Info("kept only", "x", 1)
	log.Warn("both", "by", banyan.NodeID(3))
	if got := string(lines.Bytes()); !strings.Contains(got, `msg="kept only" node=1 x=1`) || !strings.Contains(got, "msg=both") || strings.Contains(got, "too little") {
		t.Errorf("kept:\n%s", got)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"msg":"both","by":"n3"`) {
		t.Errorf("written: %s", got)
	}
	for range banyan.LogLinesMax {
		log.Info(strings.Repeat("ä", banyan.LogLineBytesMax))
	}
	kept := bytes.SplitAfter(lines.Bytes(), []byte("\n"))
	if len(kept) != banyan.LogLinesMax+1 || len(kept[0]) > banyan.LogLineBytesMax || !bytes.HasSuffix(kept[0], []byte(lineCut)) {
		t.Errorf("%d lines, the first of %d bytes", len(kept)-1, len(kept[0]))
	}
}

func TestRingKeepsTheLast(t *testing.T) {
	r := NewRing[int](3)
	for i := range 5 {
		r.Put(i)
	}
	if got := r.All(); len(got) != 3 || got[0] != 2 || got[2] != 4 {
		t.Errorf("it holds %v", got)
	}
}
