package cli

import (
	"context"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/node/exec"
)

// parseTimeout reads GNU parallel's --timeout: seconds, or numbers with the
// units d, h, m and s. It gives milliseconds; 0 is none.
func parseTimeout(s string) (int64, error) {
	bad := func(why string) (int64, error) {
		return 0, usage("bad --timeout %q: %s: give seconds, or such as 1.5m, 2h, 1h30m", s, why)
	}
	if s == "" {
		return 0, nil
	}
	if strings.HasSuffix(s, "%") {
		return bad("a percentage of the median runtime is not supported")
	}
	units := map[byte]float64{'d': 86400, 'h': 3600, 'm': 60, 's': 1}
	total := 0.0
	for rest := s; rest != ""; {
		n := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		unit := 1.0
		number := rest
		if n >= 0 {
			u, ok := units[rest[n]|0x20]
			if !ok || n == 0 {
				return bad("it is not a time")
			}
			unit, number, rest = u, rest[:n], rest[n+1:]
		} else {
			rest = ""
		}
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return bad("it is not a time")
		}
		total += v * unit
	}
	switch ms := math.Ceil(total * 1000); {
	case ms > float64(math.MaxInt64/int64(time.Millisecond)):
		return bad("it is too long")
	case ms == 0:
		return 0, nil // as in GNU parallel: no timeout
	default:
		return int64(ms), nil
	}
}

// parseEnv reads NAME=VALUE, or NAME to be passed on; of two the last counts.
func parseEnv(list []string, lookup func(string) string) (env [][]byte, err error) {
	at := make(map[string]int, len(list))
	bytes := 0
	for _, s := range list {
		name, value, given := strings.Cut(s, "=")
		if name == "" {
			return nil, usage("bad --env %q: give NAME=VALUE, or NAME to pass it on", s)
		}
		if !given {
			value = lookup(name)
		}
		if i, ok := at[name]; ok {
			bytes -= len(env[i]) + 1
			env[i] = []byte(name + "=" + value)
		} else {
			at[name] = len(env)
			env = append(env, []byte(name+"="+value))
		}
		bytes += len(name) + len(value) + 2
	}
	if bytes > banyan.EnvBytesMax {
		return nil, banyan.Errorf(banyan.Exhausted, "--env is %d bytes, a job's environment at most %d: put it into a file and --send it", bytes, banyan.EnvBytesMax)
	}
	return env, nil
}

// parallelism is what -j says: a number, or percents of the cores.
type parallelism struct {
	number  int // 0: as many as a node has slots
	percent int // 0: number counts
	most    bool
	tasks   int
}

// parseJobs reads -j for a job of so many tasks.
func parseJobs(s string, tasks int) (parallelism, error) {
	if s == "" {
		return parallelism{percent: 100, tasks: tasks}, nil
	}
	number, isPercent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || isPercent && n == 0 || n > banyan.SlotsMax {
		return parallelism{}, usage("bad -j %q: give a number up to %d, a percentage such as 50%%, or 0 for as many as possible", s, banyan.SlotsMax)
	}
	switch {
	case isPercent:
		return parallelism{percent: n, tasks: tasks}, nil
	case n == 0:
		return parallelism{most: true, tasks: tasks}, nil
	}
	return parallelism{number: n, tasks: tasks}, nil
}

func percentOf(percent, of int) int { return max(1, percent*of/100) }

// embedded gives the slots of a node inside this command.
func (p parallelism) embedded() int {
	n := p.number
	switch {
	case p.most:
		n = p.tasks
	case p.percent > 0:
		n = percentOf(p.percent, runtime.NumCPU())
	}
	return min(n, banyan.SlotsMax)
}

// demand is what each task occupies; nil: one slot, and it does not say how much memory.
func (f *runFlags) demand() (*banyanv1.Resources, error) {
	if f.slots < 1 || f.slots > banyan.SlotsMax {
		return nil, usage("bad --slots %d: give how many slots of its node each task occupies, from 1 to %d", f.slots, banyan.SlotsMax)
	}
	memory, err := parseSize("--memory", f.memory, memoryMax)
	if err != nil || f.slots == 1 && memory == 0 {
		return nil, err
	}
	return &banyanv1.Resources{Slots: uint32(f.slots), Memory: uint64(memory)}, nil
}

// memoryMax is more than any machine has.
const memoryMax = 1 << 50

// fitsHere refuses tasks that the node inside this command can never run: no
// other will come and take them.
func fitsHere(s *session, spec *banyanv1.JobSpec, slots int) error {
	if slots == 0 {
		slots = runtime.NumCPU()
	}
	need, memory := job.Demand(spec), exec.MemorySpare()
	switch {
	case !s.local || spec.Demand == nil:
		return nil
	case need.Slots > slots:
		return usage("--slots %d: the node inside this command has %d: give -j %d or more, or fewer slots", need.Slots, slots, need.Slots)
	case need.Memory > memory:
		return usage("--memory %s: tasks on this machine can have %s (nine tenths of what it has)", size(need.Memory), size(memory))
	}
	return nil
}

// perNodeMax gives JobSpec.per_node_max, having looked at the nodes there are. A
// percentage wants them to have the same number of slots.
func (p parallelism) perNodeMax(ctx context.Context, s *session) (uint32, error) {
	if s.local {
		return uint32(p.number), nil
	}
	nodes, err := s.Cluster().Nodes(ctx)
	if err == nil {
		err = s.remember(nodes)
	}
	if err != nil {
		return 0, err
	}
	if p.number > 0 || p.most || p.percent == 100 {
		return uint32(p.number), nil
	}
	slots := 0
	for _, n := range nodes {
		if n.Slots == 0 {
			continue // it takes no tasks
		}
		if slots != 0 && int(n.Slots) != slots {
			return 0, usage("-j %d%%: the nodes differ in slots (%d and %d): give a number", p.percent, slots, n.Slots)
		}
		slots = int(n.Slots)
	}
	return uint32(percentOf(p.percent, slots)), nil
}

// drawsMax is how many ids are drawn for a job. One in a million is taken if
// another job is submitted in the same millisecond.
const drawsMax = 5

// submit stores a job under an id that no other job has.
func (a *app) submit(ctx context.Context, s *session, spec *banyanv1.JobSpec, in *inputs, open bool) (id banyan.JobID, err error) {
	put := s.Jobs().Submit
	if open {
		put = s.Jobs().Open
	}
	for range drawsMax {
		id = a.newJobID()
		if err = s.place(id); err != nil {
			return id, err
		}
		if _, err = put(ctx, id, spec, in.messages()); !banyan.IsKind(err, banyan.AlreadyExists) {
			break
		}
	}
	return id, err
}

// newJobID draws an id from the clock and the process.
func (a *app) newJobID() banyan.JobID {
	r := banyan.NewRequestID()
	random := uint32(r[0]) | uint32(r[1])<<8 | uint32(r[2])<<16
	return banyan.NewJobID(a.now().UnixMilli(), random)
}

// isTerminal says whether a stream is a terminal of this process.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && terminalFile(f)
}
