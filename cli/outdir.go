package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// asked is what the user asked to have back. A node may say anything; what it
// returns is held against this.
type asked struct {
	patterns []string                   // of --return
	tasks    int                        // of the job
	row      func(task uint32) []string // the input of a task; nil: what the result says
	whole    bool                       // a link that leads out of --outdir fails the command
}

// names gives what is asked of one task, expanded.
func (a asked) names(t *banyanv1.TaskResult) []string {
	columns := banyanv1.Strings(t.Input.GetColumns())
	if a.row != nil {
		columns = a.row(t.Task)
	}
	v := job.Vars{Columns: columns, Seq: int(t.Task) + 1, Slot: int(t.Slot), Tasks: a.tasks}
	names := make([]string, len(a.patterns))
	for i, p := range a.patterns {
		names[i] = job.ExpandString(p, v)
	}
	return names
}

// returned knows which task each returned file came from, so that none is
// overwritten by that of another.
type returned struct {
	seed  maphash.Seed
	by    map[uint64]returner // by the hash of the path
	taken int                 // files whose name another task had used
	alien int                 // files that nobody asked for, or that cannot be written safely
	out   int                 // links that lead out of --outdir
	whole bool                // such a link fails the command (--links-out refuse)
}

type returner struct {
	task    uint32
	content uint64
}

// refusal is a returned file that is not written, and why.
type refusal struct{ path, why string }

// sort tells apart the files that a task may bring back and those that are not
// written: nobody asked for them, or another task has used the name for other
// bytes.
func (r *returned) sort(task uint32, files []*banyanv1.FileRef, names []string) (mine []*banyanv1.FileRef, refused []refusal) {
	if r.by == nil {
		r.seed, r.by = maphash.MakeSeed(), map[uint64]returner{}
	}
	for _, ref := range files {
		p := string(ref.GetPath())
		if why := unsafe(p); why != "" || !job.Returns(names, p) {
			if why == "" {
				why = "no --return names it"
			}
			refused = append(refused, refusal{p, why + ": it was not written"})
			r.alien++
			continue
		}
		if why := leadsOut(ref); why != "" {
			refused = append(refused, refusal{p, why})
			r.out++
			continue
		}
		name := maphash.String(r.seed, p)
		content := maphash.Bytes(r.seed, slices.Concat(append(slices.Clip(ref.Chunks), ref.Link, strconv.AppendBool(nil, ref.Dir))...))
		first, ok := r.by[name]
		switch {
		case !ok:
			r.by[name] = returner{task, content}
			mine = append(mine, ref)
		case ref.Dir || first.task == task || first.content == content:
			mine = append(mine, ref)
		default:
			refused = append(refused, refusal{p, fmt.Sprintf("as task %d did with other bytes: the first one stays: put something of the input into the name, as in --return {/.}.out", first.task+1)})
			r.taken++
		}
	}
	return mine, refused
}

// sortThen is sort for the then step, which may leave files of any name. Hidden
// ones are not written: no user would see that they came.
func (r *returned) sortThen(files []*banyanv1.FileRef) (mine []*banyanv1.FileRef, refused []refusal) {
	for _, ref := range files {
		p := string(ref.GetPath())
		why := unsafe(p)
		if why == "" && slices.ContainsFunc(strings.Split(p, "/"), func(c string) bool { return strings.HasPrefix(c, ".") }) {
			why = "hidden files of a --then step do not come back"
		}
		if why != "" {
			refused = append(refused, refusal{p, why + ": it was not written"})
			r.alien++
			continue
		}
		if why := leadsOut(ref); why != "" {
			refused = append(refused, refusal{p, why})
			r.out++
			continue
		}
		mine = append(mine, ref)
	}
	return mine, refused
}

// leadsOut says why a link is not written: it would lead out of --outdir, and
// later commands of the user through it.
func leadsOut(ref *banyanv1.FileRef) string {
	if len(ref.GetLink()) == 0 {
		return ""
	}
	if _, ok := job.LinkTarget(string(ref.GetPath()), string(ref.GetLink())); ok {
		return ""
	}
	return fmt.Sprintf("a link that leads out of --outdir, to %.300q: it was not written", ref.GetLink())
}

// unsafe says why no file of this name is written, whoever asked for it.
func unsafe(name string) string {
	if !filepath.IsLocal(filepath.FromSlash(name)) || path.Clean(name) != name || name == "." {
		return "the name leads out of --outdir or is not clean"
	}
	return ""
}

// err is not nil when not every file came back.
func (r *returned) err() error {
	switch {
	case r.taken > 0:
		return banyan.Errorf(banyan.Invalid, "%s did not come back, their names were taken: give --return names that differ from task to task", count(r.taken, "returned file"))
	case r.alien > 0:
		return banyan.Errorf(banyan.Invalid, "%s did not come back, see above: name it with --return, if it is wanted", count(r.alien, "returned file"))
	case r.out > 0 && r.whole:
		return banyan.Errorf(banyan.Invalid, "%s that lead out of --outdir did not come back, and --links-out says to refuse that: have the tasks return files in their place", count(r.out, "link"))
	}
	return nil
}

