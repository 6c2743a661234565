package cli

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// sendFile is a file that goes with a job.
type sendFile struct {
	local string // where it is here
	name  string // in a task's working directory: relative, slash-separated, clean
}

// findSends expands --send for all inputs and looks up every file, so that a
// missing one is known before anything is sent.
func findSends(patterns []string, in *inputs) ([]sendFile, error) {
	found := map[string]string{} // name → local
	for _, p := range patterns {
		if !isTemplate(p) {
			if err := findSend(p, found); err != nil {
				return nil, err
			}
			continue
		}
		if job.NamesSlot(p) {
			return nil, usage("bad --send %q: the slot {%%} is not known before the task runs", p)
		}
		seq := 0
		for row := range in.all() {
			seq++
			name := job.ExpandString(p, job.Vars{Columns: row, Seq: seq, Tasks: in.count})
			if !filepath.IsLocal(filepath.FromSlash(name)) {
				return nil, usage("--send %s gives %q: a file sent by a template must lie below the current directory: change to a directory above it, and give relative inputs", p, name)
			}
			if _, ok := found[path.Clean(name)]; ok {
				continue
			}
			if err := findSend(name, found); err != nil {
				return nil, err
			}
		}
	}
	files := make([]sendFile, 0, len(found))
	for name, local := range found {
		files = append(files, sendFile{local: local, name: name})
	}
	slices.SortFunc(files, func(a, b sendFile) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// isTemplate says whether a string holds a replacement string.
func isTemplate(s string) bool {
	one, two := job.Vars{Columns: []string{"a.b/c.d"}, Seq: 1, Slot: 1, Tasks: 1}, job.Vars{Columns: []string{"e.f/g.h"}, Seq: 2, Slot: 2, Tasks: 2}
	return job.ExpandString(s, one) != s || job.ExpandString(s, two) != s
}

// sentName is the name of a file or directory in a task's working directory: as
// it was given when it lies below the current directory, else its base name.
func sentName(local string) string {
	if filepath.IsLocal(local) {
		return path.Clean(filepath.ToSlash(local))
	}
	return filepath.Base(local)
}

// findSend adds a file, or all files below a directory.
func findSend(local string, found map[string]string) error {
	base := sentName(local)
	return filepath.WalkDir(local, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return banyan.Errorf(banyan.NotFound, "--send %s cannot be read: %w: give a file that is there", p, unwrapPath(err))
		}
		rel, err := filepath.Rel(local, p)
		if err != nil {
			return err
		}
		st, err := os.Stat(p) // follows links: what they point to is sent
		if err != nil {
			return banyan.Errorf(banyan.NotFound, "--send %s cannot be read: %w: give a file that is there", p, unwrapPath(err))
		}
		name := path.Join(base, filepath.ToSlash(rel))
		switch {
		case st.IsDir() && d.IsDir():
			return nil
		case !st.Mode().IsRegular():
			return banyan.Errorf(banyan.Invalid, "--send %s is not a regular file: send files and directories", p)
		case found[name] != "" && found[name] != p:
			return banyan.Errorf(banyan.Invalid, "--send: %s and %s would both be %s in the task's directory: give them from a directory above both", found[name], p, name)
		case len(found) >= banyan.SendFilesMax:
			return banyan.Errorf(banyan.Exhausted, "--send: more than %d files: pack them into one", banyan.SendFilesMax)
		}
		found[name] = p
		return nil
	})
}

// upload puts the files into the cluster and names them in the job. The specs
// of patterns say which task gets which, when any of them is a template.
func upload(ctx context.Context, s *session, spec *banyanv1.JobSpec, files []sendFile, patterns []string) error {
	for _, f := range files {
		ref, err := s.Blobs().UploadFile(ctx, f.name, f.local)
		if err != nil {
			return fmt.Errorf("--send %s: %w", f.local, err)
		}
		spec.Send = append(spec.Send, ref)
	}
	if slices.ContainsFunc(patterns, isTemplate) {
		for _, p := range patterns {
			if !isTemplate(p) {
				p = sentName(p)
			}
			spec.SendTemplates = append(spec.SendTemplates, p)
		}
	}
	return nil
}

// returned knows which task each returned file came from, so that none is
// overwritten by that of another.
type returned struct {
	seed  maphash.Seed
	by    map[uint64]returner // by the hash of the path
	taken int                 // files that did not come back
}

type returner struct {
	task    uint32
	content uint64
}

// conflict is a file that a task may not have, since another returned it first.
type conflict struct {
	path string
	by   uint32
}

// sort tells apart the files that a task may bring back and those whose name
// another task has used for other bytes.
func (r *returned) sort(t *banyanv1.TaskResult) (mine []*banyanv1.FileRef, taken []conflict) {
	if r.by == nil {
		r.seed, r.by = maphash.MakeSeed(), map[uint64]returner{}
	}
	for _, ref := range t.Returned {
		name := maphash.String(r.seed, path.Clean(ref.Path))
		content := maphash.Bytes(r.seed, slices.Concat(ref.Chunks...))
		first, ok := r.by[name]
		switch {
		case !ok:
			r.by[name] = returner{t.Task, content}
			mine = append(mine, ref)
		case first.task == t.Task || first.content == content:
			mine = append(mine, ref)
		default:
			taken = append(taken, conflict{ref.Path, first.task})
		}
	}
	r.taken += len(taken)
	return mine, taken
}

// err is not nil when not every file came back.
func (r *returned) err() error {
	if r.taken == 0 {
		return nil
	}
	return banyan.Errorf(banyan.Invalid, "%s did not come back, their names were taken: give --return names that differ from task to task", count(r.taken, "returned file"))
}

// download brings files back below dir. With missing it leaves those alone that
// are there already in the right size.
func (s *session) download(ctx context.Context, dir string, refs []*banyanv1.FileRef, missing bool) error {
	for _, ref := range refs {
		local := filepath.FromSlash(ref.Path)
		if !filepath.IsLocal(local) {
			return banyan.Errorf(banyan.Invalid, "a task returned a file named %q, which leads out of %s: it was not written", ref.Path, dir)
		}
		local = filepath.Join(dir, local)
		if st, err := os.Stat(local); missing && err == nil && st.Size() == ref.Size {
			continue
		}
		if err := s.downloadFile(ctx, local, ref); err != nil {
			return err
		}
	}
	return nil
}

// downloadFile writes beside the file and renames, so that a name never shows
// half a file.
func (s *session) downloadFile(ctx context.Context, local string, ref *banyanv1.FileRef) error {
	fail := func(err error) error {
		return fmt.Errorf("the returned file %s cannot be written: %w: free space or choose another --outdir, then 'banyan resume' fetches it", local, unwrapPath(err))
	}
	if err := os.MkdirAll(filepath.Dir(local), 0o777); err != nil {
		return fail(err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(local), ".banyan-*")
	if err != nil {
		return fail(err)
	}
	err = s.Blobs().Download(ctx, ref.Chunks, tmp)
	if err == nil {
		err = tmp.Chmod(fs.FileMode(ref.Mode).Perm() | 0o600)
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), local)
	}
	if err != nil {
		os.Remove(tmp.Name()) // what cannot be removed is only a leftover
		return fail(err)
	}
	return nil
}
