package client_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banyan/internal/arch"
)

// outsider is a program that another module has.
const outsider = `package main

import (
	"context"
	"fmt"

	"MODULE/client"
	"MODULE/node/pki"
)

func main() {
	ctx, err := pki.LoadContext("dir", "")
	if err != nil {
		fmt.Println("no context:", err)
		return
	}
	cfg, err := client.FromContext(ctx)
	if err != nil {
		panic(err)
	}
	c, err := client.Open(cfg)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	_, err = c.KV().Put(context.Background(), []byte("app/color"), []byte("green"))
	fmt.Println(err)
}
`

// TestAnotherModuleBuildsWithTheSDK does what docs/api.md says about go.mod.
func TestAnotherModuleBuildsWithTheSDK(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs the Go command")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	require, replace := "require "+arch.Module+" v0.0.0", "replace "+arch.Module+" => /path/to/banyan"
	for _, line := range []string{require, replace} {
		if !strings.Contains(string(doc), line) {
			t.Errorf("docs/api.md does not say %q", line)
		}
	}
	own, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mod := "module example.org/outsider\n\ngo 1.26.0\n\n" + require + "\n\n" + strings.Replace(replace, "/path/to/banyan", root, 1) + "\n"
	// What 'go mod tidy' would add, without asking a proxy: this module's own.
	_, rest, _ := strings.Cut(string(own), "require (")
	rest, _, _ = strings.Cut(rest, "\ntool ")
	mod += "\nrequire (" + rest + "\n"
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"go.mod": mod, "go.sum": string(sum), "main.go": strings.ReplaceAll(outsider, "MODULE", arch.Module)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-mod=mod", "-o", os.DevNull, ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go build: %v\n%s", err, out)
	}
}
