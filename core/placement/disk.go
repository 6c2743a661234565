package placement

import "banyan"

// DiskLevel is how near to full a node's disk is.
type DiskLevel uint8

// The levels. Between the marks no user's data comes in, blobs and attempts
// included; below the second running attempts are stopped. Deletes, trims,
// results, leases, policy and membership go on to the end.
const (
	DiskWell     DiskLevel = iota
	DiskLow                // below the first mark
	DiskCritical           // below the second
)

// DiskMarkBytes, DiskMarkPart and DiskMarkMost make the first mark: the larger
// of so many bytes and this part of the disk, at most that part of it.
const (
	DiskMarkBytes = 1 << 30
	DiskMarkPart  = 50
	DiskMarkMost  = 10
)

// DiskMark is the first low-water mark of a disk of so many bytes. reserve is
// what an operator chose: 0 the default, less than 0 none. The second mark is
// half of it.
func DiskMark(total, reserve int64) int64 {
	switch {
	case reserve < 0 || total <= 0:
		return 0
	case reserve == 0:
		reserve = max(DiskMarkBytes, total/DiskMarkPart)
	}
	return min(reserve, total/DiskMarkMost)
}

// DiskLevelOf is the level of a disk that had another one before. A level begins
// with the first byte less than its mark. It ends only when at least a quarter
// more than its mark is free, so that a disk near its mark does not change its
// level with every write, and shards do not move away and back.
func DiskLevelOf(free, mark int64, before DiskLevel) DiskLevel {
	left := func(mark int64, was bool) bool {
		if was {
			mark += (mark + 3) / 4 // rounded up: a quarter more at least
		}
		return free >= mark
	}
	switch {
	case left(mark, before >= DiskLow):
		return DiskWell
	case left(mark/2, before >= DiskCritical):
		return DiskLow
	}
	return DiskCritical
}

// Room says whether a shard may take what users write: as long as the voters
// that are sound (above their mark, and there) are a majority. So the others
// can be lost to full disks, and all voters never fill up together.
func Room(voters []banyan.NodeID, sound func(banyan.NodeID) bool) bool {
	n := 0
	for _, id := range voters {
		if sound(id) {
			n++
		}
	}
	return n > len(voters)/2
}
