package cli

import (
	archive "archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// bundleJSON is what 'debug bundle -o json' prints.
type bundleJSON struct {
	File  string     `json:"file"`
	Files []fileJSON `json:"files"` // in it
}

// bundleAtOnce is how many nodes are asked at once.
const bundleAtOnce = 8

func (a *app) debugBundleCommand() *cobra.Command {
	var f format
	var file string
	var seconds int
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Collect what a bug report needs into a .zip file",
		Long: `Collect what a bug report needs into a .zip file, and list what is in it: status
and nodes, raft's state of every shard, the slow log, and of each node its
version and flags, metrics, goroutines, memory profile and last lines of log.

It holds no keys, tokens or certificates, and no keys, values, inputs or outputs
of users. It does hold names and addresses of nodes, and ids of jobs: look
through it before you publish it.`,
		Example: "  banyan debug bundle\n  banyan debug bundle -f slow.zip --seconds 10",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if seconds < 0 || seconds > banyan.ProfileSecondsMax {
				return usage("bad --seconds %d: give 0 to %d", seconds, banyan.ProfileSecondsMax)
			}
			if file == "" {
				file = "banyan-debug-" + a.now().UTC().Format("20060102-150405") + ".zip"
			}
			return a.look(cmd.Context(), f, &nodeFlag{}, func(ctx context.Context, s *session) error {
				b := &bundle{a: a, s: s, seconds: seconds}
				if err := b.collect(ctx); err != nil {
					return err
				}
				if file == "-" {
					return b.pack(a.Out)
				}
				if err := b.write(file); err != nil {
					return err
				}
				return b.print(f, file)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "write it into this `FILE`, '-': to standard output (default banyan-debug-TIME.zip)")
	cmd.Flags().IntVar(&seconds, "seconds", 0, "with a profile of each node's CPU over so many `SECONDS`")
	f.add(cmd.Flags())
	return cmd
}

// bundle is files on their way into an archive.
type bundle struct {
	a       *app
	s       *session
	seconds int
	files   []bundleFile
	missing []missingFiles
}

// missingFiles could not be had, or not whole, for one reason.
type missingFiles struct {
	names []string
	why   string
}

type bundleFile struct {
	name string
	data []byte
}

func (b *bundle) add(name string, data []byte) { b.files = append(b.files, bundleFile{name, data}) }

// fail notes what could not be had: a bundle is taken when things are broken.
func (b *bundle) fail(name string, err error) {
	why := oneLine(err.Error())
	i := slices.IndexFunc(b.missing, func(m missingFiles) bool { return m.why == why })
	if i < 0 {
		i = len(b.missing)
		b.missing = append(b.missing, missingFiles{why: why})
	}
	b.missing[i].names = append(b.missing[i].names, name)
}

func (b *bundle) notToBeHad() string {
	var out strings.Builder
	for _, m := range b.missing {
		fmt.Fprintf(&out, "%s: %s\n", strings.Join(m.names, ", "), m.why)
	}
	return out.String()
}

// collect asks the cluster and each node. Only a cluster of which nothing
// answers, and an interruption, are errors.
func (b *bundle) collect(ctx context.Context) error {
	status, err := b.s.Cluster().Status(ctx)
	if err != nil {
		return err
	}
	b.add("README.txt", fmt.Appendf(nil, bundleReadme, status.ClusterId, b.a.now().UTC().Format(time.RFC3339), banyan.Version, banyan.NodeID(status.Node)))
	b.add("version.json", jsonLines(thisVersion()))
	b.add("status.json", jsonLines(newStatusJSON(status)))
	b.askAll(ctx, status)
	if len(b.missing) > 0 {
		b.add("missing.txt", []byte(b.notToBeHad()))
	}
	return ctx.Err()
}

const bundleReadme = `What banyan knew of cluster %s at %s (UTC), collected by 'banyan debug bundle'
of version %s through node %v.

status.json, shards/*.json, slow.json: as 'banyan status', 'debug shard', 'debug slow' with -o json
nodes/NODE/config.json                 version, platform and flags of the node
nodes/NODE/metrics.txt                 its metrics, in Prometheus's text format
nodes/NODE/log.txt                     the last lines of its log
nodes/NODE/goroutines.txt              what its goroutines do
nodes/NODE/heap.pprof, cpu.pprof       profiles, for 'go tool pprof'
missing.txt                            what could not be had, or not of all nodes, and why
`

// question is one file to be had. What there is of an answer is kept, though
// there is an error.
type question struct {
	name string
	ask  func(context.Context) ([]byte, error)
	data []byte
	err  error
}

// askAll asks for several things at once, and adds what comes in their order.
// What is asked of one node is asked in turn, until it does not answer.
func (b *bundle) askAll(ctx context.Context, status *banyanv1.StatusResponse) {
	var lists [][]*question
	for _, sh := range status.Shards {
		lists = append(lists, []*question{b.shard(banyan.ShardID(sh.Id))})
	}
	lists = append(lists, []*question{b.slow()})
	for _, n := range status.Nodes {
		lists = append(lists, b.node(n))
	}
	var g errgroup.Group
	g.SetLimit(bundleAtOnce)
	for _, list := range lists {
		g.Go(func() error {
			var silent error
			for _, q := range list {
				if q.err = silent; silent != nil {
					continue
				}
				if q.data, q.err = q.ask(ctx); banyan.IsKind(q.err, banyan.Conflict) || banyan.IsKind(q.err, banyan.Unavailable) || banyan.IsKind(q.err, banyan.Timeout) {
					silent = q.err
				}
			}
			return nil
		})
	}
	_ = g.Wait() // each question has its own error
	for _, list := range lists {
		for _, q := range list {
			if q.data != nil {
				b.add(q.name, q.data)
			}
			if q.err != nil {
				b.fail(q.name, q.err)
			}
		}
	}
}

func (b *bundle) shard(id banyan.ShardID) *question {
	return &question{name: fmt.Sprintf("shards/%d.json", id), ask: func(ctx context.Context) ([]byte, error) {
		m, err := b.s.Debug().Shard(ctx, id)
		if err != nil {
			return nil, err
		}
		var lines []replicaJSON
		for _, r := range m.Replicas {
			lines = append(lines, newReplicaJSON(r))
		}
		return jsonLines(lines...), missed(m.Errors)
	}}
}

func (b *bundle) slow() *question {
	return &question{name: "slow.json", ask: func(ctx context.Context) ([]byte, error) {
		m, err := b.s.Debug().Slow(ctx, 0)
		if err != nil {
			return nil, err
		}
		var lines []slowJSON
		for _, o := range m.Operations {
			lines = append(lines, newSlowJSON(o))
		}
		return jsonLines(lines...), missed(m.Errors)
	}}
}

// node asks for all there is of one node.
func (b *bundle) node(n *banyanv1.Node) (list []*question) {
	for _, k := range []struct {
		name    string
		kind    banyanv1.DumpKind
		seconds int
	}{
		{"config.json", banyanv1.DumpKind_DUMP_KIND_CONFIG, 0},
		{"metrics.txt", banyanv1.DumpKind_DUMP_KIND_METRICS, 0},
		{"log.txt", banyanv1.DumpKind_DUMP_KIND_LOG, 0},
		{"goroutines.txt", banyanv1.DumpKind_DUMP_KIND_GOROUTINES, 0},
		{"heap.pprof", banyanv1.DumpKind_DUMP_KIND_HEAP, 0},
		{"cpu.pprof", banyanv1.DumpKind_DUMP_KIND_CPU, b.seconds},
	} {
		if k.kind == banyanv1.DumpKind_DUMP_KIND_CPU && b.seconds == 0 {
			continue
		}
		list = append(list, &question{name: fmt.Sprintf("nodes/%v/%s", banyan.NodeID(n.Id), k.name), ask: func(ctx context.Context) ([]byte, error) {
			if n.State == "dead" || n.State == "left" {
				return nil, banyan.Errorf(banyan.Unavailable, "node %v is %s", banyan.NodeID(n.Id), n.State)
			}
			return b.s.Debug().Dump(ctx, k.kind, banyan.NodeID(n.Id), k.seconds)
		}})
	}
	return list
}

// jsonLines makes lines of JSON of values that are made for it.
func jsonLines[T any](values ...T) []byte {
	buf := bytes.NewBuffer([]byte{})
	for _, v := range values {
		if err := writeJSON(buf, v); err != nil {
			panic(err)
		}
	}
	return buf.Bytes()
}

// missed says which nodes are missing from an answer; nil: none.
func missed(nodes []*banyanv1.NodeError) error {
	var errs []error
	for _, e := range nodes {
		errs = append(errs, fmt.Errorf("without node %v: %s", banyan.NodeID(e.Node), e.Error))
	}
	return errors.Join(errs...)
}

func (b *bundle) write(file string) error {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return banyan.Errorf(banyan.AlreadyExists, "%s is there already: give another name with -f", file)
	}
	if err != nil {
		return err
	}
	return errors.Join(b.pack(out), out.Close())
}

func (b *bundle) pack(out io.Writer) error {
	z := archive.NewWriter(out)
	for _, f := range b.files {
		w, err := z.CreateHeader(&archive.FileHeader{Name: f.name, Method: archive.Deflate, Modified: b.a.now()})
		if err == nil {
			_, err = w.Write(f.data)
		}
		if err != nil {
			return err
		}
	}
	return z.Close()
}

func (b *bundle) print(f format, file string) error {
	j := bundleJSON{File: file}
	t := newTable("IN "+file, "SIZE").numbers(1)
	for _, f := range b.files {
		j.Files = append(j.Files, fileJSON{f.name, len(f.data)})
		t.add(f.name, size(int64(len(f.data))))
	}
	if f.json() {
		return writeJSON(b.a.Out, j)
	}
	if err := t.print(b.a.Out); err != nil {
		return err
	}
	if len(b.missing) > 0 {
		_, err := fmt.Fprintf(b.a.Out, "\nNot to be had:\n%s", b.notToBeHad())
		return err
	}
	return nil
}
