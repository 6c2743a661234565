package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/engine/blob"
)

// given is what a file put into a working directory looked like.
type given struct {
	size int64
	mod  time.Time
	mode fs.FileMode // its kind
}

// wanted picks the files a task gets: of those sent, the ones its templates
// name (all without templates), and for the then step what the tasks returned.
func wanted(spec *banyanv1.JobSpec, v job.Vars, fromTasks []*banyanv1.FileRef) ([]*banyanv1.FileRef, error) {
	files := spec.GetSend()
	if templates := spec.GetSendTemplates(); len(templates) > 0 {
		files = nil
		for _, t := range templates {
			name := path.Clean(job.ExpandString(string(t), v))
			found := pick(spec.GetSend(), name)
			if len(found) == 0 && len(v.Columns) > 0 {
				return nil, banyan.Errorf(banyan.NotFound, "--send %s: no file %q was sent with the job", t, name)
			}
			files = append(files, found...)
		}
	}
	return merge(files, fromTasks)
}

// pick finds files by name, by glob, or below a directory.
func pick(files []*banyanv1.FileRef, name string) []*banyanv1.FileRef {
	var found []*banyanv1.FileRef
	for _, f := range files {
		p := string(f.GetPath())
		match, _ := path.Match(name, p)
		if match || p == name || name == "." || strings.HasPrefix(p, name+"/") {
			found = append(found, f)
		}
	}
	return found
}

// merge puts the files of the tasks over those sent, each path once. Two tasks
// may return the same file; not two files under one name, nor a file where
// another needs a directory.
func merge(sent, returned []*banyanv1.FileRef) ([]*banyanv1.FileRef, error) {
	at := map[string]*banyanv1.FileRef{}
	for _, f := range sent {
		at[string(f.GetPath())] = f
	}
	fresh := map[string]bool{}
	for _, f := range returned {
		p := string(f.GetPath())
		if old := at[p]; old != nil && fresh[p] && !sameContent(old, f) {
			return nil, banyan.Errorf(banyan.Conflict, "two tasks returned different files under the name %s (%s and %s): put something of the input into the name, as in --return {/.}.out",
				p, describe(old), describe(f))
		}
		at[p], fresh[p] = f, true
	}
	files := make([]*banyanv1.FileRef, 0, len(at))
	for p, f := range at {
		if !filepath.IsLocal(filepath.FromSlash(p)) || path.Clean(p) != p || p == "." {
			return nil, banyan.Errorf(banyan.Invalid, "the file name %q leads out of the working directory or is not clean", p)
		}
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if at[dir] != nil && !at[dir].Dir {
				return nil, banyan.Errorf(banyan.Conflict, "%s cannot be both a file and the directory of %s", dir, p)
			}
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b *banyanv1.FileRef) int { return bytes.Compare(a.GetPath(), b.GetPath()) })
	return files, nil
}

func sameContent(a, b *banyanv1.FileRef) bool {
	return a.GetDir() == b.GetDir() && bytes.Equal(a.GetLink(), b.GetLink()) && a.GetSize() == b.GetSize() && slices.EqualFunc(a.GetChunks(), b.GetChunks(), slices.Equal)
}

func describe(f *banyanv1.FileRef) string {
	switch {
	case f.GetDir():
		return "an empty directory"
	case len(f.GetLink()) > 0:
		return fmt.Sprintf("a link to %.300q", f.GetLink())
	}
	if len(f.GetChunks()) == 0 {
		return fmt.Sprintf("%d bytes", f.GetSize())
	}
	return fmt.Sprintf("%d bytes, blob %.8x", f.GetSize(), f.GetChunks()[0])
}

// fetch writes files, links and empty directories into a working directory, files
// chunk by chunk. In a shared directory what is there already with the same bytes
// is left alone and any other is replaced as a whole. Nothing is written through a
// link that leads out.
func fetch(ctx context.Context, s blob.Store, root *os.Root, files []*banyanv1.FileRef, shared bool) (map[string]given, error) {
	had := make(map[string]given, len(files))
	for _, f := range files {
		name := filepath.FromSlash(string(f.GetPath()))
		var err error
		switch {
		case f.GetDir():
			err = root.MkdirAll(name, 0o755)
		case len(f.GetLink()) > 0:
			err = fetchLink(root, name, string(f.GetLink()))
		case !shared || !holds(root, name, f):
			err = fetchFile(ctx, s, root, name, f)
		}
		if err == nil {
			had[string(f.GetPath())], err = givenAt(root, name, f)
		}
		if err != nil {
			return nil, fmt.Errorf("get file %s for the task: %w", f.GetPath(), err)
		}
	}
	return had, nil
}

func fetchFile(ctx context.Context, s blob.Store, root *os.Root, name string, f *banyanv1.FileRef) (err error) {
	chunks, err := hashes(f.GetChunks())
	if err != nil {
		return err
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	part := name + ".banyan-part"
	w, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(part) // best effort: err says what went wrong
		}
	}()
	err = blob.Read(ctx, s, chunks, w)
	st, serr := w.Stat()
	merr := w.Chmod(os.FileMode(f.GetMode())&0o777 | 0o600)
	if err = cmp.Or(err, serr, merr, w.Close()); err != nil {
		return err
	}
	if st.Size() != f.GetSize() {
		return banyan.Errorf(banyan.Corrupt, "its chunks have %d bytes and not %d", st.Size(), f.GetSize())
	}
	if err := stamp(root, part, f); err != nil {
		return err
	}
	return root.Rename(part, name)
}

