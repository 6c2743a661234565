package work

import (
	"context"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// Loaded is one job rebuilt from its rows.
type Loaded struct {
	Run     *Run
	spec    *banyanv1.JobSpec // with the list of sent files
	journal *journal
	chunks  []banyan.TaskIndex // where each chunk of inputs begins
	sizes   []uint32           // of a job that streams: how large they are
}

// Load rebuilds the unfinished jobs of a shard from its rows, oldest first.
func Load(ctx context.Context, r Reader, shard banyan.ShardID) ([]Loaded, error) {
	var out []Loaded
	lo, hi := job.ActiveRange()
	err := scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi, EachSlot: true}, func(row mvcc.Row) error {
		id, err := job.ActiveOf(row.Key)
		if err != nil {
			return err
		}
		header, mod, err := readHeader(ctx, r, shard, id)
		if err != nil || job.Ended(header.State) {
			return err
		}
		l, err := load(ctx, r, shard, header, mod)
		out = append(out, l)
		return err
	})
	return out, err
}

// load rebuilds one job, ended or not.
func load(ctx context.Context, r Reader, shard banyan.ShardID, header *banyanv1.Job, mod banyan.Revision) (l Loaded, err error) {
	id := banyan.JobID(header.Id)
	var trim trimRow
	if header.Streamed {
		header, trim, err = l.stream(ctx, r, shard, header)
	} else {
		l.chunks, err = readChunkList(ctx, r, shard, id)
	}
	if err != nil {
		return l, err
	}
	l.Run = NewRun(header, mod)
	if l.spec, err = readSpec(ctx, r, shard, header); err != nil {
		return l, err
	}
	if err := l.trimmed(ctx, r, shard, trim); err != nil {
		return l, err
	}
	var entries []entry
	lo, hi := job.ResultRange(id, 0)
	err = scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		task, err := job.Number(row.Key)
		if err != nil {
			return err
		}
		m, _, err := job.DecodeMeta(row.Value)
		if err != nil {
			return err
		}
		if row.Mod < trim.mod { // counted there
			m.Node, m.Repeats = 0, 0
		}
		l.Run.Result(uint32(task), m)
		if uint32(task) < header.Tasks {
			entries = append(entries, entry{row.Mod, uint32(task)})
		}
		return nil
	})
	if err != nil {
		return l, err
	}
	l.journal = newJournal(entries)
	lo, hi = job.FailureRange(id, 0)
	err = scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		task, err := job.Number(row.Key)
		if err != nil {
			return err
		}
		f, err := job.DecodeFailure(row.Value)
		l.Run.Failure(uint32(task), f)
		return err
	})
	if err != nil {
		return l, err
	}
	lo, hi = job.LossRange(id)
	err = scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		task, err := job.Number(row.Key)
		if err != nil {
			return err
		}
		loss, err := job.DecodeLoss(row.Value)
		l.Run.Loss(uint32(task), loss)
		return err
	})
	l.Run.rebuilt()
	return l, err
}

// readJournal reads only the order in which a job's results were recorded.
func readJournal(ctx context.Context, r Reader, shard banyan.ShardID, header *banyanv1.Job) (*journal, error) {
	var entries []entry
	lo, hi := job.ResultRange(banyan.JobID(header.Id), 0)
	err := scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi, KeysOnly: true}, func(row mvcc.Row) error {
		task, err := job.Number(row.Key)
		if uint32(task) < header.Tasks {
			entries = append(entries, entry{row.Mod, uint32(task)})
		}
		return err
	})
	return newJournal(entries), err
}

// readSpec completes a header's specification with the list of sent files.
func readSpec(ctx context.Context, r Reader, shard banyan.ShardID, header *banyanv1.Job) (*banyanv1.JobSpec, error) {
	var pieces [][]byte
	lo, hi := job.SendRange(banyan.JobID(header.Id))
	err := scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		pieces = append(pieces, row.Value)
		return nil
	})
	if err != nil || len(pieces) == 0 {
		return header.Spec, err
	}
	spec := job.TrimSpec(header.Spec)
	spec.Send, err = job.DecodeSend(pieces)
	return spec, err
}

func readChunkList(ctx context.Context, r Reader, shard banyan.ShardID, id banyan.JobID) ([]banyan.TaskIndex, error) {
	var chunks []banyan.TaskIndex
	lo, hi := job.InputRange(id)
	err := scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi, KeysOnly: true}, func(row mvcc.Row) error {
		first, err := job.Number(row.Key)
		chunks = append(chunks, first)
		return err
	})
	return chunks, err
}

// readHeader gives a job's header; a job that is not there is NotFound.
func readHeader(ctx context.Context, r Reader, shard banyan.ShardID, id banyan.JobID) (*banyanv1.Job, banyan.Revision, error) {
	row, err := get(ctx, r, shard, job.HeaderKey(id))
	if err != nil {
		return nil, 0, err
	}
	if row == nil {
		return nil, 0, noJob(id)
	}
	header, err := job.DecodeHeader(row.Value)
	return header, row.Mod, err
}

func noJob(id banyan.JobID) error {
	return banyan.Errorf(banyan.NotFound, "there is no job %s: 'banyan jobs' lists those there are", id)
}

// get reads one row, nil if there is none.
func get(ctx context.Context, r Reader, shard banyan.ShardID, key []byte) (*mvcc.Row, error) {
	rows, _, err := r.Range(ctx, shard, mvcc.Query{Lo: key, Hi: append(append([]byte(nil), key...), 0), Limit: 1})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// scan reads a range page by page.
func scan(ctx context.Context, r Reader, shard banyan.ShardID, q mvcc.Query, fn func(mvcc.Row) error) error {
	for {
		rows, more, err := r.Range(ctx, shard, q)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := fn(row); err != nil {
				return err
			}
		}
		if !more || len(rows) == 0 {
			return nil
		}
		last := rows[len(rows)-1].Key
		if q.EachSlot {
			last = job.AfterSlot(last)
		}
		q.Lo = append(append([]byte(nil), last...), 0)
	}
}
