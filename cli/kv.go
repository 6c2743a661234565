package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
)

// kvJSON is a key as -o json prints it.
type kvJSON struct {
	Key            string `json:"key"`
	KeyBase64      string `json:"key_base64,omitempty"` // the same, when it is not UTF-8
	Value          string `json:"value"`
	ValueBase64    string `json:"value_base64,omitempty"` // the same, when it is not UTF-8
	CreateRevision uint64 `json:"create_revision"`
	ModRevision    uint64 `json:"mod_revision"`
	Version        uint64 `json:"version"`
	Deleted        bool   `json:"deleted,omitempty"` // watch: the key was deleted
}

// putJSON is what 'kv put -o json' prints.
type putJSON struct {
	Revision uint64 `json:"revision"`
}

// delJSON is what 'kv del -o json' prints.
type delJSON struct {
	Deleted uint64 `json:"deleted"`
}

func newKVJSON(kv *banyanv1.KeyValue) kvJSON {
	return kvJSON{
		Key: string(kv.Key), KeyBase64: base64Of(string(kv.Key)), Value: string(kv.Value), ValueBase64: base64Of(string(kv.Value)),
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
	}
}

func (a *app) kvCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Read and write keys",
		Long: `Read and write keys. They are replicated and linearizable; an acknowledged write
is on the disks of a majority. The part of a key before its first '/' is its
partition: keys of one partition can be listed, watched and changed together.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.kvGetCommand(), a.kvPutCommand(), a.kvDelCommand(), a.kvListCommand(), a.kvWatchCommand(), a.kvTxnCommand())
	return cmd
}

// kvNeed: keys on one machine live in the first lane, so that every command
// sees the same ones.
func kvNeed() need { return need{embedded: true, slots: 1, first: true} }

func (a *app) kvGetCommand() *cobra.Command {
	var f format
	var stale, raw bool
	var revision uint64
	cmd := &cobra.Command{
		Use:               "get KEY",
		Short:             "Print the value of a key",
		Args:              exactly("KEY"),
		ValidArgsFunction: arguments(a.keys()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), kvNeed(), func(ctx context.Context, s *session) error {
				r, err := s.KV().Read(ctx, &banyanv1.GetRequest{Key: []byte(args[0]), Revision: revision, Stale: stale})
				if err != nil {
					return err
				}
				if r.Kv == nil {
					return banyan.Errorf(banyan.NotFound, "there is no key %q: 'banyan kv list' lists those there are", args[0])
				}
				if f.json() {
					return writeJSON(a.Out, newKVJSON(r.Kv))
				}
				if !raw && isTerminal(a.Out) {
					_, err = fmt.Fprintln(a.Out, shown(string(r.Kv.Value)))
					return err
				}
				end := "\n"
				if raw {
					end = ""
				}
				_, err = fmt.Fprintf(a.Out, "%s%s", r.Kv.Value, end)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "answer from the nearest replica, perhaps a little old")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the bytes of the value alone, no line end")
	cmd.Flags().Uint64Var(&revision, "revision", 0, "the value as of this `REVISION`")
	f.add(cmd.Flags())
	return cmd
}

func (a *app) kvPutCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE]",
		Short: "Set a key; the value is VALUE, or standard input",
		Long: `Set a key. The value is VALUE; without one, or with "-", it is standard input,
byte for byte. 'printf %s - | banyan kv put KEY' sets a key to "-" itself, and
'banyan kv put KEY -- -1' to what would be taken for a flag.`,
		Example:           "  banyan kv put app/color green\n  banyan kv put app/config - < config.json",
		Args:              atMost(1, "KEY", "VALUE"),
		ValidArgsFunction: arguments(a.keys()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			var value []byte
			if len(args) == 2 && args[1] != "-" {
				value = []byte(args[1])
			} else {
				var err error
				if value, err = io.ReadAll(io.LimitReader(a.In, banyan.ValueBytesMax+1)); err != nil {
					return err
				}
			}
			if len(value) > banyan.ValueBytesMax {
				return banyan.Errorf(banyan.Exhausted, "the value of %q is longer than %d bytes (ValueBytesMax): cut it into several keys, or keep it in a file and its name here", args[0], banyan.ValueBytesMax)
			}
			return a.with(cmd.Context(), kvNeed(), func(ctx context.Context, s *session) error {
				revision, err := s.KV().Put(ctx, []byte(args[0]), value)
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, putJSON{uint64(revision)})
				}
				_, err = fmt.Fprintf(a.Out, "revision %d\n", revision)
				return err
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) kvDelCommand() *cobra.Command {
	var f format
	var prefix bool
	cmd := &cobra.Command{
		Use:   "del KEY",
		Short: "Delete a key, or all keys with a prefix",
		Long: `Delete a key, or with --prefix all that start with KEY. Very many keys go in
