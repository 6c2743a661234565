package job

import "testing"

func TestReturnsNamesOnlyWhatWasAsked(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"out.txt", "out.txt", true},
		{"./out.txt", "out.txt", true},
		{"out.txt", ".bashrc", false},
		{"out", "out/a/.b", true},
		{"out", "outside", false},
		{"*.txt", "a.txt", true},
		{"*.txt", "d/a.txt", false},
		{"*.txt", "a.txt/below", true},
		{"*", ".bashrc", false},
		{"*", ".git/hooks/x", false},
		{"?bashrc", ".bashrc", false},
		{"[.]bashrc", ".bashrc", false},
		{".b*", ".bashrc", true},
		{"*/x", "d/x", true},
		{"*/*", "d/.x", false},
		{".", "any/.thing", true},
		{"a[", "a[", true},
		{"a[", "ab", false},
		{"\xff*", "\xffa\xfe", true},
	} {
		if got := Returns([]string{"other", c.pattern}, c.name); got != c.want {
			t.Errorf("%q names %q: %v", c.pattern, c.name, got)
		}
	}
}
