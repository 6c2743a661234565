package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// serviceApp is an app whose machine has a systemctl that notes its calls.
func serviceApp(t *testing.T, shown string) (a *app, out, errs *bytes.Buffer, calls *[]string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("services are systemd units")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	out, errs, calls = &bytes.Buffer{}, &bytes.Buffer{}, &[]string{}
	a = &app{IO: IO{Out: out, Err: errs, Env: os.Getenv}, unitRoot: home}
	a.command = func(_ context.Context, name string, args ...string) (string, error) {
		*calls = append(*calls, name+" "+strings.Join(args, " "))
		return shown, nil
	}
	return a, out, errs, calls
}

func runService(a *app, args ...string) error {
	cmd := a.serviceCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	return cmd.Execute()
}

func TestServiceInstallAndRemove(t *testing.T) {
	a, out, _, calls := serviceApp(t, "ActiveState=active\nUnitFileState=enabled\nMainPID=42\n")
	dir := filepath.Join(t.TempDir(), "a node")
	args := []string{"--dir", dir, "--listen", "0.0.0.0:7117", "--binary", "/usr/bin/banyan", "--user", "somebody"}
	if err := runService(a, append([]string{"print"}, args...)...); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`ExecStart=/usr/bin/banyan up --dir "` + dir + `" --listen=0.0.0.0:7117` + "\n",
		"Type=notify\n", "OOMPolicy=continue\n", "Delegate=yes\n", "NoNewPrivileges=yes\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the unit lacks %q:\n%s", want, out)
		}
	}
	if err := runService(a, append([]string{"install"}, args...)...); err != nil {
		t.Fatal(err)
	}
	place, err := a.unitPlace("banyan")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(place.file)
	if err != nil || string(text) != out.String() {
		t.Errorf("installed %q, %v; printed %q", text, err, out)
	}
	out.Reset()
	if err := runService(a, "status", "-o", "json"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"pid":"42"`) {
		t.Errorf("status: %s", out)
	}
	if err := runService(a, "remove"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(place.file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unit is still there: %v", err)
	}
	if err := runService(a, "remove"); err == nil || !strings.Contains(err.Error(), "service install") {
		t.Errorf("removing none: %v", err)
	}
	user := ""
	if place.user {
		user = "--user "
	}
	want := []string{"daemon-reload", "enable --now banyan.service", "show --property=ActiveState,UnitFileState,MainPID banyan.service", "disable --now banyan.service", "daemon-reload"}
	for i, w := range want {
		if got := (*calls)[i]; got != "systemctl "+user+w {
			t.Errorf("call %d: %q, want %q", i, got, w)
		}
	}
}

func TestServiceStatusOfNone(t *testing.T) {
	a, out, _, _ := serviceApp(t, "ActiveState=inactive\nUnitFileState=\nMainPID=0\n")
	err := runService(a, "status")
	var e *exit
	if !errors.As(err, &e) || e.code != exitError || !strings.Contains(out.String(), "inactive, not installed") {
		t.Errorf("%v, %s", err, out)
	}
}

func TestServiceWithoutSystemd(t *testing.T) {
	a, _, _, _ := serviceApp(t, "")
	a.command = func(context.Context, string, ...string) (string, error) {
		return "", &exec.Error{Name: "systemctl", Err: exec.ErrNotFound}
	}
	if err := runService(a, "status"); err == nil || !strings.Contains(err.Error(), "service print") {
		t.Errorf("without systemctl: %v", err)
	}
}

func TestUnitArguments(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "with space": `"with space"`, `q"uote`: `"q\"uote"`, "50%": "50%%", "$HOME": "$$HOME", `back\slash`: `"back\\slash"`, "": `""`,
	} {
		if got, err := quoteUnit(in); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"line\nbreak", "caf\xe9"} {
		if _, err := quoteUnit(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
