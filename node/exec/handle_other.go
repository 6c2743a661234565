//go:build !linux

package exec

import "os"

// pathOf says where an open directory is now; "": these systems are not asked.
func pathOf(*os.File) string { return "" }

// enterable gives the name by which a child of this process comes into a directory.
func enterable(_ *os.File, name string) string { return name }
