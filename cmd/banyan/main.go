// Command banyan is the one binary: every node, and the command line.
package main

import (
	"context"
	"os"

	"banyan/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Process()))
}
