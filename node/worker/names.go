package worker

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// anyNames is a directory whose names may be any bytes that the operating system
// takes: that of os.Root refuses what is not UTF-8.
type anyNames struct{ root *os.Root }

var (
	_ fs.StatFS    = anyNames{}
	_ fs.ReadDirFS = anyNames{}
)

func (d anyNames) Open(name string) (fs.File, error) {
	return d.root.Open(filepath.FromSlash(name))
}

func (d anyNames) Stat(name string) (fs.FileInfo, error) {
	return d.root.Stat(filepath.FromSlash(name))
}

func (d anyNames) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}
