//go:build unix

package cli

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestWithoutHomeThingsAreKeptInAPrivatePlace: as under cron or 'env -i'.
func TestWithoutHomeThingsAreKeptInAPrivatePlace(t *testing.T) {
	for _, home := range []string{"", "relative"} {
		t.Setenv("HOME", home)
		t.Setenv("XDG_CONFIG_HOME", "")
		temp, own := t.TempDir(), t.TempDir()
		mine := filepath.Join(temp, "banyan-"+strconv.Itoa(os.Getuid()))
		told := ""
		system := own
		env := map[string]string{}
		h := homes{env: func(k string) string { return env[k] }, system: func() string { return system }, temp: temp, tell: func(s string) { told = s }}

		if got, err := h.state(); err != nil || !strings.HasPrefix(got, own) || told != "" {
			t.Errorf("state in %q, %v; the user has a home: %q", got, err, told)
		}
		if got, err := h.config(); err != nil || !strings.HasPrefix(got, own) {
			t.Errorf("contexts in %q, %v", got, err)
		}
		os.Chmod(own, 0o777) // where all can write, as in /tmp
		for _, system = range []string{"", "/nonexistent", own} {
			got, err := h.state()
			if err != nil || !strings.HasPrefix(got, mine) || !strings.Contains(told, mine) {
				t.Errorf("state in %q, %v; told %q", got, err, told)
			}
			if st, err := os.Stat(mine); err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("%v, %v", st.Mode(), err)
			}
		}
		env["XDG_STATE_HOME"] = own
		if got, err := h.state(); err != nil || got != filepath.Join(own, "banyan") {
			t.Errorf("state in %q, %v", got, err)
		}
	}
}

// TestAPrivatePlaceThatIsNotIsRefused: another user may have made it first.
func TestAPrivatePlaceThatIsNotIsRefused(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv("XDG_CONFIG_HOME", "")
	temp := t.TempDir()
	mine := filepath.Join(temp, "banyan-"+strconv.Itoa(os.Getuid()))
	for what, spoil := range map[string]func() error{
		"readable": func() error { return os.Chmod(mine, 0o755) },
		"writable": func() error { return os.Chmod(mine, 0o722) },
		"a link":   func() error { return os.Rename(mine, mine+"x") },
		"a file":   func() error { os.RemoveAll(mine); return os.WriteFile(mine, nil, 0o600) },
		"another's": func() error {
			if os.Getuid() != 0 {
				return os.Chmod(mine, 0o755)
			}
			return os.Chown(mine, 12345, -1)
		},
	} {
		os.RemoveAll(mine)
		if err := os.Mkdir(mine, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if what == "a link" {
			os.Symlink(mine+"x", mine)
		}
		h := homes{env: func(string) string { return "" }, system: func() string { return "" }, temp: temp, tell: func(s string) { t.Errorf("%s: %s", what, s) }}
		if got, err := h.state(); err == nil || !strings.Contains(err.Error(), "set HOME") {
			t.Errorf("%s: state in %q, %v", what, got, err)
		}
		if got, err := h.config(); err == nil {
			t.Errorf("%s: contexts in %q", what, got)
		}
	}
}
