package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
)

// txnJSON is what 'kv txn -o json' prints.
type txnJSON struct {
	Succeeded       bool     `json:"succeeded"`
	FailedCondition string   `json:"failed_condition,omitempty"`
	Revision        uint64   `json:"revision"`
	Sequences       []uint64 `json:"sequences,omitempty"` // of the appends
}

func (a *app) kvTxnCommand() *cobra.Command {
	var f format
	var conditions, actions []string
	cmd := &cobra.Command{
		Use:   "txn [--if CONDITION …] --do ACTION …",
		Short: "Change keys of one partition together, if conditions hold",
		Long: `Apply all actions at one revision, if all conditions hold; else change nothing
and exit with 1.

  --if 'KEY exists'        --do 'put KEY VALUE'
  --if 'KEY missing'       --do 'del KEY'
  --if 'KEY = VALUE'       --do 'delprefix KEY'
  --if 'KEY @ REVISION'    --do 'append PREFIX VALUE'
  --if 'LOCK held TOKEN [PERMIT]'

'KEY @ REVISION' holds if that revision was the last to change the key. 'LOCK
held TOKEN' holds while a lock of the same partition is held with that token
('banyan help lock'); a permit is named for semaphores and shared locks. append
makes a key of PREFIX and the next number of its sequence.`,
		Example: "  banyan kv txn --if 'shop/stock = 1' \\\n    --do 'put shop/stock 0' --do 'append shop/orders/ lamp'",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			req := &banyanv1.TxnRequest{}
			for _, text := range conditions {
				c, err := parseCondition(text)
				if err != nil {
					return err
				}
				req.Conditions = append(req.Conditions, c)
			}
			for _, text := range actions {
				m, err := parseAction(text)
				if err != nil {
					return err
				}
				req.Mutations = append(req.Mutations, m)
			}
			if len(req.Mutations) == 0 && len(req.Conditions) == 0 {
				return usage("nothing to do: give --do, as in --do 'put KEY VALUE'")
			}
			return a.with(cmd.Context(), kvNeed(), func(ctx context.Context, s *session) error { return a.txn(ctx, s, req, f, conditions) })
		},
	}
	cmd.Flags().StringArrayVar(&conditions, "if", nil, "a `CONDITION` that must hold")
	cmd.Flags().StringArrayVar(&actions, "do", nil, "an `ACTION`")
	f.add(cmd.Flags())
	return cmd
}

func (a *app) txn(ctx context.Context, s *session, req *banyanv1.TxnRequest, f format, conditions []string) error {
	r, err := s.KV().Txn(ctx, req)
	if err != nil {
		return err
	}
	out := txnJSON{Succeeded: r.Succeeded, Revision: r.Revision, Sequences: r.Sequences}
	if i := int(r.FailedCondition); !out.Succeeded && i < len(conditions) {
		out.FailedCondition = conditions[i]
	}
	switch {
	case f.json():
		err = writeJSON(a.Out, out)
	case out.Succeeded:
		_, err = fmt.Fprintf(a.Out, "revision %d\n", out.Revision)
		for _, n := range out.Sequences {
			fmt.Fprintf(a.Out, "sequence %016x\n", n)
		}
	}
	if err != nil || out.Succeeded {
		return err
	}
	remedy := "read the key again"
	if strings.Contains(out.FailedCondition, " held ") {
		remedy = "the lock is not yours any more: take it again"
	}
	return fmt.Errorf("nothing was changed, the condition '%s' does not hold: %s", out.FailedCondition, remedy)
}

func parseCondition(text string) (*banyanv1.Condition, error) {
	key, test, _ := strings.Cut(text, " ")
	op, operand, more := strings.Cut(test, " ")
	c := &banyanv1.Condition{Key: []byte(key)}
	switch {
	case key == "":
	case op == "exists" && !more:
		c.Test = &banyanv1.Condition_Exists{Exists: true}
		return c, nil
	case op == "missing" && !more:
		c.Test = &banyanv1.Condition_Exists{Exists: false}
		return c, nil
	case op == "=":
		c.Test = &banyanv1.Condition_Value{Value: []byte(operand)}
		return c, nil
	case op == "@":
		if rev, err := strconv.ParseUint(operand, 10, 64); err == nil {
			c.Test = &banyanv1.Condition_ModRevision{ModRevision: rev}
			return c, nil
		}
	case op == "held":
		held := &banyanv1.Condition_Held{}
		if n, _ := fmt.Sscan(operand, &held.Token, &held.Permit); n == len(strings.Fields(operand)) && n > 0 {
			c.Test = &banyanv1.Condition_Held_{Held: held}
			return c, nil
		}
	}
	return nil, usage("bad --if %q: give 'KEY exists', 'KEY missing', 'KEY = VALUE', 'KEY @ REVISION' or 'LOCK held TOKEN [PERMIT]'", text)
}

func parseAction(text string) (*banyanv1.Mutation, error) {
	verb, rest, _ := strings.Cut(text, " ")
	key, value, more := strings.Cut(rest, " ")
	switch {
	case key == "":
	case verb == "put" && more:
		return &banyanv1.Mutation{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: []byte(key), Value: []byte(value)}}}, nil
	case verb == "append" && more:
		return &banyanv1.Mutation{Op: &banyanv1.Mutation_Append_{Append: &banyanv1.Mutation_Append{Prefix: []byte(key), Value: []byte(value)}}}, nil
	case (verb == "del" || verb == "delprefix") && !more:
		return &banyanv1.Mutation{Op: &banyanv1.Mutation_Delete{Delete: &banyanv1.Mutation_Del{Key: []byte(key), Prefix: verb == "delprefix"}}}, nil
	}
	return nil, usage("bad --do %q: give 'put KEY VALUE', 'del KEY', 'delprefix KEY' or 'append PREFIX VALUE'", text)
}
