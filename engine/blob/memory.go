package blob

import (
	"bytes"
	"context"
	"sync"

	"banyan"
)

// Memory keeps chunks in memory: a small real Store for tests of what stands
// above. The zero Memory is empty and ready.
type Memory struct {
	mu     sync.Mutex
	chunks map[banyan.Hash][]byte
}

var _ Store = (*Memory)(nil)

// Put keeps a copy of data.
func (m *Memory) Put(ctx context.Context, h banyan.Hash, data []byte) error {
	if err := check(h, data); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return waitErr(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.chunks == nil {
		m.chunks = map[banyan.Hash][]byte{}
	}
	m.chunks[h] = append([]byte{}, data...)
	return nil
}

// Get gives a copy of the chunk.
func (m *Memory) Get(ctx context.Context, h banyan.Hash) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, waitErr(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.chunks[h]
	if !ok {
		return nil, notFound(h, "in memory")
	}
	return bytes.Clone(data), nil
}
