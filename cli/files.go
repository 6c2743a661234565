package cli

import (
	"context"
	"fmt"
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
			spec.SendTemplates = append(spec.SendTemplates, []byte(p))
		}
	}
	return nil
}
