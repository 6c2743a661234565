package exec

import (
	"os"
	"strings"
)

// launcher begins the process trees of attempts. It is the seam between an
// attempt, which knows time, limits and output, and the processes that do it.
// One makes them children of this process; the other (warden_linux.go) has a
// process between, which calls the first one.
type launcher interface {
	// start runs the first process of an attempt. Its errors are those of
	// os.StartProcess; they may come by first instead. The goroutine that calls
	// it also calls the tree's release, and may be kept on its thread until then.
	start(launch) (tree, error)
	// sweep kills what is left of trees that were released, and takes from the
	// system's table what has ended and has no other parent than this process.
	sweep()
	// close ends what the launcher keeps beside the trees; all are released.
	close()
}

// launch says how the first process of an attempt begins.
type launch struct {
	path  string
	args  []string
	env   []string   // the launcher adds its cookie
	dir   string     // leads a child of this process into the working directory
	files []*os.File // 0, 1 and 2; nothing else is passed on

	// Of the working directory, for a process that sees another tree of files:
	place  string
	handle *os.File
}

// tree is the processes of one attempt: the first, and what that has started,
// wherever it went. Its methods may be called at once, but for release.
type tree interface {
	// first returns when the first process has ended, or with an error if it has
	// not begun: then there is nothing to release.
	first() error
	// rest says what is left when the first process has ended.
	rest(outputs [2]*os.File) rest
	// terminate asks all of them to end.
	terminate()
	// kill ends all of them; it returns when they are gone or cannot be ended.
	kill()
	// usage sums what they use now; false where that cannot be known.
	usage() (usage, bool)
	// expose makes the system prefer them to this process when memory runs out.
	expose()
	// guard has them killed should this process be.
	guard()
	// release gives up a tree of which nothing is left and says how the first
	// process ended, the code as shells do. It is called once, after first. With
	// an error the tree is gone for a reason that is not its own.
	release() (code int32, signal string, err error)
}

// rest is what lives on of an attempt whose first process has ended.
type rest struct {
	names []string // of the processes, KilledNamedMax at most
	count int
	holds bool // one of them holds the attempt's output, or nobody can know
}

// usage is what the processes of an attempt use.
type usage struct {
	processes int
	memory    int64 // bytes that no other attempt shares

	outOfMemory bool // the system has killed one that used more memory than the attempt may
}

// commandLineMax is how many bytes of a command line name a process.
const commandLineMax = 100

// commandLine makes a name of a process of its arguments, each ended by a NUL.
func commandLine(args []byte) string {
	s := strings.ReplaceAll(strings.TrimRight(string(args), "\x00"), "\x00", " ")
	if len(s) > commandLineMax {
		s = s[:commandLineMax] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
