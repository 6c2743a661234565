package worker

import (
	"slices"
	"strings"

	"banyan/node/exec"
)

// droppedMax bounds the names of files that a result tells of, each of at most
// droppedBytes, and droppedLook what is looked at.
const (
	droppedMax   = 3
	droppedBytes = 255
	droppedLook  = 1000
)

// dropped names what the task leaves at the top of its own directory and was not
// given: it goes with the directory. What cannot be read is not told of.
func dropped(place *exec.Place, had map[string]given) (names [][]byte, count uint32) {
	root, err := place.Root()
	if err != nil {
		return nil, 0
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return nil, 0
	}
	defer dir.Close()
	list, _ := dir.Readdirnames(droppedLook) // io.EOF when it is empty
	if len(list) == 0 {
		return nil, 0
	}
	came := make(map[string]bool, len(had))
	for n := range had {
		top, _, _ := strings.Cut(n, "/")
		came[top] = true
	}
	slices.Sort(list)
	for _, n := range list {
		if came[n] {
			continue
		}
		if count++; len(names) < droppedMax && len(n) <= droppedBytes {
			names = append(names, []byte(n))
		}
	}
	return names, count
}