// holds says whether the file is there with the same bytes.
func holds(root *os.Root, name string, f *banyanv1.FileRef) bool {
	st, err := root.Stat(name)
	if err != nil || !st.Mode().IsRegular() || st.Size() != f.GetSize() {
		return false
	}
	r, err := root.Open(name)
	if err != nil {
		return false
	}
	defer r.Close()
	buf := make([]byte, min(st.Size(), banyan.BlobChunkBytes))
	left := st.Size()
	for _, want := range f.GetChunks() {
		n := min(left, int64(len(buf)))
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return false
		}
		if h := blob.Sum(buf[:n]); !slices.Equal(h[:], want) {
			return false
		}
		left -= n
	}
	return left == 0
}

func hashes(raw [][]byte) ([]banyan.Hash, error) {
	out := make([]banyan.Hash, len(raw))
	for i, b := range raw {
		if copy(out[i][:], b) != len(out[i]) || len(b) != len(out[i]) {
			return nil, banyan.Errorf(banyan.Invalid, "a chunk's name has %d bytes and not %d", len(b), len(out[i]))
		}
	}
	return out, nil
}

func rawHashes(hs []banyan.Hash) [][]byte {
	out := make([][]byte, len(hs))
	for i := range hs {
		out[i] = hs[i][:]
	}
	return out
}

// match lists what the patterns of --return name: by their literal name first,
// then as a glob; a directory stands for all below it. A pattern that names
// nothing is an error.
func match(root *os.Root, patterns []string) ([]returning, error) {
	found := map[string]returning{}
	for _, p := range patterns {
		clean := path.Clean(p)
		if path.IsAbs(clean) || !filepath.IsLocal(filepath.FromSlash(clean)) {
			return nil, banyan.Errorf(banyan.Invalid, "--return %s: the name must be relative to the working directory and stay in it", p)
		}
		names := []string{clean}
		if _, err := root.Stat(filepath.FromSlash(clean)); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("--return %s: %w", p, err)
			}
			if names, err = fs.Glob(anyNames{root}, clean); err != nil {
				return nil, banyan.Errorf(banyan.Invalid, "--return %s: bad pattern", p)
			}
			names = slices.DeleteFunc(names, func(n string) bool { return !job.Glob(clean, n) })
		}
		before := len(found)
		for _, n := range names {
			if err := below(root, n, n != clean, found); err != nil {
				return nil, fmt.Errorf("--return %s: %w", p, err)
			}
		}
		if len(names) == 0 || len(found) == before && found[names[0]].name == "" && !isDir(root, names) {
			return nil, banyan.Errorf(banyan.NotFound, "--return %s: the task succeeded but left no such file in its working directory", p)
		}
	}
	if len(found) > banyan.ReturnFilesMax {
		return nil, banyan.Errorf(banyan.Exhausted, "%d files to return; one task may return %d (ReturnFilesMax): pack them into one", len(found), banyan.ReturnFilesMax)
	}
	return settle(root, found)
}

func isDir(root *os.Root, names []string) bool {
	st, err := root.Stat(filepath.FromSlash(names[0]))
	return err == nil && st.IsDir()
}

// left lists what is in a working directory beyond what was given.
func left(root *os.Root, had map[string]given) ([]returning, error) {
	found := map[string]returning{}
	if err := below(root, ".", false, found); err != nil {
		return nil, err
	}
	if len(found) > banyan.ReturnFilesMax+len(had) {
		return nil, banyan.Errorf(banyan.Exhausted, "the then step left more than %d files (ReturnFilesMax): pack them into one", banyan.ReturnFilesMax)
	}
	all, err := settle(root, found)
	if err != nil {
		return nil, err
	}
	var list []returning
	for _, r := range all {
		st, err := root.Lstat(filepath.FromSlash(r.name))
		if err != nil {
			return nil, err
		}
		if g, ok := had[r.name]; !ok || g.size != st.Size() || !g.mod.Equal(st.ModTime()) || g.mode != st.Mode().Type() {
			list = append(list, r)
		}
	}
	return list, nil
}

// store keeps files as blobs and says how to find them again.
func store(ctx context.Context, s blob.Store, root *os.Root, list []returning) ([]*banyanv1.FileRef, error) {
	refs := make([]*banyanv1.FileRef, 0, len(list))
	total := int64(0)
	for _, r := range list {
		ref := &banyanv1.FileRef{Path: []byte(r.name), Link: []byte(r.link), Dir: r.dir}
		if r.link != "" {
			refs = append(refs, ref)
			continue
		}
		f, err := root.Open(filepath.FromSlash(r.name))
		if err != nil {
			return nil, fmt.Errorf("return file: %w", err)
		}
		st, err := f.Stat()
		if err == nil {
			ref.Mode, ref.ModifiedNs = uint32(st.Mode().Perm()), st.ModTime().UnixNano()
		}
		if err == nil && !r.dir {
			if total += st.Size(); total > banyan.ReturnBytesMax {
				err = banyan.Errorf(banyan.Exhausted, "the files to return have more than %d bytes (ReturnBytesMax)", banyan.ReturnBytesMax)
			}
		}
		if err == nil && !r.dir {
			var chunks []banyan.Hash
			chunks, ref.Size, err = blob.Write(ctx, s, f)
			ref.Chunks = rawHashes(chunks)
		}
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("store returned file %s: %w", r.name, err)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}
