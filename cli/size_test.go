package cli

import "testing"

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"": 0, "1": 1, "500M": 500 << 20, "1.5k": 1536, "10GiB": 10 << 30, "2GB": 2 << 30, "1T": 1 << 40} {
		if got, err := parseSize("--x", s, 1<<40); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"0", "-1", "x", "G", "2T", "1Q", "NaN", "Inf", "1 000"} {
		if got, err := parseSize("--x", s, 1<<40); err == nil {
			t.Errorf("%q is taken for %d", s, got)
		}
	}
}
