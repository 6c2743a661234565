package store

// OpenPebble opens the KV alone, for its contract suite.
func OpenPebble(dir string, o Options) (KV, error) {
	return openPebble(dir, o, func(error) {})
}
