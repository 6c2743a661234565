package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhereTheTokenIs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ flag, env, in, want string }{
		{"given", "kept", "", "given"},
		{"", "kept", "", "kept"},
		{"@" + file, "kept", "", "from-file"},
		{"-", "kept", "\nfrom-stdin\n", "from-stdin"},
		{"-", "kept", "", ""},
		{"@" + file + "x", "", "", ""},
		{"", "", "", ""},
	} {
		t.Setenv("BANYAN_TOKEN", c.env)
		a := &app{IO: IO{In: strings.NewReader(c.in), Env: os.Getenv}}
		got, err := a.joinToken(c.flag)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
		if os.Getenv("BANYAN_TOKEN") != "" {
			t.Errorf("%+v: tasks would find the token", c)
		}
	}
}
