package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banyan"
)

// serviceFlags are those of the commands about the system's service.
type serviceFlags struct {
	node    nodeFlags
	unit    string // without ".service"
	account string
	binary  string
}

func (a *app) serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Have the system start the node (systemd)",
		Long: `Have systemd start this machine's node at boot, and again if it ends.

Run as root it is a unit of the system; run by another user it is a unit of
that user, which starts when the user logs in or lingers (loginctl
enable-linger). 'service print' writes the unit without installing it: a start
for other service managers.`,
		Args: exactly(),
	}
	cmd.AddCommand(a.serviceInstall(), a.serviceRemove(), a.serviceStatus(), a.servicePrint())
	return cmd
}

func (f *serviceFlags) addUnit(fs *pflag.FlagSet) {
	fs.StringVar(&f.unit, "unit", "banyan", "the `NAME` of the unit, where one machine runs several nodes")
}

func (f *serviceFlags) add(fs *pflag.FlagSet) {
	f.node.add(fs)
	f.addUnit(fs)
	fs.StringVar(&f.account, "user", "", "run the node as this `USER` (default the directory's owner, else who called sudo, else you)")
	fs.StringVar(&f.binary, "binary", "", "start this `FILE` (default this binary)")
}

func (a *app) serviceInstall() *cobra.Command {
	f := &serviceFlags{}
	cmd := &cobra.Command{
		Use:   "install [flags of 'up']",
		Short: "Install, enable and start the unit",
		Long: `Install the unit, enable and start it. The flags are those of 'banyan up': what
is given stands in the unit, the rest is as the node was started before. A node
that runs in the directory already must be stopped first.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := a.unitOf(f)
			if err != nil {
				return err
			}
			return a.installUnit(cmd.Context(), u)
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) servicePrint() *cobra.Command {
	f := &serviceFlags{}
	cmd := &cobra.Command{
		Use:   "print [flags of 'up']",
		Short: "Print the unit that 'service install' would write",
		Args:  exactly(),
		RunE: func(_ *cobra.Command, _ []string) error {
			u, err := a.unitOf(f)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(a.Out, u.text)
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) serviceRemove() *cobra.Command {
	f := &serviceFlags{}
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Stop, disable and remove the unit; the node's directory stays",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			place, err := a.unitPlace(f.unit)
			if err != nil {
				return err
			}
			if _, err := os.Stat(place.file); errors.Is(err, fs.ErrNotExist) {
				return banyan.Errorf(banyan.NotFound, "there is no %s: 'banyan service install' makes one", place.file)
			}
			if _, err := a.systemctl(cmd.Context(), place, "disable", "--now", place.name); err != nil {
				return err
			}
			if err := os.Remove(place.file); err != nil {
				return fmt.Errorf("removing the unit: %w", err)
			}
			if _, err := a.systemctl(cmd.Context(), place, "daemon-reload"); err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "removed %s; the node's directory is as it was\n", place.file)
			return nil
		},
	}
	f.addUnit(cmd.Flags())
	return cmd
}

// serviceJSON is what 'service status -o json' prints.
type serviceJSON struct {
	Unit    string `json:"unit"`
	File    string `json:"file"`
	Active  string `json:"active"`  // as systemd says: active, inactive, failed …
	Enabled string `json:"enabled"` // enabled, disabled …
	PID     string `json:"pid"`     // "0": none
}

func (a *app) serviceStatus() *cobra.Command {
	f := &serviceFlags{}
	var out format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the unit is installed and runs; exit with 1 if not",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			place, err := a.unitPlace(f.unit)
			if err != nil {
				return err
			}
			text, err := a.systemctl(cmd.Context(), place, "show", "--property=ActiveState,UnitFileState,MainPID", place.name)
			if err != nil {
				return err
			}
			return a.printService(out, place, text)
		},
	}
	f.addUnit(cmd.Flags())
	out.add(cmd.Flags())
	return cmd
}

func (a *app) printService(out format, place unitPlace, shown string) error {
	s := serviceJSON{Unit: place.name, File: place.file, Active: "inactive", Enabled: "not installed", PID: "0"}
	for line := range strings.Lines(shown) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case value == "":
		case name == "ActiveState":
			s.Active = value
		case name == "UnitFileState":
			s.Enabled = value
		case name == "MainPID":
			s.PID = value
		}
	}
	var err error
	if out.json() {
		err = writeJSON(a.Out, s)
	} else {
		_, err = fmt.Fprintf(a.Out, "%s: %s, %s (process %s, %s)\n", s.Unit, s.Active, s.Enabled, s.PID, s.File)
	}
	if err == nil && s.Active != "active" {
		return &exit{code: exitError}
	}
	return err
}

// unitPlace is where a unit goes.
type unitPlace struct {
	name, file string
	user       bool // a unit of the user, not of the system
}

func (a *app) unitPlace(name string) (unitPlace, error) {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", r)
	}) {
		return unitPlace{}, usage("bad --unit %q: give letters, digits, '-', '_' and '.'", name)
	}
	if runtime.GOOS != "linux" {
		return unitPlace{}, banyan.Errorf(banyan.Invalid, "services are systemd units, and this is %s: have your service manager run 'banyan up --dir DIR'", runtime.GOOS)
	}
	p := unitPlace{name: name + ".service"}
	if os.Geteuid() == 0 {
		p.file = filepath.Join(a.unitRoot, "/etc/systemd/system", p.name)
		return p, nil
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return p, fmt.Errorf("where your units go: %w", err)
	}
	p.user, p.file = true, filepath.Join(config, "systemd", "user", p.name)
	return p, nil
}

// unit is a unit to be installed.
type unit struct {
	unitPlace
	dir, text string
}

func (a *app) unitOf(f *serviceFlags) (unit, error) {
	place, err := a.unitPlace(f.unit)
	if err != nil {
		return unit{}, err
	}
	c, err := a.nodeConfig(&f.node)
	if err != nil {
		return unit{}, err
	}
	u := unit{unitPlace: place}
	if u.dir, err = filepath.Abs(c.Dir); err != nil {
		return u, err
	}
	binary := f.binary
	if binary == "" {
		if binary, err = os.Executable(); err != nil {
			return u, fmt.Errorf("where this binary is: %w", err)
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return u, err
	}
	if strings.Contains(binary, "/go-build") {
		return u, usage("this binary is the temporary one of 'go run': 'go install ./cmd/banyan' and run that, or give --binary FILE")
	}
	args := []string{binary, "up", "--dir", u.dir}
	for _, name := range []string{"listen", "advertise", "zone", "name", "slots", "dead-after", "log-level", "log-format", "peer", "no-work", "isolation"} {
		if f.node.given(name) {
			args = append(args, "--"+name+"="+f.node.value(name))
		}
	}
	u.text, err = unitText(args, a.account(f, u))
	return u, err
}

// account is the user that a unit of the system runs as.
func (a *app) account(f *serviceFlags, u unit) string {
	switch sudo := a.Env("SUDO_USER"); {
	case u.user:
		return ""
	case f.account != "":
		return f.account
	case ownerOf(u.dir) != "":
		return ownerOf(u.dir)
	case sudo != "":
		return sudo
	}
	if me, err := user.Current(); err == nil {
		return me.Username
	}
	return ""
}

// unitText writes the unit. Tasks are in the node's control group, in groups of
// their own (Delegate). OOMPolicy=continue: a task that the kernel kills for its
// memory does not end the node.
//
// The hardening is what tasks can live with: they are ordinary programs that
// read and write the machine's files, and the isolation of tasks needs
// namespaces and a /proc on which nothing is mounted (so not ProtectKernelLogs
// and ProtectKernelTunables, which add nothing for an ordinary user). Who wants
// less of the machine writable adds ReadOnlyPaths= in a drop-in.
func unitText(args []string, account string) (string, error) {
	var quoted []string
	for _, arg := range args {
		q, err := quoteUnit(arg)
		if err != nil {
			return "", err
		}
		quoted = append(quoted, q)
	}
	run, target := "", "default.target"
	if account != "" {
		run, target = "User="+account+"\n", "multi-user.target"
	}
	return `# Written by 'banyan service install'.
[Unit]
Description=Banyan node
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + strings.Join(quoted, " ") + "\n" + run + `Restart=on-failure
RestartSec=1
TimeoutStopSec=60
KillMode=mixed
Delegate=yes
OOMPolicy=continue
OOMScoreAdjust=-200
LimitNOFILE=1048576
TasksMax=infinity
NoNewPrivileges=yes
ProtectClock=yes
ProtectKernelModules=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=` + target + "\n", nil
}

// quoteUnit writes an argument of ExecStart=: see systemd.service(5), "COMMAND LINES".
func quoteUnit(arg string) (string, error) {
	for _, r := range arg {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return "", usage("%q cannot stand in a unit: it has characters that are no text", arg)
		}
	}
	arg = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(arg)
	if strings.ContainsAny(arg, " \t;'\"\\") || arg == "" {
		return `"` + arg + `"`, nil
	}
	return arg, nil
}

