package cli

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
)

// outputTopic documents the fields of -o json, read from the types that are printed.
func outputTopic() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "output",
		Short: "The fields of -o json",
		Long:  "-o json prints one JSON value on a line for each thing listed.",
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		fmt.Fprintln(cmd.OutOrStdout(), outputHelp())
	})
	return cmd
}

func outputHelp() string {
	shapes := []struct {
		commands string
		value    any
	}{
		{"run, resume (one line per result)", resultJSON{}},
		{"run --detach", idJSON{}},
		{"jobs (one line per job), cancel, wait, job rm", jobJSON{}},
		{"job show", jobShowJSON{}},
		{"logs (one line per piece of output)", logJSON{}},
		{"nodes (one line per node), drain", nodeJSON{}},
		{"node remove", removeJSON{}},
		{"cluster show, cluster set", clusterJSON{}},
		{"status", statusJSON{}},
		{"add, upgrade (one line per host)", addJSON{}},
		{"token", tokenJSON{}},
		{"token list (one line per token), token revoke", validTokenJSON{}},
		{"context list (one line per context)", contextJSON{}},
		{"context renew", renewJSON{}},
		{"kv get, kv list, kv watch (one line per key)", kvJSON{}},
		{"kv put", putJSON{}},
		{"kv del", delJSON{}},
		{"kv txn", txnJSON{}},
		{"locks (one line per lock)", lockJSON{}},
		{"metrics (one line per sample)", metricJSON{}},
		{"debug shard (one line per replica)", replicaJSON{}},
		{"debug split", splitJSON{}},
		{"debug sweep (one line per node)", sweepJSON{}},
		{"debug slow (one line per operation)", slowJSON{}},
		{"debug log (one line per line)", lineJSON{}},
		{"debug goroutines (one line per stack)", goroutinesJSON{}},
		{"debug sweep (one line per node)", sweepJSON{}},
		{"debug profile", fileJSON{}},
		{"debug bundle", bundleJSON{}},
		{"service status", serviceJSON{}},
		{"version", versionJSON{}},
	}
	var b strings.Builder
	b.WriteString("The fields of -o json. Names and meanings stay; new fields may be added. A field\n" +
		"with ? is left out when it is empty. Times end in _ms (since 1970) or _us. What\n" +
		"may be no text (inputs, paths, output, keys, values) shows with \\ufffd where it\n" +
		"is not UTF-8, and then has a twin with all bytes, whose name ends in _base64.\n")
	for _, s := range shapes {
		fmt.Fprintf(&b, "\n%s\n", s.commands)
		describe(&b, reflect.TypeOf(s.value), "  ")
	}
	return strings.TrimRight(b.String(), "\n")
}

// describe lists a struct's JSON fields, nested ones indented below.
func describe(b *strings.Builder, t reflect.Type, indent string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			describe(b, f.Type, indent)
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if strings.Contains(opts, "omitempty") {
			name += "?"
		}
		ft, list := f.Type, ""
		for ft.Kind() == reflect.Slice || ft.Kind() == reflect.Pointer {
			if ft.Kind() == reflect.Slice {
				list = "list of "
			}
			ft = ft.Elem()
		}
		kind := ft.Kind().String()
		switch ft.Kind() {
		case reflect.Struct, reflect.Map:
			kind = "object"
		case reflect.Bool:
			kind = "true or false"
		case reflect.String:
		default:
			kind = "number"
		}
		fmt.Fprintf(b, "%s%-18s %s%s\n", indent, name, list, kind)
		if ft.Kind() == reflect.Struct && ft != reflect.TypeFor[resultJSON]() {
			describe(b, ft, indent+"  ")
		}
	}
}
