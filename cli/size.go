package cli

import (
	"math"
	"strconv"
	"strings"
)

// parseSize reads a number of bytes, from 1 to most, with K, M, G or T behind it
// for powers of 1,024, and an i or B as people write them; "" is 0.
func parseSize(flag, s string, most int64) (int64, error) {
	if s == "" {
		return 0, nil
	}
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I")
	unit := 1.0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("KMGT", number[n-1]); i >= 0 {
			number, unit = number[:n-1], math.Pow(1024, float64(i+1))
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if v *= unit; err != nil || !(v >= 1 && v <= float64(most)) {
		return 0, usage("bad %s %q: give a size from 1 to %s, such as 500M or 10G", flag, s, size(most))
	}
	return int64(v), nil
}