// outDir is where returned files go. It is opened when the first one comes.
// Nothing is written outside of it, also not through links in it.
type outDir struct {
	name string
	root *os.Root
}

func (d *outDir) open() error {
	if d.root != nil {
		return nil
	}
	err := os.MkdirAll(d.name, 0o777)
	if err == nil {
		d.root, err = os.OpenRoot(d.name)
	}
	if err != nil {
		return banyan.Errorf(banyan.Invalid, "--outdir %s cannot be used: %w: give another, then 'banyan resume' fetches the files", d.name, unwrapPath(err))
	}
	return nil
}

func (d *outDir) close() {
	if d.root != nil {
		d.root.Close()
		d.root = nil
	}
}

// fetch brings files back. With missing it leaves those alone that are there
// already in the right size. The names have been checked.
func (d *outDir) fetch(ctx context.Context, read chunkReader, refs []*banyanv1.FileRef, missing bool) error {
	if len(refs) == 0 {
		return nil
	}
	if err := d.open(); err != nil {
		return err
	}
	for _, ref := range refs {
		local := filepath.FromSlash(string(ref.GetPath()))
		if missing && d.has(local, ref) {
			continue
		}
		if err := d.put(ctx, read, local, ref); err != nil {
			return fmt.Errorf("the returned file %s cannot be written: %w: free space or choose another --outdir, then 'banyan resume' fetches it", filepath.Join(d.name, local), unwrapPath(err))
		}
	}
	return nil
}

// has says whether what was returned is there already: a file by its size.
func (d *outDir) has(local string, ref *banyanv1.FileRef) bool {
	if len(ref.Link) > 0 {
		to, err := d.root.Readlink(local)
		return err == nil && filepath.ToSlash(to) == string(ref.Link)
	}
	st, err := d.root.Stat(local)
	return err == nil && st.IsDir() == ref.Dir && (ref.Dir || st.Size() == ref.Size)
}

// put writes a file, link or empty directory.
func (d *outDir) put(ctx context.Context, read chunkReader, local string, ref *banyanv1.FileRef) error {
	switch {
	case ref.Dir:
		if err := d.root.MkdirAll(local, 0o777); err != nil {
			return err
		}
		return d.stamp(local, ref)
	case len(ref.Link) > 0:
		return d.link(local, string(ref.Link))
	}
	return d.write(ctx, read, local, ref)
}

// link makes a link that stays in --outdir (leadsOut): below directories that are
// what they seem, for through a link to one it would lead to elsewhere.
func (d *outDir) link(local, to string) error {
	dir := filepath.Dir(local)
	if err := d.root.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for up := dir; up != "."; up = filepath.Dir(up) {
		if st, err := d.root.Lstat(up); err != nil || !st.IsDir() {
			return errors.Join(err, fmt.Errorf("%s is a link, through which no links are written", up))
		}
	}
	part := partOf(dir)
	if err := d.root.Symlink(filepath.FromSlash(to), part); err != nil {
		return err
	}
	err := d.root.Rename(part, local)
	if err != nil {
		_ = d.root.Remove(part) // what cannot be removed is only a leftover
	}
	return err
}

// stamp gives what was written the time of its last change on the node.
func (d *outDir) stamp(local string, ref *banyanv1.FileRef) error {
	if ref.ModifiedNs == 0 {
		return nil
	}
	at := time.Unix(0, ref.ModifiedNs)
	return d.root.Chtimes(local, at, at)
}

// partOf is a name of its own in a directory.
func partOf(dir string) string {
	id := banyan.NewRequestID()
	return filepath.Join(dir, ".banyan-"+hex.EncodeToString(id[:6]))
}

// write writes beside the file and renames, so that a name never shows half a
// file. A link of the file's name is replaced, not followed. The umask takes its
// part of the mode when the file is made.
func (d *outDir) write(ctx context.Context, read chunkReader, local string, ref *banyanv1.FileRef) error {
	dir := filepath.Dir(local)
	if err := d.root.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	part := partOf(dir)
	f, err := d.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(ref.Mode)&0o777|0o600)
	if err != nil {
		return err
	}
	w := &exact{w: f, left: ref.Size}
	err = read(ctx, ref.Chunks, w)
	if err == nil && w.left != 0 {
		err = errSize
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = d.stamp(part, ref)
	}
	if err == nil {
		err = d.root.Rename(part, local)
	}
	if err != nil {
		_ = d.root.Remove(part) // what cannot be removed is only a leftover
	}
	return err
}

var errSize = errors.New("it has more or fewer bytes than the node said")

// exact fails where more is written than was said.
type exact struct {
	w    io.Writer
	left int64
}

func (e *exact) Write(b []byte) (int, error) {
	if e.left -= int64(len(b)); e.left < 0 {
		return 0, errSize
	}
	return e.w.Write(b)
}
