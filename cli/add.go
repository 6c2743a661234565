package cli

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

const (
	addTokenTTL   = 10 * time.Minute // a token is made for each machine, when it is to join
	addUndoMax    = 90 * time.Second
	addAliveMax   = time.Minute // until the cluster says that a node that is up is alive
	addPoll       = 200 * time.Millisecond
	addListen     = "0.0.0.0:7117"
	managerNone   = "none"
	managerSystem = "system"
	managerUser   = "user"
)

// addFlags are the flags of add.
type addFlags struct {
	out                               format
	to, dir, listen, zone, unit, join string
	slots                             int
	binaries                          []string
	noService, remove                 bool
}

// addJSON is what 'add -o json' prints of each machine.
type addJSON struct {
	Host     string `json:"host"`
	Node     string `json:"node"`
	Address  string `json:"address"`
	Platform string `json:"platform"`
	Service  string `json:"service"` // system, user: a unit of systemd's; none: a process that nobody starts again
	Binary   string `json:"binary"`  // the path there
	Dir      string `json:"dir"`     // of the node
	Done     string `json:"done"`    // added, there already, removed, upgraded; "" where it failed
	Error    string `json:"error,omitempty"`
}

func (a *app) addCommand() *cobra.Command {
	f := &addFlags{}
	cmd := &cobra.Command{
		Use:   "add HOST …",
		Short: "Let machines join that you reach by ssh",
		Long: `Let machines join the cluster that you reach by your own ssh. HOST is what ssh
takes: user@host, a name of your ssh configuration, ssh://user@host:2222. On
each, one after the other: this binary is copied, a token of its own lets the
machine join, and systemd starts the node there (as 'banyan service install'
does; a unit of the user where the user is not root). Where there is no systemd
the node is started in the background, and nobody starts it again.

What fails on a machine, or is interrupted, is undone there, and the others go
on; the exit code is then 1. --remove takes machines out again: the node hands
over what it holds, its service, its directory and what was copied are deleted.

A machine of another kind than this one needs another binary: --binary. Your
hosts are remembered beside your contexts, for --remove and 'banyan upgrade'.`,
		Example: "  banyan add ada@lab1 ada@lab2 --zone lab\n  banyan add --binary banyan-linux-arm64 pi\n  banyan add --remove ada@lab2",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly("HOST")(cmd, args)
			}
			return nil
		},
		ValidArgsFunction: a.addedHosts().complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(args); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error { return a.addAll(ctx, s, f, args) })
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVar(&f.remove, "remove", false, "take the machines out of the cluster again, for good")
	fs.StringArrayVar(&f.binaries, "binary", nil, "for machines that it fits, copy this `FILE` instead of this binary (repeatable)")
	fs.StringVar(&f.listen, "listen", addListen, "have the nodes listen on `HOST:PORT`")
	fs.StringVar(&f.join, "at", "", "let them join at `HOST:PORT` (default a node's address, as 'banyan token' shows)")
	fs.StringVar(&f.zone, "zone", "", "the `ZONE` that the machines are in")
	fs.IntVar(&f.slots, "slots", 0, "run `N` tasks at once on each (default the number of its CPUs)")
	fs.StringVar(&f.to, "to", "", "copy the binary into this `PATH` there (default .local/lib/banyan in the home; for root /opt/banyan)")
	fs.StringVar(&f.dir, "dir", "", "keep everything of the node in this `PATH` there (default as 'banyan up' does; for root /var/lib/banyan)")
	fs.StringVar(&f.unit, "unit", "banyan", "the `NAME` of the unit there")
	fs.BoolVar(&f.noService, "no-service", false, "start the node in the background, without systemd")
	f.out.add(fs)
	return cmd
}

func (f *addFlags) check(hosts []string) error {
	if err := f.out.check(); err != nil {
		return err
	}
	if f.slots < 0 || f.slots > banyan.SlotsMax {
		return usage("bad --slots %d: give 1 to %d", f.slots, banyan.SlotsMax)
	}
	if strings.ContainsAny(f.to+f.dir, "\n\r") {
		return usage("--to and --dir are paths without line ends")
	}
	seen := map[string]bool{}
	for _, h := range hosts {
		if err := checkTarget(h); err != nil {
			return err
		}
		if seen[h] {
			return usage("%s is given twice: a machine holds one node", h)
		}
		seen[h] = true
	}
	return nil
}