func (a *app) installUnit(ctx context.Context, u unit) error {
	if err := os.MkdirAll(filepath.Dir(u.file), 0o755); err != nil {
		return fmt.Errorf("installing the unit: %w", err)
	}
	if err := os.WriteFile(u.file, []byte(u.text), 0o644); err != nil {
		return fmt.Errorf("installing the unit: %w", err)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--now", u.name}} {
		if _, err := a.systemctl(ctx, u.unitPlace, args...); err != nil {
			return fmt.Errorf("the unit is at %s, but: %w", u.file, err)
		}
	}
	fmt.Fprintf(a.Err, "%s runs and starts with the machine; 'banyan service status' looks at it, 'journalctl -u %s' shows its log\n", u.name, u.name)
	if u.user {
		fmt.Fprintln(a.Err, "it stops when you log out, unless you linger: loginctl enable-linger")
	}
	return nil
}

// systemctl runs systemctl, as the user's if the unit is the user's.
func (a *app) systemctl(ctx context.Context, p unitPlace, args ...string) (string, error) {
	if p.user {
		args = append([]string{"--user"}, args...)
	}
	out, err := a.command(ctx, "systemctl", args...)
	if errors.Is(err, exec.ErrNotFound) {
		return "", banyan.Errorf(banyan.Unavailable, "there is no systemctl here: 'banyan service print' shows the unit, for another service manager")
	}
	if err != nil {
		return "", fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, oneLine(out))
	}
	return out, nil
}

// runProgram runs a program of the machine and gives what it printed.
func runProgram(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}
