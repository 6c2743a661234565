package job

import (
	"bytes"
	"path"
	"strings"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// LinkTarget gives what a link at a clean relative name leads to, as another such
// name ("." for the directory itself), if it stays in the directory whatever other
// links there are in it. So ".." may only stand in front: behind a name that is a
// link to a directory it would lead to elsewhere than it reads.
func LinkTarget(name, target string) (string, bool) {
	if target == "" || path.IsAbs(target) || !below(path.Join(path.Dir(name), target)) || strings.ContainsAny(target, "\x00\\") {
		return "", false
	}
	named := false
	for _, c := range strings.Split(target, "/") {
		switch c {
		case "", ".":
		case "..":
			if named {
				return "", false
			}
		default:
			named = true
		}
	}
	return path.Join(path.Dir(name), target), true
}

// checkFile says what is wrong with a file to send, other than its path.
func checkFile(f *banyanv1.FileRef) error {
	kinds := 0
	for _, is := range []bool{len(f.Link) > 0, f.Dir, len(f.Chunks) > 0 || f.Size != 0} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return banyan.Errorf(banyan.Invalid, "%.300q is to be a link, a directory and a file: it can be one of them", f.Path)
	case len(f.Link) > banyan.LinkBytesMax:
		return banyan.Errorf(banyan.Exhausted, "the link %.300q has %d bytes, the limit is %d (LinkBytesMax)", f.Path, len(f.Link), banyan.LinkBytesMax)
	case bytes.IndexByte(f.Link, 0) >= 0:
		return banyan.Errorf(banyan.Invalid, "the link %.300q holds a NUL byte, which no path can", f.Path)
	}
	for _, c := range f.Chunks {
		if len(c) != len(banyan.Hash{}) {
			return banyan.Errorf(banyan.Invalid, "file %q names a chunk by %d bytes: a BLAKE3-256 hash has %d", f.Path, len(c), len(banyan.Hash{}))
		}
	}
	return nil
}
