package cli

import (
	"strings"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

func TestParseKeep(t *testing.T) {
	for text, want := range map[string][2]int64{
		"": {0, 0}, "7d": {7 * 24 * 3_600_000, 0}, "5": {0, 5}, "forever": {-1, 0}, "0": {keepNothing, 0}, "1h30m": {5_400_000, 0},
	} {
		ms, newest, err := parseKeep(text)
		if err != nil || ms != want[0] || int64(newest) != want[1] {
			t.Errorf("--keep %q: %d, %d, %v", text, ms, newest, err)
		}
	}
	for _, text := range []string{"x", "-1", "7w", "99999999999999999999", "0d"} {
		if _, _, err := parseKeep(text); err == nil {
			t.Errorf("--keep %q is taken", text)
		}
	}
}

func TestKeepSettings(t *testing.T) {
	for _, c := range []struct {
		args, want, errs string
	}{
		{"--keep 90d --keep-jobs 7 --keep-bytes 1K", "keep_ms:7776000000 keep_jobs:7 keep_bytes:1024", ""},
		{"--keep forever --keep-bytes forever", "keep_ms:-1 keep_bytes:-1", ""},
		{"--keep-jobs 0", "", "bad --keep-jobs"},
		{"--keep-bytes=", "", "--keep-bytes is empty"},
		{"--keep soon", "", "bad --keep"},
		{"", "", "nothing to set"},
	} {
		var got *banyanv1.Settings
		a := &app{}
		cmd := a.clusterSetCommand()
		err := cmd.ParseFlags(strings.Fields(c.args))
		if err == nil {
			var f settingFlags
			f.keep, _ = cmd.Flags().GetString("keep")
			f.jobs, _ = cmd.Flags().GetString("keep-jobs")
			f.room, _ = cmd.Flags().GetString("keep-bytes")
			got, err = f.settings(cmd.Flags().Changed)
		}
		text := strings.Join(strings.Fields(got.String()), " ")
		if c.errs != "" && (err == nil || !strings.Contains(err.Error(), c.errs)) || c.errs == "" && (err != nil || text != c.want) {
			t.Errorf("cluster set %s: %q, %v", c.args, text, err)
		}
	}
	if got := bound(14*24*3_600_000, days) + " " + bound(-1, days) + " " + bound(90_000, days); got != "14d forever 1m30s" {
		t.Error(got)
	}
}
