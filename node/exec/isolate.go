package exec

// Isolation says how far tasks are to be kept from the node that runs them.
type Isolation string

// The isolations.
const (
	IsolationNone   Isolation = "none"   // not at all
	IsolationNode   Isolation = "node"   // as far as this machine lets it
	IsolationStrict Isolation = "strict" // by namespaces and as another than root, or they do not run
)

// Isolated says how tasks are kept from the node in fact.
type Isolated struct {
	By   string // ByNamespaces, ByLandlock, or "" for not at all
	Root bool   // tasks are root: who is root owns the machine, whatever is covered
	Why  error  // there is no better; nil for ByNamespaces
}

// What keeps tasks from the node.
const (
	ByNamespaces = "namespaces"
	ByLandlock   = "landlock"
)

// Isolated says how tasks of this Runner are kept from the node.
func (r *Runner) Isolated() Isolated { return r.isolated }

// WardenArg is the first argument of this program when it is the warden of a
// node rather than what it is otherwise: its main calls RunWarden with the rest.
const WardenArg = "task-warden"