// adding is one 'add'.
type adding struct {
	*app
	s       *session
	f       *addFlags
	cluster string
	config  string // directory of the user's contexts
}

// addAll adds or removes hosts, one after the other: ssh may ask for passwords.
func (a *app) addAll(ctx context.Context, s *session, f *addFlags, hosts []string) error {
	m, err := s.Cluster().Status(ctx)
	if err != nil {
		return err
	}
	d := &adding{app: a, s: s, f: f, cluster: m.ClusterId}
	if d.config, err = a.configDir(); err != nil {
		return err
	}
	do, did := d.add, "added"
	if f.remove {
		do, did = d.take, "removed"
	}
	return a.eachHost(ctx, f.out, hosts, did, func(ctx context.Context, r *remote) (addJSON, error) { return do(ctx, r) })
}

// eachHost does something on each machine and says what came of it. One that
// fails does not keep the others from being done; a signal does.
func (a *app) eachHost(ctx context.Context, out format, hosts []string, did string, do func(context.Context, *remote) (addJSON, error)) error {
	failed := 0
	for i, host := range hosts {
		r, err := reach(host)
		if err != nil {
			return err
		}
		j, err := do(ctx, r)
		r.close()
		j.Host = host
		if err != nil {
			failed++
			j.Error = oneLine(err.Error())
		}
		if err := a.tellHost(out, j); err != nil {
			return err
		}
		if ctx.Err() != nil {
			if left := len(hosts) - i - 1; left > 0 {
				fmt.Fprintf(a.Err, "banyan: interrupted: %s not begun\n", count(left, "host"))
			}
			return ctx.Err()
		}
	}
	if failed > 0 {
		return &exit{code: exitError, err: fmt.Errorf("%d of %s not %s", failed, count(len(hosts), "host"), did)}
	}
	return nil
}

func (a *app) tellHost(out format, j addJSON) error {
	if out.json() {
		return writeJSON(a.Out, j)
	}
	var err error
	switch {
	case j.Error != "":
		_, err = fmt.Fprintf(a.Out, "%s: failed: %s\n", j.Host, inLine(j.Error))
	case j.Done == "removed":
		_, err = fmt.Fprintf(a.Out, "%s: %s is removed, with its directory and what was copied\n", j.Host, j.Node)
	default:
		_, err = fmt.Fprintf(a.Out, "%s: %s: node %s at %s, %s, %s\n", j.Host, j.Done, j.Node, inLine(j.Address), j.Platform, serviceText(j))
	}
	return err
}

func serviceText(j addJSON) string {
	switch j.Service {
	case managerSystem:
		return "started by systemd"
	case managerUser:
		return "started by the user's systemd"
	}
	return "a process that nobody starts again when the machine restarts (no systemd): " + inLine(j.Binary) + " up --dir " + inLine(j.Dir)
}

// say tells of a step, where people read.
func (d *adding) say(r *remote, format string, args ...any) {
	if !d.f.out.json() {
		fmt.Fprintf(d.Err, "%s: %s\n", r.target, fmt.Sprintf(format, args...))
	}
}

// machine is what a look at a machine told.
type machine struct {
	said
	goos, goarch string
	manager      string
}

func (m machine) platform() string { return m.goos + "/" + m.goarch }

// vars are those of the scripts.
func (m machine) vars(more ...string) map[string]string {
	v := map[string]string{"base": m.said["base"], "dir": m.said["dir"], "manager": m.manager, "unit": m.said["had.unit"], "linger": m.said["had.linger"]}
	for i := 0; i+1 < len(more); i += 2 {
		v[more[i]] = more[i+1]
	}
	return v
}

// look finds out what a machine is and what it has of 'add'.
func look(ctx context.Context, r *remote, base, dir string) (machine, error) {
	found, err := r.run(ctx, nil, map[string]string{"base": base, "dir": dir}, remoteProbe)
	if err != nil {
		return machine{}, err
	}
	m := machine{said: found, manager: found["manager"]}
	switch found["os"] {
	case "Linux":
		m.goos = "linux"
	case "Darwin":
		m.goos = "darwin"
	}
	switch arch := found["arch"]; arch {
	case "x86_64", "amd64":
		m.goarch = "amd64"
	case "aarch64", "arm64":
		m.goarch = "arm64"
	case "riscv64", "ppc64le", "s390x", "loongarch64":
		m.goarch = strings.Replace(arch, "loongarch", "loong", 1)
	case "i386", "i486", "i586", "i686":
		m.goarch = "386"
	case "armv6l", "armv7l":
		m.goarch = "arm"
	}
	if m.goos == "" || m.goarch == "" {
		return m, banyan.Errorf(banyan.Invalid, "it is %q on %q: banyan is for Linux and macOS; on Windows start it by hand ('banyan token' says how)", found["os"], found["arch"])
	}
	if m.manager == "" {
		m.manager = managerNone
	}
	if dir := found["had.dir"]; dir != "" {
		found["dir"] = dir
	}
	if kept := found["had.manager"]; kept != "" {
		m.manager = kept
	}
	return m, nil
}

