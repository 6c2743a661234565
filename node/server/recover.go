package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/replica"
	"banyan/engine/store"
)

// recoveryVersion is the version of surveys and of recovery.json.
const recoveryVersion = 1

// Survey is what a stopped node has of each shard, for a Recovery.
type Survey struct {
	Version int                      `json:"version"`
	Cluster string                   `json:"cluster"`
	Node    banyan.NodeID            `json:"node"`
	Shards  []banyan.ShardID         `json:"shards"` // of the cluster, as far as this node knows
	Members map[banyan.NodeID]string `json:"members"`
	Found   []Found                  `json:"found"`
}

// Found is one replica.
type Found struct {
	Shard       banyan.ShardID  `json:"shard"`
	Voters      []banyan.NodeID `json:"voters"`
	Outgoing    []banyan.NodeID `json:"outgoing,omitempty"` // of a change of voters under way
	LastIndex   uint64          `json:"last_index"`
	LastTerm    uint64          `json:"last_term"`
	Commit      uint64          `json:"commit"`
	LastWriteMs int64           `json:"last_write_ms,omitempty"` // by the clock of the leader then
}

// Rescue is what a Recovery does with one shard.
type Rescue struct {
	Found
	Keep banyan.NodeID `json:"keep"` // whose replica goes on; 0: there is none left
}

// Recovery is the plan by which survivors go on without a majority that is lost
// for good. Every survivor that makes it from the same surveys makes the same.
type Recovery struct {
	Version int             `json:"version"`
	TimeMs  int64           `json:"time_ms"`
	Cluster string          `json:"cluster"`
	Node    banyan.NodeID   `json:"node"` // whose directory it is for
	Lost    []banyan.NodeID `json:"lost"`
	Shards  []Rescue        `json:"shards"` // that had lost their majority

	// CreateOn is where shards of which nothing is left begin anew, empty: the
	// same in the plans of all that are left. 0: nobody said.
	CreateOn banyan.NodeID `json:"create_on,omitempty"`
}

// Gone lists the shards of which nothing is left.
func (r *Recovery) Gone() (ids []banyan.ShardID) {
	for _, s := range r.Shards {
		if s.Keep == 0 {
			ids = append(ids, s.Shard)
		}
	}
	return ids
}

