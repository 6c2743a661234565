package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/node/pki"
)

// target says which cluster the user means.
type target struct {
	local   bool
	context string
}

// need says what a command asks of its cluster.
type need struct {
	embedded bool         // without a cluster, a node inside this command will do
	slots    int          // of that node; 0: the number of CPUs
	first    bool         // that node is always the same one
	runs     bool         // tasks are to run on that node
	job      banyan.JobID // that the command is about
}

// session is an open way to a cluster.
type session struct {
	*client.Client
	local  bool
	shared bool   // local, and the node is in another command
	hint   string // the flags, with a blank before them, that lead a later command here
	lane   *lane  // locked, unless shared
	stop   func() error

	dir     string // of contexts
	context *pki.Context
}

// addressesMax is how many addresses of nodes a context keeps.
const addressesMax = 16

// remember keeps the addresses of the nodes there are now, so that later
// commands find the cluster when those they began with are gone.
func (s *session) remember(nodes []*banyanv1.Node) error {
	if s.context == nil {
		return nil
	}
	var now []string
	for _, n := range nodes {
		if n.State != "left" && n.Address != "" {
			now = append(now, n.Address)
		}
	}
	// Those that were known keep their places, and the one that answers stays
	// whatever the nodes say: theirs may be the addresses of yesterday.
	keep := slices.DeleteFunc(slices.Clone(s.context.Addresses), func(addr string) bool {
		return !slices.Contains(now, addr) && addr != s.Answers()
	})
	for _, addr := range now {
		if !slices.Contains(keep, addr) {
			keep = append(keep, addr)
		}
	}
	keep = keep[:min(len(keep), addressesMax)]
	if len(keep) == 0 || slices.Equal(keep, s.context.Addresses) {
		return nil
	}
	s.context.Addresses = keep
	return pki.SaveContext(s.dir, s.context)
}

// learn asks which nodes there are and remembers where. That it failed is told
// by nobody: the next command tries again.
func (s *session) learn(ctx context.Context) {
	if s.context == nil {
		return
	}
	if m, err := s.Cluster().Map(ctx); err == nil {
		_ = s.remember(m.Nodes)
	}
}

// close ends the session; a node inside this command is stopped.
func (s *session) close() error {
	if s.stop == nil {
		return nil
	}
	return s.stop()
}

// place remembers where a job lives, before it is submitted.
func (s *session) place(id banyan.JobID) error {
	if s.lane == nil {
		return nil
	}
	return s.lane.remember(id)
}

// open finds the cluster: --local, --context, BANYAN_CONTEXT, the lane that
// knows the job, the current context, and at last a node of its own.
func (a *app) open(ctx context.Context, n need) (*session, error) {
	dir, err := a.configDir()
	if err != nil {
		return nil, err
	}
	switch {
	case a.target.local && a.target.context != "":
		return nil, usage("--local and --context %s exclude each other: give one", a.target.context)
	case a.target.local:
		return a.openLocal(ctx, n, " --local")
	case a.target.context != "":
		return openContext(dir, a.target.context, " --context "+a.target.context, "")
	case a.Env("BANYAN_CONTEXT") != "":
		return openContext(dir, a.Env("BANYAN_CONTEXT"), "", "")
	}
	if n.job != "" {
		if l, err := a.lanes(); err == nil && l.knows(n.job) {
			return a.openLocal(ctx, n, "")
		}
	}
	name, err := pki.CurrentContext(dir)
	if err != nil {
		return nil, err
	}
	if name != "" {
		otherwise := ""
		if n.embedded && n.job == "" {
			otherwise = fmt.Sprintf(", or use a node inside the command (--local); 'banyan context remove %s' has later commands do so", name)
		}
		return openContext(dir, name, "", otherwise)
	}
	if n.embedded {
		return a.openLocal(ctx, n, "")
	}
	return nil, banyan.Errorf(banyan.NotFound, "there is no cluster to ask: 'banyan up' starts one here, --context names another, --local uses a node inside the command")
}

// openContext opens the cluster of a context. otherwise says what else there is
// to do when it cannot be reached.
func openContext(dir, name, hint, otherwise string) (*session, error) {
	c, err := pki.LoadContext(dir, name)
	if err != nil {
		return nil, err
	}
	cfg, err := client.FromContext(c)
	if err != nil {
		return nil, err
	}
	cfg.Otherwise = otherwise
	cl, err := client.Open(cfg)
	if err != nil {
		return nil, err
	}
	return &session{Client: cl, hint: hint, stop: cl.Close, dir: dir, context: c}, nil
}

// configDir is where contexts are kept.
func (a *app) configDir() (string, error) { return a.homes().config() }

// with opens the cluster for the time of fn.
func (a *app) with(ctx context.Context, n need, fn func(ctx context.Context, s *session) error) error {
	ctx, stop := a.interruptible(ctx)
	defer stop()
	s, err := a.opens(ctx, n)
	if err != nil {
		return err
	}
	return errors.Join(fn(ctx, s), s.close())
}

// withJob is with for a command about the job that text names.
func (a *app) withJob(ctx context.Context, text string, fn func(ctx context.Context, s *session, id banyan.JobID) error) error {
	id, err := banyan.ParseJobID(text)
	if err != nil {
		return err
	}
	return a.with(ctx, need{embedded: true, job: id}, func(ctx context.Context, s *session) error { return fn(ctx, s, id) })
}

// meansLocal says whether open without a job would use a node of its own.
func (a *app) meansLocal() (bool, error) {
	if a.target.local || a.target.context != "" || a.Env("BANYAN_CONTEXT") != "" {
		return a.target.local, nil
	}
	dir, err := a.configDir()
	if err != nil {
		return false, err
	}
	name, err := pki.CurrentContext(dir)
	return name == "", err
}
