package cli

import (
	archive "archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
	missing bytes.Buffer
}

type bundleFile struct {
	name string
	data []byte
}

func (b *bundle) add(name string, data []byte) { b.files = append(b.files, bundleFile{name, data}) }

// fail notes what could not be had: a bundle is taken when things are broken.
func (b *bundle) fail(what string, err error) {
	fmt.Fprintf(&b.missing, "%s: %s\n", what, oneLine(err.Error()))
}

// addJSON adds values as lines of JSON.
func addJSON[T any](b *bundle, name string, values ...T) {
	var buf bytes.Buffer
	for _, v := range values {
		if err := writeJSON(&buf, v); err != nil {
			b.fail(name, err)
		}
	}
	b.add(name, buf.Bytes())
}

// collect asks the cluster and each node. Only a cluster of which nothing
// answers, and an interruption, are errors.
func (b *bundle) collect(ctx context.Context) error {
	status, err := b.s.Cluster().Status(ctx)
	if err != nil {
		return err
	}
	b.add("README.txt", fmt.Appendf(nil, bundleReadme, status.ClusterId, b.a.now().UTC().Format(time.RFC3339), banyan.Version, banyan.NodeID(status.Node)))
	addJSON(b, "version.json", thisVersion())
	addJSON(b, "status.json", newStatusJSON(status))
	for _, sh := range status.Shards {
		b.shard(ctx, banyan.ShardID(sh.Id))
	}
	if slow, err := b.s.Debug().Slow(ctx, 0); err != nil {
		b.fail("slow.json", err)
	} else {
		var lines []slowJSON
		for _, o := range slow.Operations {
			lines = append(lines, newSlowJSON(o))
		}
		addJSON(b, "slow.json", lines...)
	}
	b.nodes(ctx, status.Nodes)
	if b.missing.Len() > 0 {
		b.add("missing.txt", b.missing.Bytes())
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
missing.txt                            what could not be had, and why
`

func (b *bundle) shard(ctx context.Context, id banyan.ShardID) {
	name := fmt.Sprintf("shards/%d.json", id)
	m, err := b.s.Debug().Shard(ctx, id)
	if err != nil {
		b.fail(name, err)
		return
	}
	var lines []replicaJSON
	for _, r := range m.Replicas {
		lines = append(lines, newReplicaJSON(r))
	}
	addJSON(b, name, lines...)
}

// nodes asks several nodes at once, and adds what they say in their order.
func (b *bundle) nodes(ctx context.Context, nodes []*banyanv1.Node) {
	kinds := []struct {
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
	}
	if b.seconds == 0 {
		kinds = kinds[:len(kinds)-1]
	}
	type answer struct {
		data []byte
		err  error
	}
	answers := make([][]answer, len(nodes))
	var g errgroup.Group
	g.SetLimit(bundleAtOnce)
	for i, n := range nodes {
		answers[i] = make([]answer, len(kinds))
		if n.State == "dead" || n.State == "left" {
			b.fail("nodes/"+banyan.NodeID(n.Id).String(), errors.New("it is "+n.State))
			continue
		}
		g.Go(func() error {
			for k, kind := range kinds {
				data, err := b.s.Debug().Dump(ctx, kind.kind, banyan.NodeID(n.Id), kind.seconds)
				answers[i][k] = answer{data, err}
			}
			return nil
		})
	}
	_ = g.Wait() // each answer has its own error
	for i, n := range nodes {
		for k, a := range answers[i] {
			name := fmt.Sprintf("nodes/%v/%s", banyan.NodeID(n.Id), kinds[k].name)
			if a.err != nil {
				b.fail(name, a.err)
			} else if a.data != nil {
				b.add(name, a.data)
			}
		}
	}
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
	if b.missing.Len() > 0 {
		_, err := fmt.Fprintf(b.a.Out, "\nNot to be had:\n%s", b.missing.String())
		return err
	}
	return nil
}