// SurveyNode reads the directory of a stopped node and changes nothing.
func SurveyNode(c Config) (s *Survey, err error) {
	f, st, err := openStopped(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return survey(f, st)
}

func openStopped(c Config) (*nodeFile, *store.Store, error) {
	c = c.withDefaults()
	f, err := readNodeFile(c)
	if err != nil {
		return nil, nil, err
	}
	if f == nil {
		return nil, nil, banyan.Errorf(banyan.NotFound, "%s holds no node: give the directory of one that survived with --dir", c.Dir)
	}
	st, err := store.Open(c.storeDir(), store.Options{Logger: c.Logger})
	if err != nil {
		return nil, nil, err
	}
	if id, ok := st.Identity(); !ok || id.Cluster != f.Cluster || id.Node != f.Node {
		return nil, nil, errors.Join(banyan.Errorf(banyan.Conflict, "%s and %s are not of one node: restore the directory from one copy", c.storeDir(), c.nodeFile()), st.Close())
	}
	return f, st, nil
}

func survey(f *nodeFile, st *store.Store) (*Survey, error) {
	table := newNodeTable(f)
	if err := table.load(st); err != nil {
		return nil, err
	}
	m, err := readMap(st)
	if err != nil {
		return nil, err
	}
	s := &Survey{Version: recoveryVersion, Cluster: f.Cluster, Node: f.Node, Shards: m.All(), Members: map[banyan.NodeID]string{}}
	for _, row := range table.list() {
		s.Members[row.ID] = row.Address
	}
	for _, id := range st.Shards() {
		found, err := look(st.Shard(id))
		if err != nil {
			return nil, err
		}
		if len(found.Voters) > 0 { // else it has only voted
			found.Shard = id
			s.Found = append(s.Found, found)
		}
	}
	return s, nil
}

func look(sh *store.Shard) (out Found, err error) {
	conf := sh.ConfState()
	for _, v := range conf.GetVoters() {
		out.Voters = append(out.Voters, banyan.NodeID(v))
	}
	for _, v := range conf.GetVotersOutgoing() {
		out.Outgoing = append(out.Outgoing, banyan.NodeID(v))
	}
	if out.LastIndex, err = sh.LastIndex(); err != nil {
		return out, err
	}
	if out.LastTerm, err = sh.Term(out.LastIndex); err != nil {
		return out, err
	}
	hard, _, err := sh.InitialState()
	if err != nil {
		return out, err
	}
	out.Commit = hard.GetCommit()
	first, err := sh.FirstIndex()
	if err != nil {
		return out, err
	}
	for i := out.LastIndex; i >= first && out.LastWriteMs == 0 && out.LastIndex-i < 64; i-- {
		es, err := sh.Entries(i, i+1, 0)
		if err != nil {
			return out, err
		}
		commands, err := replica.Commands(es[0].GetData())
		if err != nil || len(commands) == 0 {
			continue
		}
		if cmd, err := mvcc.Decode(commands[len(commands)-1]); err == nil {
			out.LastWriteMs = cmd.Time.Ms()
		}
	}
	return out, nil
}

// PlanRecovery decides what each shard goes on with. own is the survey of the
// node it is for, others those of all other nodes that are left. It refuses if
// a node is neither lost nor surveyed, and if no shard needs it.
func PlanRecovery(own *Survey, others []*Survey, lost []banyan.NodeID, now time.Time) (*Recovery, error) {
	all := append([]*Survey{own}, others...)
	if err := checkSurveys(all, lost); err != nil {
		return nil, err
	}
	r := &Recovery{Version: recoveryVersion, TimeMs: now.UnixMilli(), Cluster: own.Cluster, Node: own.Node, Lost: slices.Sorted(slices.Values(lost))}
	for _, id := range shardsOf(all) {
		best, keep := longest(all, id)
		if keep == 0 || !hasMajority(best, lost) {
			best.Shard = id
			r.Shards = append(r.Shards, Rescue{best, keep})
		}
	}
	if len(r.Shards) == 0 {
		return nil, banyan.Errorf(banyan.Conflict, "every shard has a majority of its voters among the nodes that are left: start them, and nothing is lost; 'banyan node remove' then takes %s out of the cluster", nodeList(lost))
	}
	return r, nil
}

// shardsOf lists the shards that any of the surveys knows, by number.
func shardsOf(all []*Survey) (ids []banyan.ShardID) {
	for _, s := range all {
		ids = append(ids, s.Shards...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func checkSurveys(all []*Survey, lost []banyan.NodeID) error {
	seen := map[banyan.NodeID]bool{}
	members := map[banyan.NodeID]string{}
	for _, s := range all {
		switch {
		case s.Version != recoveryVersion:
			return banyan.Errorf(banyan.TooNew, "the survey of node %v has format %d, this banyan (%s) knows %d: use one release for all", s.Node, s.Version, banyan.Version, recoveryVersion)
		case s.Cluster != all[0].Cluster:
			return banyan.Errorf(banyan.Conflict, "node %v is of cluster %s, not of %s: give surveys of one cluster", s.Node, s.Cluster, all[0].Cluster)
		case seen[s.Node]:
			return banyan.Errorf(banyan.Invalid, "there are two surveys of node %v: give one of each", s.Node)
		case slices.Contains(lost, s.Node):
			return banyan.Errorf(banyan.Invalid, "node %v is called lost, and here is its survey: a node whose disk is there is no lost node", s.Node)
		}
		seen[s.Node] = true
		maps.Copy(members, s.Members)
	}
	for _, id := range lost {
		if _, ok := members[id]; !ok {
			return banyan.Errorf(banyan.NotFound, "node %v is not known to be a member; those that are: %s", id, nodeList(slices.Sorted(maps.Keys(members))))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(members)) {
		if !seen[id] && !slices.Contains(lost, id) {
			return banyan.Errorf(banyan.Invalid, "node %v (%s) is neither called lost nor looked at: it may have what the others lack. On its machine, stopped: banyan recover --dir DIR --survey FILE; then give that file here with --with FILE", id, members[id])
		}
	}
	return nil
}

// longest is the replica whose log reaches furthest: it has all that any
// survivor knows to be committed.
func longest(all []*Survey, shard banyan.ShardID) (best Found, keep banyan.NodeID) {
	for _, s := range all {
		for _, f := range s.Found {
			if f.Shard != shard {
				continue
			}
			if keep == 0 || cmp.Or(cmp.Compare(f.LastTerm, best.LastTerm), cmp.Compare(f.LastIndex, best.LastIndex), cmp.Compare(keep, s.Node)) > 0 {
				best, keep = f, s.Node
			}
		}
	}
	return best, keep
}

func hasMajority(f Found, lost []banyan.NodeID) bool {
	for _, group := range [][]banyan.NodeID{f.Voters, f.Outgoing} {
		left := 0
		for _, v := range group {
			if !slices.Contains(lost, v) {
				left++
			}
		}
		if len(group) > 0 && left <= len(group)/2 {
			return false
		}
	}
	return true
}

func nodeList(ids []banyan.NodeID) string {
	var out []string
	for _, id := range ids {
		out = append(out, id.String())
	}
	return strings.Join(out, ", ")
}

// Recover carries the plan out on its node's directory. What was done is on the
// disk before it is done, and the node tells the cluster when it is started.
func Recover(c Config, r *Recovery) (err error) {
	f, st, err := openStopped(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if f.Cluster != r.Cluster || f.Node != r.Node {
		return banyan.Errorf(banyan.Conflict, "the plan is for node %v of cluster %s, %s holds node %v of cluster %s", r.Node, r.Cluster, c.Dir, f.Node, f.Cluster)
	}
	create, err := r.toCreate(st)
	if err != nil {
		return err
	}
	done, err := readRecoveries(c)
	if err != nil {
		return err
	}
	if err := writeRecoveries(c, append(done, r)); err != nil {
		return err
	}
	b := st.NewBatch()
	for _, sh := range r.Shards {
		if sh.Keep == 0 || !slices.Contains(st.Shards(), sh.Shard) {
			continue
		}
		if err := b.Recover(sh.Shard, sh.Keep, sh.Keep == f.Node); err != nil {
			return err
		}
	}
	if err := b.Commit(true); err != nil || len(create) == 0 {
		return err
	}
	m, err := readMap(st)
	if err != nil {
		return err
	}
	return beginShards(st, m, create, f.Node)
}

// toCreate lists the shards that begin anew on this node, with nothing in them.
func (r *Recovery) toCreate(st *store.Store) ([]banyan.ShardID, error) {
	gone := r.Gone()
	switch {
	case len(gone) > 0 && r.CreateOn == 0:
		return nil, banyan.Errorf(banyan.Conflict, "nothing is left of shards %v: bring back a node that has them; if none can, --create-empty %v lets them begin anew there, empty. Nothing was changed", gone, r.Node)
	case r.CreateOn != r.Node:
		return nil, nil
	}
	for _, id := range gone {
		if slices.Contains(st.Shards(), id) || st.Tombstoned(id) {
			return nil, banyan.Errorf(banyan.Conflict, "shard %d was on node %v once, without its data: give --create-empty another node that is left. Nothing was changed", id, r.Node)
		}
	}
	return gone, nil
}

func recoveryFile(c Config) string { return filepath.Join(c.Dir, "recovery.json") }

// readRecoveries gives all that were ever carried out on this node.
func readRecoveries(c Config) (out []*Recovery, err error) {
	text, err := os.ReadFile(recoveryFile(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "%s, which says what was recovered here: %w", recoveryFile(c), err)
	}
	return out, nil
}

// RecoveredBefore says when the loss of these nodes was recovered from here; zero: never.
func RecoveredBefore(c Config, lost []banyan.NodeID) (time.Time, error) {
	all, err := readRecoveries(c)
	for _, r := range all {
		if !slices.ContainsFunc(lost, func(id banyan.NodeID) bool { return !slices.Contains(r.Lost, id) }) {
			return time.UnixMilli(r.TimeMs), nil
		}
	}
	return time.Time{}, err
}

func writeRecoveries(c Config, all []*Recovery) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(c, recoveryFile(c), text, true)
}

// tellRecoveries writes what was recovered on this node where the whole cluster
// sees it for ever, and that the lost nodes are removed.
func (n *Server) tellRecoveries(ctx context.Context) error {
	for _, r := range n.recovered {
		err := retry(ctx, func() error { return n.tellRecovery(ctx, r) })
		if err != nil {
			n.log.Error("a recovery could not be recorded in the cluster; the next start tries again", "of", time.UnixMilli(r.TimeMs), "error", err)
		}
	}
	return nil
}

func (n *Server) tellRecovery(ctx context.Context, r *Recovery) error {
	value, err := json.Marshal(notice{TimeMs: r.TimeMs, Node: r.Node, Text: r.Text()})
	if err != nil {
		return err
	}
	key := fmt.Appendf(nil, "%s%013d-%v", noticePrefix, r.TimeMs, r.Node)
	_, err = n.router.Commit(ctx, banyan.RootShard, &mvcc.Command{
		Conds: []mvcc.Cond{{Key: key, Test: mvcc.Missing}},
		Muts:  []mvcc.Mutation{{Op: mvcc.Put, Key: key, Value: value}},
	})
	for _, id := range r.Lost {
		if err == nil {
			_, err = editNode(ctx, n.router, id, func(row *nodeRow) bool {
				row.RemovedMs = r.TimeMs
				return true
			})
		}
		if banyan.IsKind(err, banyan.NotFound) { // removed already
			err = nil
		}
	}
	return err
}

// Text says in a line what was done, for those who come later.
func (r *Recovery) Text() string {
	var kept, elsewhere, gone []string
	for _, s := range r.Shards {
		switch name := fmt.Sprint(s.Shard); s.Keep {
		case r.Node:
			kept = append(kept, fmt.Sprintf("%s from entry %d of term %d", name, s.LastIndex, s.LastTerm))
		case 0:
			gone = append(gone, name)
		default:
			elsewhere = append(elsewhere, name)
		}
	}
	were, they := "were", "they"
	if len(r.Lost) == 1 {
		were, they = "was", "it"
	}
	text := fmt.Sprintf("recovered without a majority after %s %s lost; writes that only %s had are gone", nodeList(r.Lost), were, they)
	if len(kept) > 0 {
		text += "; shards going on here: " + strings.Join(kept, ", ")
	}
	if len(elsewhere) > 0 {
		text += "; on other survivors: " + strings.Join(elsewhere, ", ")
	}
	switch {
	case len(gone) > 0 && r.CreateOn == r.Node:
		text += "; created empty here: " + strings.Join(gone, ", ")
	case len(gone) > 0:
		text += fmt.Sprintf("; created empty on %v: %s", r.CreateOn, strings.Join(gone, ", "))
	}
	return text
}