// binaryFor gives the file to copy to a machine.
func (a *app) binaryFor(m machine, given []string) (string, error) {
	for _, path := range given {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return "", usage("--binary %s: %w: give a banyan that was built for the machine", path, err)
		}
		has := map[string]string{}
		for _, s := range info.Settings {
			has[s.Key] = s.Value
		}
		if has["GOOS"] == m.goos && has["GOARCH"] == m.goarch {
			return path, nil
		}
	}
	if m.goos != runtime.GOOS || m.goarch != runtime.GOARCH {
		name := "banyan-" + m.goos + "-" + m.goarch
		return "", banyan.Errorf(banyan.Invalid, "it is %s and this binary is %s/%s: in the sources of commit %s, 'CGO_ENABLED=0 GOOS=%s GOARCH=%s go build -trimpath -ldflags \"-s -w\" -o %s ./cmd/banyan', and then --binary %s",
			m.platform(), runtime.GOOS, runtime.GOARCH, commit(), m.goos, m.goarch, name, name)
	}
	return a.ownBinary()
}

// ownBinary is where this binary is.
func (a *app) ownBinary() (string, error) {
	if a.binary != "" {
		return a.binary, nil
	}
	path, err := os.Executable()
	if err == nil && strings.Contains(path, "/go-build") {
		err = usage("this binary is the temporary one of 'go run': 'go install ./cmd/banyan' and run that, or give --binary FILE")
	}
	return path, err
}

// copyTo copies a binary to a machine, beside the one that is there, and has it
// say its version.
func (a *app) copyTo(ctx context.Context, r *remote, m machine, path, cluster string) (version string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	got, err := r.run(ctx, io.LimitReader(f, st.Size()), m.vars("size", fmt.Sprint(st.Size()), "cluster", cluster), remoteCopy)
	if err != nil {
		return "", fmt.Errorf("copying the binary: %w", err)
	}
	var v versionJSON
	if err := json.Unmarshal([]byte(got["version"]), &v); err != nil {
		return "", banyan.Errorf(banyan.Corrupt, "what was copied is no banyan: it says %.100q", got["version"])
	}
	if v.Protocol < banyan.ProtocolMin || v.Protocol > banyan.ProtocolVersion {
		return "", banyan.Errorf(banyan.TooNew, "the binary for it speaks protocol %d, this one %d to %d: build both from the same sources", v.Protocol, banyan.ProtocolMin, banyan.ProtocolVersion)
	}
	return v.Version + " " + v.Commit, nil
}

// add adds one machine. What it began on one that fails it undoes.
func (d *adding) add(ctx context.Context, r *remote) (out addJSON, err error) {
	m, err := look(ctx, r, d.f.to, d.f.dir)
	if err != nil {
		return out, err
	}
	switch {
	case m.said["had.node"] != "" && m.said["had.cluster"] != d.cluster:
		return out, banyan.Errorf(banyan.AlreadyExists, "it is node %s of another cluster, %s: remove it there first, or give another --to and --dir", m.said["had.node"], m.said["had.cluster"])
	case m.said["had.node"] != "":
		return d.already(ctx, r, m)
	case m.said["taken"] != "":
		return out, banyan.Errorf(banyan.AlreadyExists, "%s there is not empty, and not from 'banyan add': look at what it is, or give another --to or --dir", m.said["taken"])
	}
	if d.f.noService {
		m.manager = managerNone
	}
	m.said["had.unit"] = d.f.unit
	path, err := d.binaryFor(m, d.f.binaries)
	if err != nil {
		return out, err
	}
	b := &begun{d: d, r: r, m: m}
	if err = b.all(ctx, path); err != nil {
		if uerr := b.undo(ctx); uerr != nil {
			return out, fmt.Errorf("%w; and it could not be undone: %w", err, uerr)
		}
		return out, fmt.Errorf("%w (undone)", err)
	}
	out = d.describe(m, b.node)
	out.Done = "added"
	return out, d.remember(ctx, r, m, b.node)
}

