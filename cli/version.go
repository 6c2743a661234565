package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"banyan"
)

// versionJSON is what 'version -o json' prints.
type versionJSON struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Date     string `json:"date"` // of the commit, RFC 3339; "" if the build did not stamp it
	Protocol int    `json:"protocol"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactly(),
		RunE: func(_ *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			v := thisVersion()
			if f.json() {
				return writeJSON(a.Out, v)
			}
			_, err := fmt.Fprintf(a.Out, "banyan %s %s%s (protocol %d, %s, %s)\n", v.Version, v.Commit, v.day(), v.Protocol, v.Go, v.Platform)
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func thisVersion() versionJSON {
	return versionJSON{banyan.Version, commit(), commitDate(), banyan.ProtocolVersion, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
}

// commit is the commit the binary was built from, as the build stamped it.
func commit() string {
	rev, dirty := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				rev = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+"
			}
		}
	}
	return rev + dirty
}

// commitDate is when that commit was made.
func commitDate() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				return s.Value
			}
		}
	}
	return ""
}

// day is the commit's date for people, with a space before it, or nothing.
func (v versionJSON) day() string {
	if len(v.Date) < len(time.DateOnly) {
		return ""
	}
	return " of " + v.Date[:len(time.DateOnly)]
}
