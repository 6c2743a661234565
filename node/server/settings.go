package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/engine/route"
)

// deadAfterMin keeps a short pause or a restart from being taken for a death.
const deadAfterMin = 5 * time.Second

// Settings tells what is chosen, and at which protocol the cluster acts.
func (s clusterService) Settings(ctx context.Context, _ *banyanv1.SettingsRequest) (*banyanv1.SettingsResponse, error) {
	most, _ := s.n.spokenByAll(ctx)
	return &banyanv1.SettingsResponse{Settings: s.n.settings(), Protocol: s.n.facts.acts(), ProtocolMax: most}, nil
}

func (n *Server) settings() *banyanv1.Settings {
	keep := n.keep()
	return &banyanv1.Settings{
		Voters: uint32(n.voters()), DeadAfterMs: n.deadAfter().Milliseconds(),
		KeepMs: keep.Ms, KeepJobs: keep.Jobs, KeepBytes: keep.Bytes,
	}
}

// ChangeSettings changes those that are not zero.
func (s clusterService) ChangeSettings(ctx context.Context, req *banyanv1.ChangeSettingsRequest) (*banyanv1.ChangeSettingsResponse, error) {
	want := req.GetSettings()
	if v := want.GetVoters(); v > 7 || v != 0 && v%2 == 0 {
		return nil, banyan.Errorf(banyan.Invalid, "%d voters: give 1, 3, 5 or 7; an even number survives no more failures than one less", v)
	}
	if d := time.Duration(want.GetDeadAfterMs()) * time.Millisecond; d != 0 && d < deadAfterMin {
		return nil, banyan.Errorf(banyan.Invalid, "dead-after %v: give %v or more, or a node that restarts is taken for dead", d, deadAfterMin)
	}
	for what, v := range map[string]int64{"time": want.GetKeepMs(), "number": want.GetKeepJobs(), "bytes": want.GetKeepBytes()} {
		if v < -1 {
			return nil, banyan.Errorf(banyan.Invalid, "the %s of jobs to keep is %d: give a number above 0, or -1 for no bound", what, v)
		}
	}
	if s.n.cfg.Embedded {
		return nil, errEmbedded()
	}
	for {
		row, err := s.n.router.Read(ctx, banyan.RootShard, route.ReadQuery{Key: []byte(settingsKey)})
		if err != nil {
			return nil, err
		}
		var have settings
		cond := mvcc.Cond{Key: []byte(settingsKey), Test: mvcc.Missing}
		if len(row.Rows) > 0 {
			if err := json.Unmarshal(row.Rows[0].Value, &have); err != nil {
				return nil, banyan.Errorf(banyan.Corrupt, "row %s: %w", settingsKey, err)
			}
			cond = mvcc.Cond{Key: []byte(settingsKey), Test: mvcc.ModEquals, Number: uint64(row.Rows[0].Mod)}
		}
		have.change(want)
		value, err := json.Marshal(have)
		if err != nil {
			return nil, err
		}
		out, err := s.n.router.Commit(ctx, banyan.RootShard, &mvcc.Command{
			Conds: []mvcc.Cond{cond}, Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(settingsKey), Value: value}},
		})
		if err != nil {
			return nil, err
		}
		if out.OK {
			if err := s.n.facts.take(&mvcc.Row{Key: []byte(settingsKey), Value: value, Mod: out.Revision}); err != nil { // before the watch tells
				return nil, err
			}
			s.n.log.Info("settings changed", "settings", have)
			return &banyanv1.ChangeSettingsResponse{Settings: s.n.settings()}, nil
		}
	}
}

// change takes over what is not zero.
func (s *settings) change(want *banyanv1.Settings) {
	if v := want.GetVoters(); v != 0 {
		s.Voters = int(v)
	}
	for _, c := range [...]struct {
		to   *int64
		want int64
	}{
		{&s.DeadAfterMs, want.GetDeadAfterMs()}, {&s.KeepMs, want.GetKeepMs()}, {&s.KeepJobs, want.GetKeepJobs()}, {&s.KeepBytes, want.GetKeepBytes()},
	} {
		if c.want != 0 {
			*c.to = c.want
		}
	}
}

