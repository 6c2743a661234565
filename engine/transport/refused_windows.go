package transport

import (
	"errors"

	"golang.org/x/sys/windows"
)

// refused says that nothing listens where err comes from dialling.
func refused(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }
