package worker

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// returning is what goes back under a name: a regular file, a link or an empty
// directory.
type returning struct {
	name string
	link string // what the link holds
	dir  bool
}

// below adds what is at and below a name: regular files, links as they are, and
// directories that are empty. A name that is itself a link is followed, unless it
// is loose: one of those that a pattern matched.
func below(root *os.Root, name string, loose bool, found map[string]returning) error {
	if link, ok := linkAt(root, name); ok && loose {
		st, err := root.Stat(filepath.FromSlash(name))
		if leadsIn := err == nil && st.IsDir(); !leadsIn {
			found[name] = returning{name: name, link: link}
			return nil
		}
	}
	return fs.WalkDir(anyNames{root}, name, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if len(found) > banyan.ReturnFilesMax {
			return fs.SkipAll
		}
		switch {
		case d.Type().IsRegular():
			found[p] = returning{name: p}
		case d.IsDir():
			if p != "." && isEmpty(root, p) {
				found[p] = returning{name: p, dir: true}
			}
		case d.Type()&fs.ModeSymlink != 0:
			if link, ok := linkAt(root, p); ok {
				found[p] = returning{name: p, link: link}
			}
		case p == name:
			return banyan.Errorf(banyan.Invalid, "%s is not a regular file", p)
		}
		return nil
	})
}

// settle says of every link whether it goes back as a link or as the file it leads
// to. It stays a link where that comes too, is a directory, or is nowhere: a link
// to a file that stays on the node would be worth nothing. Links that lead out of
// the directory are never followed here, where more can be read than by the task;
// the receiver is told of them.
func settle(root *os.Root, found map[string]returning) ([]returning, error) {
	list := make([]returning, 0, len(found))
	for n, r := range found {
		if to, ok := job.LinkTarget(n, r.link); ok {
			_, comes := found[to]
			if st, err := root.Stat(filepath.FromSlash(n)); !comes && err == nil && st.Mode().IsRegular() {
				r.link = ""
			}
		}
		if len(r.link) > banyan.LinkBytesMax {
			return nil, banyan.Errorf(banyan.Exhausted, "the link %s to return holds %d bytes, the most is %d (LinkBytesMax)", n, len(r.link), banyan.LinkBytesMax)
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b returning) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// linkAt is what a link of that name holds, with slashes.
func linkAt(root *os.Root, name string) (string, bool) {
	link, err := root.Readlink(filepath.FromSlash(name))
	return filepath.ToSlash(link), err == nil
}

func isEmpty(root *os.Root, name string) bool {
	d, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// fetchLink makes a link. It may hold anything: what this node writes does not
// follow it out of the directory, and the task could make it itself.
func fetchLink(root *os.Root, name, link string) error {
	if was, err := root.Readlink(name); err == nil && was == filepath.FromSlash(link) {
		return nil
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	part := name + ".banyan-part"
	if err := root.Symlink(filepath.FromSlash(link), part); err != nil {
		return err
	}
	if err := root.Rename(part, name); err != nil {
		_ = root.Remove(part) // best effort: err says what went wrong
		return err
	}
	return nil
}

// stamp gives a file the time at which it was last changed where it comes from.
func stamp(root *os.Root, name string, f *banyanv1.FileRef) error {
	if f.GetModifiedNs() == 0 {
		return nil
	}
	at := time.Unix(0, f.GetModifiedNs())
	return root.Chtimes(name, at, at)
}

// givenAt is what is now at the name of a file that the task gets. Directories get
// their time here: files that came into them later changed it.
func givenAt(root *os.Root, name string, f *banyanv1.FileRef) (given, error) {
	if f.GetDir() {
		if err := errors.Join(root.Chmod(name, fs.FileMode(f.GetMode())&0o777|0o700), stamp(root, name, f)); err != nil {
			return given{}, err
		}
	}
	st, err := root.Lstat(name)
	if err != nil {
		return given{}, err
	}
	return given{st.Size(), st.ModTime(), st.Mode().Type()}, nil
}