// errEmbedded refuses what only a cluster can do.
func errEmbedded() error {
	return banyan.Errorf(banyan.Invalid, "a node inside a command is alone and stays so: 'banyan up' starts a cluster")
}

// spokenByAll is the newest protocol that every member says it speaks, and, if
// that is not the newest known here, who stands in the way.
func (n *Server) spokenByAll(ctx context.Context) (most uint32, why string) {
	return n.spoken(n.gather(ctx))
}

func (n *Server) spoken(infos map[banyan.NodeID]*nodeInfo) (most uint32, why string) {
	most = banyan.ProtocolVersion
	for _, row := range n.nodes.list() {
		info := infos[row.ID]
		if info == nil {
			return n.facts.acts(), fmt.Sprintf("node %v cannot be asked which it speaks: start it, or remove it for good ('banyan node remove %v')", row.ID, row.ID)
		}
		if speaks := max(info.ProtocolMax, banyan.ProtocolMin); speaks < most {
			most, why = speaks, fmt.Sprintf("node %v runs banyan %s, which speaks no newer one than %d: upgrade it", row.ID, info.Version, speaks)
		}
	}
	return most, why
}

// raiseProtocol lets the cluster act at what all members speak. It never goes
// back: a node that does not speak it is refused from then on. Nobody joins
// between the look at the members and the rise: see actsAt.
func (n *Server) raiseProtocol(ctx context.Context, infos map[banyan.NodeID]*nodeInfo) {
	have := n.facts.acts()
	if most, _ := n.spoken(infos); most <= have {
		return
	}
	next, err := n.router.Read(ctx, banyan.RootShard, route.ReadQuery{Key: []byte(nextNodeKey)})
	if err == nil {
		_, err = n.nodes.reload(ctx, n.router)
	}
	if err != nil || len(next.Rows) == 0 {
		n.log.Debug("protocol not raised, tried again", "error", err)
		return
	}
	most, _ := n.spokenByAll(ctx)
	if most <= have {
		return
	}
	value := strconv.AppendUint(nil, uint64(most), 10)
	out, err := n.router.Commit(ctx, banyan.RootShard, &mvcc.Command{
		Conds: []mvcc.Cond{actsAt(have), {Key: []byte(nextNodeKey), Test: mvcc.ModEquals, Number: uint64(next.Rows[0].Mod)}}, Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(protocolKey), Value: value}},
	})
	if err != nil || !out.OK {
		n.log.Debug("protocol not raised, tried again", "protocol", most, "error", err)
		return
	}
	n.log.Info("the cluster acts at a newer protocol", "protocol", most)
}

// readActs is the protocol that the cluster acts at, from the root shard:
// facts may be a moment behind it.
func readActs(ctx context.Context, db *route.Router) (uint32, error) {
	res, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: []byte(protocolKey)})
	if err != nil || len(res.Rows) == 0 {
		return banyan.ProtocolMin, err
	}
	v, err := strconv.ParseUint(string(res.Rows[0].Value), 10, 32)
	if err != nil {
		return 0, banyan.Errorf(banyan.Corrupt, "row %s: %w", protocolKey, err)
	}
	return uint32(v), nil
}

// actsAt holds while the cluster acts at a protocol. What rises is conditional
// on it and on that nobody has joined, who joins on it.
func actsAt(protocol uint32) mvcc.Cond {
	if protocol == banyan.ProtocolMin {
		return mvcc.Cond{Key: []byte(protocolKey), Test: mvcc.Missing}
	}
	return mvcc.Cond{Key: []byte(protocolKey), Test: mvcc.ValueEquals, Value: strconv.AppendUint(nil, uint64(protocol), 10)}
}
