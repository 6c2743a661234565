package cli

import (
	"fmt"
	"os"
)

// ownerOf is the name of a directory's owner: there are no services here.
func ownerOf(string) string { return "" }

// sigpipe comes with a write to a pipe that nobody reads: not here.
var sigpipe []os.Signal

// private says why a directory is not one that only this user can write to: here
// that is not looked into, and none is.
func private(dir string) error {
	return fmt.Errorf("who can write to %s is not known here: USERPROFILE is not set", dir)
}