steps, so that others can write in between; how many are gone is said on
standard error each few seconds. What is gone stays gone if it is interrupted;
the same command goes on.`,
		Args:              exactly("KEY"),
		ValidArgsFunction: arguments(a.keys()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), kvNeed(), func(ctx context.Context, s *session) error {
				var n uint64
				var err error
				if prefix {
					n, err = a.deletePrefix(ctx, s, args[0])
				} else if was, e := s.KV().Delete(ctx, []byte(args[0])); was {
					n, err = 1, e
				} else {
					err = e
				}
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, delJSON{n})
				}
				_, err = fmt.Fprintf(a.Out, "deleted %d\n", n)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&prefix, "prefix", false, "delete every key that starts with KEY, which must contain a '/'")
	f.add(cmd.Flags())
	return cmd
}

// deletePrefix deletes and says how far it is.
func (a *app) deletePrefix(ctx context.Context, s *session, prefix string) (uint64, error) {
	last := a.now()
	n, err := s.KV().DeletePrefix(ctx, []byte(prefix), func(deleted uint64) {
		if now := a.now(); now.Sub(last) >= deleteEvery {
			last = now
			fmt.Fprintf(a.Err, "banyan: %d keys deleted, going on\n", deleted)
		}
	})
	if err != nil && n > 0 {
		fmt.Fprintf(a.Err, "banyan: %d keys were deleted, not all: the same command goes on\n", n)
	}
	return n, err
}

// deleteEvery is how often a long delete says how far it is.
const deleteEvery = 2 * time.Second

func (a *app) kvListCommand() *cobra.Command {
	var f format
	var revision uint64
	var keys, stale bool
	var limit int
	cmd := &cobra.Command{
		Use:               "list [PREFIX]",
		Short:             "List keys and values",
		Args:              atMost(0, "PREFIX"),
		ValidArgsFunction: arguments(a.keys()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if limit < 0 {
				return usage("bad --limit %d: give 0 or more", limit)
			}
			var options []client.ReadOption
			if keys {
				options = append(options, client.KeysOnly())
			}
			if stale {
				options = append(options, client.Stale())
			}
			if revision != 0 {
				options = append(options, client.AtRevision(banyan.Revision(revision)))
			}
			return a.with(cmd.Context(), kvNeed(), func(ctx context.Context, s *session) error {
				return a.kvList(ctx, s, strings.Join(args, ""), f, limit, options, keys)
			})
		},
	}
	cmd.Flags().BoolVar(&keys, "keys", false, "keys only")
	cmd.Flags().BoolVar(&stale, "stale", false, "answer from the nearest replica, perhaps a little old")
	cmd.Flags().Uint64Var(&revision, "revision", 0, "the keys as of this `REVISION` of their partition's shard; PREFIX must contain a '/'")
	cmd.Flags().IntVarP(&limit, "limit", "n", 0, "list at most `N` keys; 0: all")
	f.add(cmd.Flags())
	return cmd
}

func (a *app) kvList(ctx context.Context, s *session, prefix string, f format, limit int, options []client.ReadOption, keys bool) error {
	n := 0
	for kv, err := range s.KV().List(ctx, []byte(prefix), options...) {
		if err != nil {
			return err
		}
		if err := a.printKV(kv, f, keys, false); err != nil {
			return err
		}
		if n++; n == limit {
			break
		}
	}
	return nil
}

// printKV prints a key and its value on one line, escaped where they would not fit.
func (a *app) printKV(kv *banyanv1.KeyValue, f format, keysOnly, deleted bool) error {
	if f.json() {
		j := newKVJSON(kv)
		j.Deleted = deleted
		return writeJSON(a.Out, j)
	}
	text := printable(kv.Key)
	if !keysOnly {
		text += "\t" + printable(kv.Value)
	}
	_, err := fmt.Fprintln(a.Out, text)
	return err
}

func printable(b []byte) string {
	q := strconv.Quote(string(b))
	if q == `"`+string(b)+`"` {
		return string(b)
	}
	return q
}

func (a *app) kvWatchCommand() *cobra.Command {
	var f format
	var prefix bool
	var from uint64
	cmd := &cobra.Command{
		Use:               "watch KEY",
		Short:             "Print changes of a key, or of a prefix, as they happen",
		Args:              exactly("KEY"),
		ValidArgsFunction: arguments(a.keys()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), kvNeed(), func(ctx context.Context, s *session) error {
				req := &banyanv1.WatchRequest{Key: []byte(args[0]), Prefix: prefix, FromRevision: from}
				return s.KV().Watch(ctx, req, func(m *banyanv1.WatchResponse) error {
					for _, e := range m.Events {
						if err := a.printEvent(e, f); err != nil {
							return err
						}
					}
					return nil
				})
			})
		},
	}
	cmd.Flags().BoolVar(&prefix, "prefix", false, "watch every key that starts with KEY, which must contain a '/'")
	cmd.Flags().Uint64Var(&from, "from", 0, "begin with the changes of this `REVISION`; 0: those from now on")
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printEvent(e *banyanv1.Event, f format) error {
	deleted := e.Type == banyanv1.Event_DELETE
	if f.json() {
		return a.printKV(e.Kv, f, false, deleted)
	}
	verb := "put"
	if deleted {
		verb = "del"
	}
	fmt.Fprintf(a.Out, "%d\t%s\t", e.Kv.ModRevision, verb)
	return a.printKV(e.Kv, f, deleted, deleted)
}
