//go:build unix

package transport

import (
	"errors"
	"syscall"
)

// refused says that nothing listens where err comes from dialling.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