func (d *adding) remember(ctx context.Context, r *remote, m machine, n *banyanv1.Node) error {
	return rememberHost(context.WithoutCancel(ctx), d.config, d.cluster, addedHost{Host: r.target, Node: banyan.NodeID(n.Id).String(), Base: m.said["base"]})
}

func (d *adding) describe(m machine, n *banyanv1.Node) addJSON {
	return addJSON{
		Node: banyan.NodeID(n.GetId()).String(), Address: n.GetAddress(), Platform: m.platform(), Service: m.manager,
		Binary: m.said["base"] + "/banyan", Dir: m.said["dir"],
	}
}

// already answers for a machine that was added before, if its node is there.
func (d *adding) already(ctx context.Context, r *remote, m machine) (addJSON, error) {
	id, err := banyan.ParseNodeID(m.said["had.node"])
	if err != nil {
		return addJSON{}, err
	}
	n, err := findID(ctx, d.s, id)
	if err != nil {
		return addJSON{}, err
	}
	if n.GetState() != "alive" {
		state := n.GetState()
		if state == "" {
			state = "gone"
		}
		return addJSON{}, banyan.Errorf(banyan.Conflict, "it is node %v already, which is %s: see 'banyan status', or 'banyan add --remove %s' and add it anew", id, state, r.target)
	}
	out := d.describe(m, n)
	out.Done = "there already"
	return out, d.remember(ctx, r, m, n)
}

// findID gives a node of the cluster, nil if there is none.
func findID(ctx context.Context, s *session, id banyan.NodeID) (*banyanv1.Node, error) {
	nodes, err := s.Cluster().Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if banyan.NodeID(n.Id) == id && n.State != "left" {
			return n, nil
		}
	}
	return nil, nil
}

// begun is a machine that is being added.
type begun struct {
	d      *adding
	r      *remote
	m      machine
	copied bool // or may be
	asked  bool // to join
	node   *banyanv1.Node
}

func (b *begun) all(ctx context.Context, path string) error {
	d := b.d
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	b.d.say(b.r, "%s, %s; copying %s", b.m.platform(), map[bool]string{true: "no systemd", false: "systemd"}[b.m.manager == managerNone], size(st.Size()))
	b.copied = true
	version, err := d.copyTo(ctx, b.r, b.m, path, d.cluster)
	if err != nil {
		return err
	}
	d.say(b.r, "banyan %s is at %s; joining", version, b.m.said["base"])
	id, err := b.join(ctx)
	if err != nil {
		return err
	}
	b.node = &banyanv1.Node{Id: uint64(id)}
	record := []string{"cluster=" + d.cluster, "node=" + id.String(), "dir=" + b.m.said["dir"], "manager=" + b.m.manager, "unit=" + d.f.unit}
	if _, err := b.r.run(ctx, nil, b.m.vars("record", strings.Join(record, "\n")), remoteRecord); err != nil {
		return err
	}
	d.say(b.r, "joined as %v; starting it", id)
	got, err := b.r.run(ctx, nil, b.m.vars(), remoteStart)
	if err != nil {
		return fmt.Errorf("starting the node: %w", err)
	}
	switch got["linger"] {
	case "enabled":
		b.m.said["had.linger"] = "1"
		if _, err := b.r.run(ctx, nil, b.m.vars("record", strings.Join(append(record, "linger=1"), "\n")), remoteRecord); err != nil {
			return err
		}
	case "refused":
		d.say(b.r, "the node stops when the user logs out there, unless somebody who may says 'loginctl enable-linger'")
	}
	b.node, err = d.waitAlive(ctx, id)
	return err
}

