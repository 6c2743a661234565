package transport

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"

	"banyan"
)

// A frame is a header and a payload:
//
//	length   uint32  of the payload
//	version  uint8
//	type     uint8
//	crc      uint32  CRC-32C of version, type and payload
//
// Numbers are big-endian. The header, and the hello and refuse frames, keep
// this form in every version, so that versions can refuse each other.
const (
	headerBytes  = 10
	frameVersion = 1
)

type frameType uint8

const (
	frameHello  frameType = 1 // who calls, who answers: the first frame each way
	frameRefuse frameType = 2 // error kind (one byte) and reason, then the end
	frameRaft   frameType = 3 // records: tag = shard, body = raftpb.Message
	framePacket frameType = 4 // records: tag = 0, body = gossip packet
	framePing   frameType = 5
	framePong   frameType = 6
)

// helloBytesMax bounds frames before both sides know each other.
const helloBytesMax = 4 << 10

// newFrame begins a frame in buf's memory, with room for the header.
func newFrame(buf []byte) []byte {
	var header [headerBytes]byte
	return append(buf[:0], header[:]...)
}

// sealFrame fills in the header of a frame that newFrame began.
func sealFrame(frame []byte, typ frameType) []byte {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-headerBytes))
	frame[4], frame[5] = frameVersion, byte(typ)
	binary.BigEndian.PutUint32(frame[6:], frameCRC(frame[4:6], frame[headerBytes:]))
	return frame
}

func frameCRC(kind, payload []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(kind, table), table, payload)
}

// readFrame reads one frame of at most limit payload bytes into buf's memory.
// The payload is valid until the next call with it.
func readFrame(r *bufio.Reader, buf []byte, limit int) (frameType, []byte, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(header[:]))
	typ := frameType(header[5])
	if n > limit {
		return 0, nil, banyan.Errorf(banyan.Exhausted, "a frame of %d bytes, more than %d", n, limit)
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, nil, err
	}
	if frameCRC(header[4:6], buf) != binary.BigEndian.Uint32(header[6:]) {
		return 0, nil, banyan.Errorf(banyan.Corrupt, "a frame of %d bytes does not match its checksum", n)
	}
	if header[4] != frameVersion && typ != frameHello && typ != frameRefuse {
		return 0, nil, banyan.Errorf(banyan.TooNew, "a frame of version %d, this node knows %d", header[4], frameVersion)
	}
	return typ, buf, nil
}

// recordBytes bounds what appendRecordHead and a body of n bytes take.
func recordBytes(n int) int { return 2*binary.MaxVarintLen32 + n }

// appendRecordHead begins a record of a raft or packet frame: its tag, and the
// length of the body, which the caller appends.
func appendRecordHead(frame []byte, tag uint32, n int) []byte {
	frame = binary.AppendUvarint(frame, uint64(tag))
	return binary.AppendUvarint(frame, uint64(n))
}

// eachRecord calls fn for the records of a payload; body is part of payload.
func eachRecord(payload []byte, fn func(tag uint32, body []byte) error) error {
	for len(payload) > 0 {
		tag, n := binary.Uvarint(payload)
		if n <= 0 || tag > 1<<32-1 {
			return banyan.Errorf(banyan.Corrupt, "a frame has a bad record tag")
		}
		payload = payload[n:]
		size, n := binary.Uvarint(payload)
		if n <= 0 || size > uint64(len(payload)-n) {
			return banyan.Errorf(banyan.Corrupt, "a frame has a record longer than itself")
		}
		body := payload[n:][:size]
		payload = payload[n:][size:]
		if err := fn(uint32(tag), body); err != nil {
			return err
		}
	}
	return nil
}
