// Command modpath gives this module another path: in the first line of go.mod
// and of the modules beside it, in the imports of every Go file, and where the
// docs tell others how to import it. Run it at the root, on a clean checkout:
//
//	go run ./internal/modpath example.org/banyan
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: modpath NEW_PATH")
		os.Exit(2)
	}
	if err := rename(".", os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "modpath:", err)
		os.Exit(1)
	}
}

// rename rewrites the tree below root.
func rename(root, to string) error {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(mod), "\n")
	from, ok := strings.CutPrefix(line, "module ")
	if !ok || from == to {
		return fmt.Errorf("the first line of go.mod is %q: it should name another module than %s", line, to)
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir():
			return nil
		}
		return rewrite(path, rules(path, from, to))
	})
}

// rule is a text to look for, and what takes the place of it.
type rule struct {
	old *regexp.Regexp
	to  string
}

func rules(path, from, to string) []rule {
	q := regexp.QuoteMeta(from)
	switch filepath.Ext(path) {
	case ".go":
		return []rule{
			{regexp.MustCompile(`"` + q + `((/[a-z0-9_./]+)?"\n)`), `"` + to + `$1`}, // an import
			{regexp.MustCompile(`(const Module = )"` + q + `"`), `$1"` + to + `"`},
			{regexp.MustCompile(`(//go:generate go run )` + q + `/`), `$1` + to + `/`},
		}
	case ".mod":
		return []rule{{regexp.MustCompile(`(?m)^((?:module|require|replace)\s+|\t)` + q + `(/|\s|$)`), `${1}` + to + `$2`}}
	case ".proto":
		return []rule{{regexp.MustCompile(`(go_package = ")` + q + `/`), `${1}` + to + `/`}}
	case ".md":
		return []rule{{regexp.MustCompile(`(?m)^(    (?:require|replace) )` + q + ` `), `${1}` + to + ` `}}
	}
	return nil
}

func rewrite(path string, rules []rule) error {
	if len(rules) == 0 {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out := text
	for _, r := range rules {
		out = r.old.ReplaceAll(out, []byte(r.to))
	}
	if bytes.Equal(out, text) {
		return nil
	}
	return os.WriteFile(path, out, 0o644)
}
