package job

import (
	"bytes"
	"encoding/binary"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// InputChunkBytes is the size at which a chunk of inputs is closed. One chunk
// is one row, so it is at most this and the longest input.
const InputChunkBytes = 64 << 10

// InputChunkTasks is the number of inputs at which a chunk is closed, too: what
// streams is trimmed by whole chunks.
const InputChunkTasks = 4096

// columnsMax bounds what a decoder believes of one input.
const columnsMax = banyan.InputBytesMax

// Chunk is a row of inputs ready to be stored.
type Chunk struct {
	First banyan.TaskIndex
	Value []byte
}

// Chunker cuts a stream of inputs into rows. The same inputs give the same
// rows, whatever the messages they came in. The zero value is ready.
type Chunker struct {
	open  []byte
	first banyan.TaskIndex
	next  banyan.TaskIndex
	bytes int
}

// NewChunker makes one for inputs from task first on.
func NewChunker(first banyan.TaskIndex) *Chunker { return &Chunker{next: first} }

// Add takes one (valid) input and gives the chunk it completed, if it did.
func (c *Chunker) Add(in *banyanv1.Input) (chunk Chunk, full bool) {
	if c.open == nil {
		c.open, c.first = append(make([]byte, 0, InputChunkBytes+1024), version), c.next
	}
	c.open = binary.AppendUvarint(c.open, uint64(len(in.Columns)))
	for _, col := range in.Columns {
		c.open = binary.AppendUvarint(c.open, uint64(len(col)))
		c.open = append(c.open, col...)
		c.bytes += len(col)
	}
	c.next++
	if len(c.open) < InputChunkBytes && c.next-c.first < InputChunkTasks {
		return Chunk{}, false
	}
	return c.Close()
}

// Close gives the last chunk, if anything is left in it.
func (c *Chunker) Close() (chunk Chunk, some bool) {
	chunk = Chunk{c.first, c.open}
	c.open = nil
	return chunk, chunk.Value != nil
}

// Tasks is the number of inputs added so far.
func (c *Chunker) Tasks() int { return int(c.next) }

// Bytes is the size of the inputs added so far, as the limits count it.
func (c *Chunker) Bytes() int { return c.bytes }

// Inputs is a chunk opened for reading: the stored bytes and where each input
// starts, so that a chunk costs little more in memory than on disk.
type Inputs struct {
	b  []byte
	at []uint32
}

// OpenInputs checks a stored chunk and finds its inputs. It keeps b.
func OpenInputs(b []byte) (*Inputs, error) {
	body, err := open("inputs", b)
	if err != nil {
		return nil, err
	}
	in := &Inputs{b: body}
	for at := 0; at < len(body); {
		in.at = append(in.at, uint32(at))
		columns, n := binary.Uvarint(body[at:])
		if n <= 0 || columns == 0 || columns > columnsMax {
			return nil, banyan.Errorf(banyan.Corrupt, "a job's chunk of inputs does not hold inputs")
		}
		at += n
		for range columns {
			size, n := binary.Uvarint(body[at:])
			if n <= 0 || size > uint64(len(body)-at-n) {
				return nil, banyan.Errorf(banyan.Corrupt, "a job's chunk of inputs is cut short")
			}
			at += n + int(size)
		}
	}
	return in, nil
}

// Len is the number of inputs in the chunk.
func (in *Inputs) Len() int { return len(in.at) }

// Input gives the i-th input of the chunk.
func (in *Inputs) Input(i int) *banyanv1.Input {
	b := in.b[in.at[i]:]
	columns, n := binary.Uvarint(b)
	b = b[n:]
	out := &banyanv1.Input{Columns: make([][]byte, columns)}
	for c := range out.Columns {
		size, n := binary.Uvarint(b)
		out.Columns[c] = bytes.Clone(b[n : n+int(size)])
		b = b[n+int(size):]
	}
	return out
}
