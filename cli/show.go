package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"banyan"
)

// format is the -o flag of everything that lists or shows.
type format struct{ name string }

func (f *format) add(fs *pflag.FlagSet) {
	fs.StringVarP(&f.name, "output", "o", "text", "`FORMAT` of the output: text or json ('banyan help output')")
}

func (f *format) check() error {
	if f.name != "text" && f.name != "json" {
		return usage("bad -o %q: give text or json", f.name)
	}
	return nil
}

func (f *format) json() bool { return f.name == "json" }

// writeJSON writes one value on a line of its own.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// showFlags are the flags of the commands that follow a job.
type showFlags struct {
	format   format
	keep     bool
	tag      bool
	progress string
	outDir   string
}

func (f *showFlags) add(fs *pflag.FlagSet) {
	fs.BoolVarP(&f.keep, "keep-order", "k", false, "print output in the order of the inputs")
	fs.BoolVar(&f.tag, "tag", false, "print the input and a tab before every line of output")
	f.format.add(fs)
	fs.StringVar(&f.progress, "progress", "auto", "`HOW` to show progress: auto, bar, plain or none")
	fs.StringVar(&f.outDir, "outdir", ".", "put returned files into this `DIR`")
}

func (f *showFlags) check() error {
	switch f.progress {
	case "auto", "bar", "plain", "none":
	default:
		return usage("bad --progress %q: give auto, bar, plain or none", f.progress)
	}
	return f.format.check()
}

func (f *showFlags) printID(w io.Writer, id banyan.JobID) error {
	if f.format.json() {
		return writeJSON(w, idJSON{string(id)})
	}
	_, err := fmt.Fprintln(w, id)
	return err
}

// idJSON is what 'run --detach -o json' prints.
type idJSON struct {
	Job string `json:"job"`
}
