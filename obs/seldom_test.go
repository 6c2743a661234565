package obs

import (
	"testing"
	"time"
)

func TestSeldom(t *testing.T) {
	var s Seldom
	at := time.Unix(1e9, 0)
	lines, left := 0, 0
	for i := range 100 {
		if n, due := s.Now(at.Add(time.Duration(i) * time.Second)); due {
			lines++
			left += n
		}
	}
	if lines != 10 || left != 81 {
		t.Errorf("%d lines, which tell of %d left out", lines, left)
	}
}
