package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

const (
	upgradeWait = 5 * time.Minute // until a node that was upgraded is well
	// behindMax is how many log entries a replica may lack, as its leader says,
	// and still be well: under load there are always some.
	behindMax = 1000
)

// upgradeFlags are the flags of upgrade.
type upgradeFlags struct {
	out           format
	to            string
	binaries      []string
	back, noDrain bool
	wait          time.Duration
}

func (a *app) upgradeCommand() *cobra.Command {
	f := &upgradeFlags{}
	cmd := &cobra.Command{
		Use:   "upgrade [HOST …]",
		Short: "Replace the binary of added nodes, one after the other",
		Long: `Replace the binary of nodes that 'banyan add' added with this one, one after
the other; without HOST, of all that this user added to the cluster. Each node
is drained, its binary swapped, its service restarted, and it takes work again;
the next one's turn comes when 'banyan status' is well. The first node that is
not well ends the command, and those after it stay as they are.

The binary before stays beside the new one: --back goes back to it. Given again,
the command goes on where it stopped. A node that was not added so, such as the
first one, is named and left alone: replace its binary and restart it by hand.`,
		Example:           "  banyan upgrade\n  banyan upgrade --back ada@lab1",
		ValidArgsFunction: a.addedHosts().complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := (&addFlags{out: f.out}).check(args); err != nil {
				return err
			}
			if f.wait <= 0 {
				return usage("bad --wait %v: give a time such as 30s or 10m", f.wait)
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error { return a.upgradeAll(ctx, s, f, args) })
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVar(&f.back, "back", false, "go back to the binary that was there before")
	fs.StringArrayVar(&f.binaries, "binary", nil, "for machines that it fits, copy this `FILE` instead of this binary (repeatable)")
	fs.BoolVar(&f.noDrain, "no-drain", false, "restart nodes as they are: what they lead stands still for a moment, what they run begins again")
	fs.DurationVar(&f.wait, "wait", upgradeWait, "give up on a node that is not well after this `TIME`")
	fs.StringVar(&f.to, "to", "", "the `PATH` that 'add --to' was given, for a HOST that another user added")
	f.out.add(fs)
	return cmd
}

// upgradeAll upgrades hosts until one is not well.
func (a *app) upgradeAll(ctx context.Context, s *session, f *upgradeFlags, hosts []string) error {
	m, err := s.Cluster().Status(ctx)
	if err != nil {
		return err
	}
	u := &upgrading{adding: adding{app: a, s: s, f: &addFlags{out: f.out}, cluster: m.ClusterId}, f: f}
	if u.config, err = a.configDir(); err != nil {
		return err
	}
	if u.known, err = readHosts(u.config, u.cluster); err != nil {
		return err
	}
	all := len(hosts) == 0
	if all {
		for _, h := range u.known {
			hosts = append(hosts, h.Host)
		}
		u.tellOthers(m.Nodes)
	}
	if len(hosts) == 0 {
		return banyan.Errorf(banyan.NotFound, "you have added no hosts to this cluster: name them, or replace the binaries by hand, one node after the other")
	}
	u.before = problemsOf(m)
	if i := slices.IndexFunc(m.Problems, func(p *banyanv1.Problem) bool { return p.Critical }); i >= 0 {
		return banyan.Errorf(banyan.Conflict, "the cluster is not well: %s: %s; then upgrade", m.Problems[i].What, m.Problems[i].Remedy)
	}
	for i, host := range hosts {
		r, err := reach(host)
		if err != nil {
			return err
		}
		j, err := u.one(ctx, r)
		r.close()
		j.Host = host
		if err != nil {
			j.Error = oneLine(err.Error())
		}
		if terr := a.tellHost(f.out, j); terr != nil {
			return terr
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &exit{code: exitError, err: fmt.Errorf("stopped at %s, with %s left as they are", host, count(len(hosts)-i-1, "host"))}
		}
	}
	return nil
}

// upgrading is one 'upgrade'.
type upgrading struct {
	adding
	f      *upgradeFlags
	known  []addedHost
	before map[string]bool // problems that were there at the beginning
}

// tellOthers names the nodes that this user has not added.
func (u *upgrading) tellOthers(nodes []*banyanv1.Node) {
	var others []string
	for _, n := range nodes {
		id := banyan.NodeID(n.Id).String()
		if n.State != "left" && !slices.ContainsFunc(u.known, func(h addedHost) bool { return h.Node == id }) {
			others = append(others, fmt.Sprintf("%s (%s)", id, inLine(n.Name)))
		}
	}
	if len(others) > 0 && !u.f.out.json() {
		fmt.Fprintf(u.Err, "banyan: left alone, as you have not added them by 'banyan add': %s\n", strings.Join(others, ", "))
	}
}

// one upgrades a node and waits until it is well.
func (u *upgrading) one(ctx context.Context, r *remote) (addJSON, error) {
	base := u.f.to
	for _, h := range u.known {
		if h.Host == r.target && base == "" {
			base = h.Base
		}
	}
	m, err := look(ctx, r, base, "")
	if err != nil {
		return addJSON{}, err
	}
	if m.said["had.node"] == "" || m.said["had.cluster"] != u.cluster {
		return addJSON{}, banyan.Errorf(banyan.NotFound, "there is no node of this cluster from 'banyan add' in %s there: give --to if it was added with it", m.said["base"])
	}
	id, err := banyan.ParseNodeID(m.said["had.node"])
	if err != nil {
		return addJSON{}, err
	}
	n, err := findID(ctx, u.s, id)
	if err != nil {
		return addJSON{}, err
	}
	out := u.describe(m, n)
	out.Node, out.Done = id.String(), "upgraded"
	if n == nil {
		return out, banyan.Errorf(banyan.NotFound, "%v is no longer in the cluster: 'banyan add --remove %s' takes away what is left there", id, r.target)
	}
	if u.f.back {
		out.Done = "went back"
	} else if fresh, err := u.bring(ctx, r, m); err != nil {
		return out, err
	} else if !fresh {
		out.Done = "up to date"
		return out, nil
	}
	return out, u.replace(ctx, r, m, id)
}

// bring copies the binary to a machine; not fresh: its node runs it already.
func (u *upgrading) bring(ctx context.Context, r *remote, m machine) (fresh bool, err error) {
	path, err := u.binaryFor(m, u.f.binaries)
	if err != nil {
		return false, err
	}
	sum, err := sumOf(path)
	if err != nil {
		return false, err
	}
	got, err := r.run(ctx, nil, m.vars(), remoteSum)
	if err != nil {
		return false, err
	}
	if got["sum"] == sum && got["swapped"] == "" {
		return false, nil
	}
	u.say(r, "copying the binary")
	_, err = u.copyTo(ctx, r, m, path, u.cluster)
	return true, err
}

// replace drains a node, swaps its binary and restarts it. What fails before the
// swap leaves the node as it was.
func (u *upgrading) replace(ctx context.Context, r *remote, m machine, id banyan.NodeID) (err error) {
	swapped := false
	defer func() {
		if err == nil || swapped {
			return
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), addUndoMax)
		defer cancel()
		if _, uerr := u.s.Cluster().Drain(undo, id, true); uerr != nil {
			err = fmt.Errorf("%w; it may be draining, 'banyan drain --undo %v' ends that: %w", err, id, uerr)
		}
	}()
	if !u.f.noDrain {
		u.say(r, "draining %v", id)
		if _, err := u.s.Cluster().Drain(ctx, id, false); err != nil {
			return err
		}
		if _, err := u.waitDrained(ctx, u.s, id, u.f.out.json()); err != nil {
			return fmt.Errorf("%w; or restart it all the same with --no-drain", err)
		}
	}
	swap := remoteSwap
	if u.f.back {
		swap = remoteSwapBack
	}
	swapped = true // or may be
	if _, err := r.run(ctx, nil, m.vars(), swap); err != nil {
		swapped = false
		return err
	}
	u.say(r, "restarting %v", id)
	restart := remoteRestart
	if m.manager == managerNone {
		restart = remoteStop + remoteStart
	}
	if _, err := r.run(ctx, nil, m.vars(), restart); err != nil {
		return fmt.Errorf("restarting %v: %w; 'banyan upgrade --back --no-drain %s' goes back to the binary before", id, err, r.target)
	}
	if !u.f.noDrain {
		if _, err := u.s.Cluster().Drain(ctx, id, true); err != nil {
			return err
		}
	}
	if err := u.waitWell(ctx, r, id); err != nil {
		return fmt.Errorf("%w; 'banyan upgrade --back %s' goes back to the binary before", err, r.target)
	}
	_, err = r.run(ctx, nil, m.vars(), remoteSettled)
	return err
}

