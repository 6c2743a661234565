package replica

import (
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
)

// pack is the proposals of one entry, in order. An entry's data is one command
// as mvcc encodes it or several: packVersion, then each
// with its length before it (uvarint). A busy shard so logs, sends and checks
// one entry for all that came while the one before was written.
type pack []*Proposal

const (
	packVersion     = 0x80 // no command begins so
	packBytesMax    = 256 << 10
	packCommandsMax = 256
)

// done answers all of the pack.
func (p pack) done(res mvcc.Result, err error) {
	for _, q := range p {
		q.Done(res, err)
	}
}

// packs divides proposals, in order, among as few entries as may be. A command
// alone stays as it is, whatever its size.
func packs(ps []*Proposal) []pack {
	var out []pack
	for len(ps) > 0 {
		n, bytes := 1, len(ps[0].Data)
		for n < min(packCommandsMax, len(ps)) && bytes+len(ps[n].Data) <= packBytesMax {
			bytes += len(ps[n].Data)
			n++
		}
		out, ps = append(out, pack(ps[:n:n])), ps[n:]
	}
	return out
}

func (p pack) entry() *raftpb.Entry {
	if len(p) == 1 {
		return &raftpb.Entry{Data: p[0].Data}
	}
	size := 1
	for _, q := range p {
		size += binary.MaxVarintLen32 + len(q.Data)
	}
	data := append(make([]byte, 0, size), packVersion)
	for _, q := range p {
		data = append(binary.AppendUvarint(data, uint64(len(q.Data))), q.Data...)
	}
	return &raftpb.Entry{Data: data}
}

// Commands takes the data of a normal entry apart; what it gives are parts of
// it. A leader's first entry has none. Anything that no leader writes is
// banyan.Corrupt; what the commands themselves are is mvcc's to say.
func Commands(data []byte) ([][]byte, error) {
	switch {
	case len(data) == 0:
		return nil, nil
	case data[0] != packVersion:
		return [][]byte{data}, nil
	}
	commands := make([][]byte, 0, 16) // most entries have fewer
	for rest := data[1:]; len(rest) > 0 || len(commands) < 2; {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size == 0 || size > uint64(len(rest)-n) || len(commands) == packCommandsMax {
			return nil, banyan.Errorf(banyan.Corrupt, "an entry of several commands breaks off at byte %d, in command %d", len(data)-len(rest), len(commands)+1)
		}
		commands = append(commands, rest[n:n+int(size)])
		rest = rest[n+int(size):]
	}
	return commands, nil
}
