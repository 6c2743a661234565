package job

import (
	"path"
	"strings"
)

// Returns says whether one of the expanded patterns of --return names a file:
// it is the file's name, a directory above it, or matches one of both. As in a
// shell no * or ? stands for a dot at the beginning of a name.
func Returns(patterns []string, name string) bool {
	for _, p := range patterns {
		p = path.Clean(p)
		if p == "." || p == name || strings.HasPrefix(name, p+"/") {
			return true
		}
		for i := 0; i <= len(name); i++ {
			if (i == len(name) || name[i] == '/') && Glob(p, name[:i]) {
				return true
			}
		}
	}
	return false
}

// Glob says whether a pattern of * ? [a-z] matches a whole path. As in a shell
// none of them matches a slash, nor a dot at the beginning of a name.
func Glob(pattern, name string) bool {
	ps, ns := strings.Split(pattern, "/"), strings.Split(name, "/")
	if len(ps) != len(ns) {
		return false
	}
	for i := range ps {
		if ok, err := path.Match(ps[i], ns[i]); err != nil || !ok || strings.HasPrefix(ns[i], ".") && !strings.HasPrefix(ps[i], ".") {
			return false
		}
	}
	return true
}
