package banyan

import "fmt"

// LockRow is the row that says who holds a permit (from 0) of a lock, while
// somebody does. The revision of its last change is the fencing token. Package
// coord writes it, others demand in a condition that it is still the same.
func LockRow(name string, permit uint32) []byte {
	row := AppendRowKey(make([]byte, 0, len(name)+16), SlotOf(Partition([]byte(name))), LayerLock, SpaceDefault)
	return fmt.Appendf(row, "o%s\x00h%08x", name, permit)
}
