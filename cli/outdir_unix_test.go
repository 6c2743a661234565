//go:build unix

package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

// TestReturnedFilesHaveNoMoreRightsThanTheUmaskGives: a node may ask for all.
func TestReturnedFilesHaveNoMoreRightsThanTheUmaskGives(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o027))
	for mode, want := range map[uint32]fs.FileMode{0o7777: 0o750, 0o666: 0o640, 0: 0o600, 0o100755: 0o750, ^uint32(0): 0o750} {
		dir := t.TempDir()
		f, s, ref := liar(t)
		r := result(0, 0, "", "")
		r.Returned = []*banyanv1.FileRef{ref("d/out")}
		r.Returned[0].Mode = mode
		f.follow = []*banyanv1.FollowResponse{message(1, 1, 0, succeeded, r)}
		if _, errs, code := do(t, s, "run", "--return", "d", "--outdir", dir, "x", ":::", "1"); code != 0 {
			t.Errorf("exit %d: %s", code, errs)
		}
		st, err := os.Stat(filepath.Join(dir, "d", "out"))
		if err != nil || st.Mode() != want {
			t.Errorf("%o: the file has %v, want %v; %v", mode, st.Mode(), want, err)
		}
		if st, err := os.Stat(filepath.Join(dir, "d")); err != nil || st.Mode().Perm() != 0o750 {
			t.Errorf("the directory has %v, %v", st.Mode(), err)
		}
	}
}