// join has the machine join, with a token that is good for it alone.
func (b *begun) join(ctx context.Context) (banyan.NodeID, error) {
	d := b.d
	t, err := d.s.Cluster().CreateToken(ctx, addTokenTTL, 1)
	if err != nil {
		return 0, err
	}
	at, slots := t.Address, ""
	if d.f.join != "" {
		at = d.f.join
	}
	if d.f.slots > 0 {
		slots = fmt.Sprint(d.f.slots)
	}
	b.asked = true
	got, err := b.r.run(ctx, strings.NewReader(t.Token+"\n"), b.m.vars("at", at, "listen", d.f.listen, "zone", d.f.zone, "slots", slots), remoteJoin)
	if err != nil {
		if _, rerr := d.s.Cluster().RevokeToken(context.WithoutCancel(ctx), t.Id); rerr != nil && !banyan.IsKind(rerr, banyan.NotFound) {
			err = errors.Join(err, rerr)
		}
		host, _, _ := net.SplitHostPort(at)
		if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() && ctx.Err() == nil {
			err = fmt.Errorf("%w; %s is reached from its own machine only: start that node with --listen %s, or give --at", err, at, addListen)
		}
		return 0, err
	}
	fields := strings.Fields(got["joined"]) // node n4 of cluster …
	if len(fields) < 2 {
		return 0, banyan.Errorf(banyan.Corrupt, "the join said %.100q, not which node it is", got["joined"])
	}
	return banyan.ParseNodeID(fields[1])
}

// waitAlive waits until the cluster says that a node is alive.
func (d *adding) waitAlive(ctx context.Context, id banyan.NodeID) (*banyanv1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, addAliveMax)
	defer cancel()
	for {
		n, err := findID(ctx, d.s, id)
		if err == nil && n.GetState() == "alive" && n.Version != "" {
			return n, nil
		}
		select {
		case <-ctx.Done():
			if err == nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				err = banyan.Errorf(banyan.Timeout, "node %v is up, but the others do not hear it within %v: see 'banyan status'", id, addAliveMax)
			}
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(addPoll):
		}
	}
}

// undo takes back what was begun: the node, if it joined, its service, and what
// was copied. It is done also when the user has interrupted the command.
func (b *begun) undo(ctx context.Context) error {
	if !b.copied {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), addUndoMax)
	defer cancel()
	b.d.say(b.r, "undoing what was begun")
	if b.node == nil && b.asked {
		got, err := b.r.run(ctx, nil, b.m.vars(), remoteWho)
		if err != nil {
			return err
		}
		if id, err := banyan.ParseNodeID(got["node"]); err == nil { // else it did not join
			b.node = &banyanv1.Node{Id: uint64(id)}
		}
	}
	if b.node != nil {
		id := banyan.NodeID(b.node.Id)
		if _, err := b.d.removeNode(ctx, b.d.s, id, addUndoMax, b.d.f.out.json()); err != nil {
			return fmt.Errorf("'banyan node remove %v' has yet to be done: %w", id, err)
		}
	}
	_, err := b.r.run(ctx, nil, b.m.vars(), remoteDelete)
	return err
}

// take takes one machine out of the cluster again.
func (d *adding) take(ctx context.Context, r *remote) (addJSON, error) {
	base := d.f.to
	hosts, err := readHosts(d.config, d.cluster)
	if err != nil {
		return addJSON{}, err
	}
	for _, h := range hosts {
		if h.Host == r.target && base == "" {
			base = h.Base
		}
	}
	m, err := look(ctx, r, base, d.f.dir)
	if err != nil {
		return addJSON{}, fmt.Errorf("%w; 'banyan node remove' takes a node out whose machine is gone", err)
	}
	switch {
	case m.said["had.node"] == "":
		return addJSON{}, banyan.Errorf(banyan.NotFound, "there is nothing of 'banyan add' in %s there: give --to if it was added with it", m.said["base"])
	case m.said["had.cluster"] != d.cluster:
		return addJSON{}, banyan.Errorf(banyan.Conflict, "it is node %s of another cluster, %s: choose that one's context", m.said["had.node"], m.said["had.cluster"])
	}
	id, err := banyan.ParseNodeID(m.said["had.node"])
	if err != nil {
		return addJSON{}, err
	}
	n, err := findID(ctx, d.s, id)
	if err != nil {
		return addJSON{}, err
	}
	out := d.describe(m, n)
	out.Node = id.String()
	if n != nil {
		d.say(r, "%v hands over what it holds", id)
		if _, err := d.removeNode(ctx, d.s, id, 0, d.f.out.json()); err != nil {
			return out, err
		}
	}
	got, err := r.run(ctx, nil, m.vars(), remoteDelete)
	if err != nil {
		return out, fmt.Errorf("%v is removed, but what was copied is there: %w", id, err)
	}
	if left := got["left"]; left != "" {
		d.say(r, "%s is there still: it holds other things, or cannot be deleted", left)
	}
	out.Done = "removed"
	return out, forgetHost(ctx, d.config, d.cluster, id.String())
}
