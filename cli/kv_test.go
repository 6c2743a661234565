package cli

import "testing"

func TestPutReadsItsValue(t *testing.T) {
	f := &fakeKV{values: map[string]string{}}
	for _, c := range []struct {
		stdin, want string
		args        []string
	}{
		{"from a pipe\n", "from a pipe\n", nil},
		{"from a pipe\n", "from a pipe\n", []string{"-"}},
		{"-", "-", []string{"-"}},
		{"not read", "-1", []string{"--", "-1"}},
		{"not read", "", []string{""}},
	} {
		_, errs, code := doWith(t, f.session(t), c.stdin, append([]string{"kv", "put", "a/b"}, c.args...)...)
		if got := f.values["a/b"]; code != 0 || got != c.want {
			t.Errorf("kv put a/b %q with %q on standard input: exit %d, put %q, want %q: %s", c.args, c.stdin, code, got, c.want, errs)
		}
	}
}
