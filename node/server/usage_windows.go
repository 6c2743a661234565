package server

import (
	"runtime"

	"golang.org/x/sys/windows"
)

// diskSpace gives the free and total bytes of the volume of dir, or 0, 0.
func diskSpace(dir string) (free, total int64) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0
	}
	var avail, all, unused uint64
	if windows.GetDiskFreeSpaceEx(path, &avail, &all, &unused) != nil {
		return 0, 0
	}
	return int64(avail), int64(all)
}

// residentMemory gives the bytes of memory this process has from the system.
func residentMemory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