// waitWell waits until a node is alive and has caught up, and status tells of
// no problem that was not there at the beginning.
func (u *upgrading) waitWell(ctx context.Context, r *remote, id banyan.NodeID) error {
	end := u.now().Add(u.f.wait)
	said := ""
	for {
		m, err := u.s.Cluster().Status(ctx)
		what := ""
		if err == nil {
			what = notWell(m, id, u.before)
		} else {
			what = oneLine(err.Error())
		}
		if what == "" {
			return nil
		}
		if what != said {
			said = what
			u.say(r, "waiting: %s", what)
		}
		if !u.now().Before(end) {
			return banyan.Errorf(banyan.Timeout, "not well after %v: %s", u.f.wait, what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(addPoll):
		}
	}
}

// notWell says what is not well with a cluster whose node id was restarted, "" if all is.
func notWell(m *banyanv1.StatusResponse, id banyan.NodeID, before map[string]bool) string {
	i := slices.IndexFunc(m.Nodes, func(n *banyanv1.Node) bool { return banyan.NodeID(n.Id) == id })
	if i < 0 || m.Nodes[i].State != "alive" || m.Nodes[i].Version == "" {
		return fmt.Sprintf("%v does not answer yet", id)
	}
	for _, sh := range m.Shards {
		if n := sh.Behind[uint64(id)]; n > behindMax {
			return fmt.Sprintf("%v lacks %d log entries of shard %d", id, n, sh.Id)
		}
	}
	for _, p := range m.Problems {
		if !before[problemKind(p)] {
			return p.What
		}
	}
	return ""
}

// problemsOf are the problems that there are, and those that an upgrade makes by itself.
func problemsOf(m *banyanv1.StatusResponse) map[string]bool {
	known := map[string]bool{}
	for _, p := range m.Problems {
		known[problemKind(p)] = true
	}
	for _, n := range m.Nodes { // in the midst of it versions differ
		known[fmt.Sprintf("node %v runs another version", banyan.NodeID(n.Id))] = true
	}
	return known
}

var (
	measured  = regexp.MustCompile(`\d+ (ms|MiB)`)
	otherKind = regexp.MustCompile(`^(node n\d+) runs version .*`)
)

// problemKind is a problem without what changes from one look to the next.
func problemKind(p *banyanv1.Problem) string {
	return otherKind.ReplaceAllString(measured.ReplaceAllString(p.What, "# $1"), "$1 runs another version")
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// The scripts of upgrade. The file "swapped" is there from a swap until the node
// is well with its new binary: until then the one before is the good one.
const (
	remoteSum = `
sum=$( (sha256sum "$base/banyan" || shasum -a 256 "$base/banyan") 2>/dev/null)
say sum "${sum%% *}"
[ ! -e "$base/swapped" ] || say swapped yes
`
	remoteSwap = `
cd "$base" || exit 1
[ -e swapped ] || ln -f banyan banyan.before || exit 1
: >swapped && mv -f banyan.new banyan
`
	remoteSwapBack = `
cd "$base" && [ -e banyan.before ] || die "there is no binary from before in $base there"
ln -f banyan banyan.new && mv -f banyan.before banyan && mv -f banyan.new banyan.before && rm -f swapped
`
	remoteRestart = `systemctl $user restart "$unit.service"
`
	remoteSettled = `rm -f "$base/swapped"
`
)
