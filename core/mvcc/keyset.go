package mvcc

import "bytes"

// keyset numbers keys from 0 in the order of their adding. It searches the
// few keys of the usual command in line and indexes more.
type keyset struct {
	keys  [][]byte
	index map[string]int
}

const (
	keysInLine = 8
	keysKept   = 256 // capacity kept over a reset
)

func (s *keyset) find(key []byte) (int, bool) {
	if len(s.keys) > keysInLine {
		i, ok := s.index[string(key)]
		return i, ok
	}
	for i, k := range s.keys {
		if bytes.Equal(k, key) {
			return i, true
		}
	}
	return 0, false
}

// add appends a key that is not there.
func (s *keyset) add(key []byte) int {
	n := len(s.keys)
	s.keys = append(s.keys, key)
	switch {
	case n == keysInLine:
		s.index = make(map[string]int, 4*keysInLine)
		for i, k := range s.keys {
			s.index[string(k)] = i
		}
	case n > keysInLine:
		s.index[string(key)] = n
	}
	return n
}

func (s *keyset) reset() {
	s.index = nil
	clear(s.keys)
	if cap(s.keys) > keysKept {
		s.keys = nil
	}
	s.keys = s.keys[:0]
}
