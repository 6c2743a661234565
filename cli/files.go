package cli

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// sendFile is a file, link or empty directory that goes with a job.
type sendFile struct {
	local string // where it is here
	name  string // in a task's working directory: relative, slash-separated, clean
	link  string // what the link holds, with slashes
	dir   bool
}

// The ways of links that lead out of what is sent, or of --outdir.
const (
	linksFollow = "follow"
	linksRefuse = "refuse"
)

func checkLinks(how string) error {
	if how != linksFollow && how != linksRefuse {
		return usage("bad --links-out %q: give follow or refuse", how)
	}
	return nil
}

// findSends expands --send for all inputs and looks up every file, so that a
// missing one is known before anything is sent.
func findSends(patterns []string, in *inputs, linksOut string) ([]sendFile, error) {
	f := &sendFinder{found: map[string]sendFile{}, refuse: linksOut == linksRefuse}
	for _, p := range patterns {
		if !isTemplate(p) {
			if err := f.find(p); err != nil {
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
			if _, ok := f.found[path.Clean(name)]; ok {
				continue
			}
			if err := f.find(name); err != nil {
				return nil, err
			}
		}
	}
	files := slices.Collect(maps.Values(f.found))
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

// sendFinder finds what is sent.
type sendFinder struct {
	found  map[string]sendFile // by name
	refuse bool                // links that lead out
}

// find adds a file, or all that is below a directory. What is named is followed if
// it is a link itself.
func (f *sendFinder) find(local string) error {
	st, err := os.Stat(local)
	if err != nil {
		return banyan.Errorf(banyan.NotFound, "--send %s cannot be read: %w: give a file that is there", local, unwrapPath(err))
	}
	return f.add("", sendFile{local: local, name: sentName(local)}, st, nil)
}

// add adds one thing and all below it; rel is its name below the directory that links in it may
// not leave. Over are
// the directories above it, for a link that is followed may lead back to one.
func (f *sendFinder) add(rel string, s sendFile, st fs.FileInfo, over []fs.FileInfo) error {
	old, had := f.found[s.name]
	switch {
	case st.IsDir():
		return f.addAll(rel, s, st, over)
	case !st.Mode().IsRegular() && s.link == "":
		return banyan.Errorf(banyan.Invalid, "--send %s is not a regular file: send files and directories", s.local)
	case had && old.local != s.local:
		return banyan.Errorf(banyan.Invalid, "--send: %s and %s would both be %s in the task's directory: give them from a directory above both", old.local, s.local, s.name)
	}
	return f.keep(s)
}

func (f *sendFinder) keep(s sendFile) error {
	if _, had := f.found[s.name]; !had && len(f.found) >= banyan.SendFilesMax {
		return banyan.Errorf(banyan.Exhausted, "--send: more than %d files: pack them into one", banyan.SendFilesMax)
	}
	f.found[s.name] = s
	return nil
}

// addAll adds what is below a directory, and itself if it is empty.
func (f *sendFinder) addAll(rel string, s sendFile, st fs.FileInfo, over []fs.FileInfo) error {
	if slices.ContainsFunc(over, func(o fs.FileInfo) bool { return os.SameFile(o, st) }) {
		return banyan.Errorf(banyan.Invalid, "--send: the link %s leads to a directory above it, so what is sent would have no end: remove it, or name what is to be sent", s.local)
	}
	list, err := os.ReadDir(s.local)
	if err != nil {
		return banyan.Errorf(banyan.NotFound, "--send %s cannot be read: %w: give a file that is there", s.local, unwrapPath(err))
	}
	if len(list) == 0 && s.name != "." {
		s.dir = true
		return f.keep(s)
	}
	over = append(slices.Clip(over), st)
	for _, d := range list {
		below := sendFile{local: filepath.Join(s.local, d.Name()), name: path.Join(s.name, d.Name())}
		to := path.Join(rel, d.Name())
		st, err := d.Info()
		if err == nil && d.Type()&fs.ModeSymlink != 0 {
			if st, err = f.link(to, &below); err != nil {
				return err
			}
			to = "" // if it is a directory that is followed, links in it stay within that
		}
		if err != nil {
			return banyan.Errorf(banyan.NotFound, "--send %s cannot be read: %w: give a file that is there", below.local, unwrapPath(err))
		}
		if err := f.add(to, below, st, over); err != nil {
			return err
		}
	}
	return nil
}

// link says what a link at rel, below what is sent, goes as: a link if it leads
// within that, also to nothing; else what it leads to.
func (f *sendFinder) link(rel string, s *sendFile) (fs.FileInfo, error) {
	target, err := os.Readlink(s.local)
	if err != nil {
		return nil, banyan.Errorf(banyan.NotFound, "--send %s cannot be read: %w", s.local, unwrapPath(err))
	}
	if _, inside := job.LinkTarget(rel, filepath.ToSlash(target)); inside && len(target) <= banyan.LinkBytesMax {
		s.link = filepath.ToSlash(target)
		return os.Lstat(s.local)
	}
	if f.refuse {
		return nil, banyan.Errorf(banyan.Invalid, "--send: the link %s leads out of what is sent, to %s, and --links-out says to refuse that: remove it, or send what it leads to with it", s.local, inLine(target))
	}
	st, err := os.Stat(s.local)
	if err != nil {
		return nil, banyan.Errorf(banyan.NotFound, "--send: the link %s leads out of what is sent, to %s, which cannot be read: %w: remove the link", s.local, inLine(target), unwrapPath(err))
	}
	return st, nil
}

// ref names one of them in a job; files go into the cluster.
func (s sendFile) ref(ctx context.Context, to *session) (*banyanv1.FileRef, error) {
	switch {
	case s.link != "":
		return &banyanv1.FileRef{Path: []byte(s.name), Link: []byte(s.link)}, nil
	case s.dir:
		st, err := os.Stat(s.local)
		if err != nil {
			return nil, err
		}
		return &banyanv1.FileRef{Path: []byte(s.name), Dir: true, Mode: uint32(st.Mode().Perm()), ModifiedNs: st.ModTime().UnixNano()}, nil
	}
	return to.Blobs().UploadFile(ctx, s.name, s.local)
}

// upload puts the files into the cluster and names them in the job. The specs
// of patterns say which task gets which, when any of them is a template.
func upload(ctx context.Context, s *session, spec *banyanv1.JobSpec, files []sendFile, patterns []string) error {
	for _, f := range files {
		ref, err := f.ref(ctx, s)
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
