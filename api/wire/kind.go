package wire

import (
	"errors"
	"strconv"

	"banyan"

	"connectrpc.com/connect"
)

// KindOf gives the kind of an error that Encode made.
func KindOf(err error) banyan.Kind {
	var ce *connect.Error
	if errors.As(err, &ce) {
		if k, perr := strconv.ParseUint(ce.Meta().Get(KindHeader), 10, 8); perr == nil && k < uint64(banyan.Kinds) {
			return banyan.Kind(k)
		}
	}
	return banyan.KindOf(err)
}
