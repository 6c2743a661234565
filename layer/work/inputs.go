package work

import (
	"container/list"
	"context"
	"sort"
	"sync"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// inputChunksMax bounds the chunks of inputs kept in memory, about 64 KiB each.
const inputChunksMax = 64

// inputs reads tasks' inputs from their rows and keeps the chunks used last.
type inputs struct {
	reader Reader
	mu     sync.Mutex
	chunks map[chunkID]*list.Element
	recent *list.List // of *chunk, the latest used first
}

type chunkID struct {
	job   banyan.JobID
	first banyan.TaskIndex
}

type chunk struct {
	id chunkID
	in *job.Inputs
}

func newInputs(r Reader) inputs {
	return inputs{reader: r, chunks: map[chunkID]*list.Element{}, recent: list.New()}
}

// get gives a task's input. starts lists the first task of each chunk.
func (c *inputs) get(ctx context.Context, shard banyan.ShardID, id banyan.JobID, starts []banyan.TaskIndex, task banyan.TaskIndex) (*banyanv1.Input, error) {
	at := sort.Search(len(starts), func(i int) bool { return starts[i] > task }) - 1
	if at < 0 {
		return nil, banyan.Errorf(banyan.Corrupt, "job %s has no chunk with the input of task %d", id, task)
	}
	in, err := c.open(ctx, shard, chunkID{id, starts[at]})
	if err != nil {
		return nil, err
	}
	if n := int(task - starts[at]); n < in.Len() {
		return in.Input(n), nil
	}
	return nil, banyan.Errorf(banyan.Corrupt, "job %s: the chunk of inputs from task %d ends before task %d", id, starts[at], task)
}

func (c *inputs) open(ctx context.Context, shard banyan.ShardID, id chunkID) (*job.Inputs, error) {
	c.mu.Lock()
	if e := c.chunks[id]; e != nil {
		c.recent.MoveToFront(e)
		c.mu.Unlock()
		return e.Value.(*chunk).in, nil
	}
	c.mu.Unlock()
	row, err := get(ctx, c.reader, shard, job.InputKey(id.job, id.first))
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, banyan.Errorf(banyan.Corrupt, "job %s misses the chunk of inputs from task %d", id.job, id.first)
	}
	in, err := job.OpenInputs(row.Value)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chunks[id] == nil {
		c.chunks[id] = c.recent.PushFront(&chunk{id, in})
	}
	for c.recent.Len() > inputChunksMax {
		last := c.recent.Back()
		delete(c.chunks, last.Value.(*chunk).id)
		c.recent.Remove(last)
	}
	return in, nil
}
