// Package limitsdoc prints the table of limits as docs/limits.md holds it.
package limitsdoc

import (
	"fmt"
	"strings"

	"banyan"
)

// Render gives the whole document.
func Render(limits []banyan.Limit) string {
	var b strings.Builder
	b.WriteString("# Limits\n\n")
	b.WriteString("Nothing in Banyan is unbounded. Reaching a limit is a clear error or back-pressure, never memory growth.\n")
	b.WriteString("Printed from `limits.go` by `go test ./internal/arch -update`.\n\n")
	b.WriteString("| limit | value | what is bounded, and what happens there |\n|---|--:|---|\n")
	for _, l := range limits {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.Name, value(l), l.What)
	}
	return b.String()
}

func value(l banyan.Limit) string {
	if l.Unit == "bytes" {
		for _, u := range []struct {
			size int64
			name string
		}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
			if l.Value >= u.size && l.Value%u.size == 0 {
				return fmt.Sprintf("%d %s", l.Value/u.size, u.name)
			}
		}
	}
	return fmt.Sprintf("%d %s", l.Value, l.Unit)
}
