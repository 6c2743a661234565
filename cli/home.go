package cli

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"

	"banyan"
)

// homes finds a directory of this user's own. Where the environment names none,
// as under cron or 'env -i', it is the one that the system has for the user, or
// else a directory under the one for temporary files that nobody else can read.
type homes struct {
	env    func(string) string
	system func() string // the user's home as the system knows it, "" for none
	temp   string
	tell   func(text string) // of a place that may not last
}

func (a *app) homes() homes {
	return homes{env: a.Env, system: systemHome, temp: os.TempDir(), tell: func(text string) {
		if !a.toldHome {
			a.toldHome = true
			fmt.Fprintln(a.Err, text)
		}
	}}
}

func systemHome() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.HomeDir
}

// find gives the directory. It is an error if there is none that is private.
func (h homes) find() (string, error) {
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		return home, nil
	}
	if home := h.system(); filepath.IsAbs(home) && private(home) == nil {
		return home, nil
	}
	dir, err := privateTemp(h.temp)
	if err != nil {
		return "", banyan.Errorf(banyan.Invalid, "there is no home directory, and none can be made: %w: set HOME, or XDG_STATE_HOME and XDG_CONFIG_HOME", err)
	}
	h.tell("banyan: HOME is not set: what is to be kept is in " + dir + ", which may not outlive the machine's next start")
	return dir, nil
}

// state is where programs keep what they must not lose but nobody edits.
func (h homes) state() (string, error) {
	if dir := h.env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "banyan"), nil
	}
	if dir := h.env("LOCALAPPDATA"); runtime.GOOS == "windows" && dir != "" {
		return filepath.Join(dir, "banyan"), nil
	}
	home, err := h.find()
	if err != nil {
		return "", err
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "banyan"), nil
	}
	return filepath.Join(home, ".local", "state", "banyan"), nil
}

// config is where contexts are kept.
func (h homes) config() (string, error) {
	if dir := h.env("BANYAN_CONFIG"); dir != "" {
		return dir, nil
	}
	if dir, err := os.UserConfigDir(); err == nil && filepath.IsAbs(dir) {
		return filepath.Join(dir, "banyan"), nil
	}
	home, err := h.find()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".config", "banyan"), nil
}

// privateTemp makes a directory of this user's alone under the one for temporary
// files. Its name is known to all, so what is there already is believed only if
// it is this user's and closed to others.
func privateTemp(temp string) (string, error) {
	dir := filepath.Join(temp, fmt.Sprintf("banyan-%d", os.Getuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return "", err
	}
	if err := private(dir); err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s can be read by others: close it with 'chmod 700 %s', if it is yours", dir, dir)
	}
	return dir, err
}
