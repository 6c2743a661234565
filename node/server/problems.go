package server

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/placement"
)

const (
	clockOffsetMax  = 500 // ms, beyond which status complains
	diskFreeMinPart = 20  // a twentieth of the disk
	diskFreeMin     = 512 << 20
	certificateLeft = 7 * 24 * time.Hour // they are renewed when ten days are left
	pausesLook      = 10 * time.Second
	pausedMax       = 1000 // ms of pausesLook
)

// findProblems says what is unhealthy and what to do about each.
func findProblems(nodes []*banyanv1.Node, shards []*banyanv1.Shard, voters int, deadAfter time.Duration) []*banyanv1.Problem {
	var out []*banyanv1.Problem
	add := func(critical bool, remedy, format string, args ...any) {
		out = append(out, &banyanv1.Problem{What: fmt.Sprintf(format, args...), Remedy: remedy, Critical: critical})
	}
	state := map[uint64]string{}
	alive := 0
	for _, n := range nodes {
		state[n.Id] = n.State
		if n.State == "alive" {
			alive++
		}
		nodeProblems(n, deadAfter, add)
	}
	shardProblems(shards, state, voters, add)
	crowdProblems(nodes, shards, state, add)
	if alive == 0 {
		add(true, "take one back with 'banyan drain --undo NODE', or let another node join", "no node takes work: none is alive and not draining")
	}
	if len(nodes) > 1 {
		copyProblems(shards, state, add)
	}
	if alive == 1 && len(nodes) == 1 {
		add(false, "join two more nodes ('banyan token' says how) to survive the loss of a machine", "everything is on one disk only")
	} else if len(nodes) == 2 {
		remedy := "join a third node: with three, every write is on two disks before it is acknowledged"
		if slices.ContainsFunc(shards, func(sh *banyanv1.Shard) bool { return len(sh.Learners) == 0 }) {
			add(false, remedy, "two nodes keep one voter a shard: losing that machine stops the cluster")
		} else {
			add(false, remedy, "two nodes keep one voter a shard: losing that machine stops the cluster; the copy on the other, for 'banyan recover', may lack the latest writes")
		}
	}
	return out
}

type addProblem func(critical bool, remedy, format string, args ...any)

func nodeProblems(n *banyanv1.Node, deadAfter time.Duration, add addProblem) {
	id := banyan.NodeID(n.Id)
	switch n.State {
	case "dead", "suspect":
		add(false, fmt.Sprintf("start it again on its machine (banyan up --dir DIR); if it is gone for good, its replicas are rebuilt elsewhere after %v when there is a spare node", deadAfter),
			"node %v (%s, %s) is %s", id, n.Name, n.Address, n.State)
		return
	case "leaving":
		add(false, fmt.Sprintf("wait for 'banyan node remove %v' to finish; or keep it: banyan drain --undo %v", id, id), "node %v is leaving and hands over what it holds", id)
	case "draining":
		add(false, fmt.Sprintf("nothing, if you are about to stop it; else: banyan drain --undo %v", id), "node %v is draining and takes no new work", id)
	}
	if n.ClockOffsetMs > clockOffsetMax || n.ClockOffsetMs < -clockOffsetMax {
		add(false, "set the clock of that machine (NTP)", "the clock of node %v is %d ms off", id, n.ClockOffsetMs)
	}
	if n.DiskLevel > 0 {
		add(n.DiskLevel > 1, fmt.Sprintf("free space on that disk, or join a node with more: what it holds moves there where it can; keys can still be deleted; 'banyan drain %v' empties the node's slots", id),
			"the disk of node %v under %s has %d MiB left, below its low-water mark of %d MiB: it leads nothing, takes no tasks, files and copies%s",
			id, n.DiskPath, n.DiskFreeBytes>>20, n.DiskMarkBytes>>20, map[bool]string{true: "; what runs there is stopped"}[n.DiskLevel > 1])
	} else if n.DiskTotalBytes > 0 && (n.DiskFreeBytes < diskFreeMin || n.DiskFreeBytes < n.DiskTotalBytes/diskFreeMinPart) {
		add(n.DiskFreeBytes < diskFreeMin, "free space on that disk, or drain the node", "node %v has %d MiB of disk left", id, n.DiskFreeBytes>>20)
	}
	if at := time.UnixMilli(n.CertificateExpireMs); n.CertificateExpireMs != 0 && time.Until(at) < certificateLeft {
		add(time.Until(at) < certificateLeft/7, fmt.Sprintf("nodes renew theirs long before: 'banyan debug log --node %v' says why this one could not", id),
			"the certificate of node %v expires at %s", id, at.UTC().Format(time.RFC3339))
	}
	if n.Version != "" && n.Version != banyan.Version {
		add(false, "upgrade the nodes one after another to the same version", "node %v runs version %s, the answering node %s", id, n.Version, banyan.Version)
	}
}

// contactProblems says which nodes that are there do not do their work, or do
// not hear each other.
func contactProblems(nodes []*banyanv1.Node, infos map[banyan.NodeID]*nodeInfo) []*banyanv1.Problem {
	var out []*banyanv1.Problem
	add := func(remedy, format string, args ...any) {
		out = append(out, &banyanv1.Problem{What: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	here := map[banyan.NodeID]bool{}
	for _, n := range nodes {
		here[banyan.NodeID(n.Id)] = n.State != "dead" && n.State != "left"
	}
	said := map[[2]banyan.NodeID]bool{}
	for _, n := range nodes {
		id := banyan.NodeID(n.Id)
		info := infos[id]
		switch {
		case !here[id]:
			continue
		case info == nil && n.State == "suspect":
			continue // that is said already
		case info == nil:
			add("see what keeps that machine busy, and its log; if it stays so, stop the node: the others go on without it", "node %v is there, but does not answer", id)
			continue
		case info.Stalled:
			add("see whether its disk answers; if it stays so, stop the node: the others go on without it", "node %v waits for its disk", id)
		}
		for _, sh := range info.Shards {
			if sh.DiffersFrom != 0 {
				out = append(out, &banyanv1.Problem{
					What: fmt.Sprintf("shard %d has committed other entries on node %v than on %v: one of the two has lost acknowledged writes", sh.Id, id, banyan.NodeID(sh.DiffersFrom)),
					Remedy: fmt.Sprintf("keep both nodes' directories; find out which was restored from an older copy or has a disk that lost writes ('banyan debug shard %d' and 'banyan debug log' of both say more), "+
						"move that one's directory away and let its machine join as a new node", sh.Id),
					Critical: true,
				})
			}
		}
		placesProblems(id, info.InfoResponse, add)
		isolationProblems(id, info.InfoResponse, add)
		if info.PausedMs > pausedMax {
			add("see what pauses that process or its virtual machine, or keeps its CPUs busy; its disk and network need not be slow",
				"node %v was paused, or had no CPU, for %d ms of the last %v", id, info.PausedMs, pausesLook)
		}
		for _, other := range info.Unheard {
			pair := [2]banyan.NodeID{min(id, banyan.NodeID(other)), max(id, banyan.NodeID(other))}
			if here[banyan.NodeID(other)] && !said[pair] {
				said[pair] = true
				add("repair the network between the two machines; others still reach both", "%v and %v do not hear each other", pair[0], pair[1])
			}
		}
	}
	return out
}

const (
	filesLow    = 1024             // that a process may have open: with fewer, its places for connections are few
	crowdedLook = 10 * time.Minute // for how long it is told that a connection found no place
)

// isolationProblems says whether tasks of a node may read what is the node's.
func isolationProblems(id banyan.NodeID, info *peerv1.InfoResponse, add func(remedy, format string, args ...any)) {
	why := ""
	if info.IsolationWhy != "" {
		why = ": " + info.IsolationWhy
	}
	switch {
	case info.IsolationRefused:
		add("allow its user namespaces (docs/operations.md, \"Isolation\"), run it as a user of its own, or start it with --isolation node",
			"node %v takes no tasks, for they cannot be kept from it%s", id, why)
	case info.Isolation == "none":
		add("start it without --isolation none on a machine that allows namespaces or Landlock (docs/operations.md, \"Isolation\"), or with --no-work; else let only those submit who may own the cluster",
			"tasks on node %v can read its keys%s", id, why)
	}
}

// placesProblems says whether a node has few places for connections, or none left.
func placesProblems(id banyan.NodeID, info *peerv1.InfoResponse, add func(remedy, format string, args ...any)) {
	raise := "raise the limit of open files where that node is started ('ulimit -n 65536', LimitNOFILE= in a systemd unit) and start it again"
	if info.FilesMax > 0 && info.FilesMax < filesLow {
		add(raise, "node %v may have only %d files open, so it takes %d connections of users", id, info.FilesMax, info.ConnectionsMax)
	}
	switch {
	case info.ConnectionsMax > 0 && info.Connections >= info.ConnectionsMax:
		add("close those that are not needed, or let clients use other nodes; else "+raise, "node %v has %d connections of users, the most it takes", id, info.Connections)
	case info.CrowdedMs > 0 && info.CrowdedMs < crowdedLook.Milliseconds():
		add("see who connects so often, or let clients use other nodes; else "+raise, "node %v had no place for a connection %v ago", id, (time.Duration(info.CrowdedMs) * time.Millisecond).Round(time.Second))
	}
}

// shardProblems says of all shards in the same state what that is.
func shardProblems(shards []*banyanv1.Shard, state map[uint64]string, voters int, add addProblem) {
	type trouble struct {
		what, remedy string
		critical     bool
	}
	var seen []trouble
	in := map[trouble][]uint32{}
	for _, sh := range shards {
		what, remedy, critical := shardProblem(sh, state, voters)
		if what == "" {
			continue
		}
		t := trouble{what, remedy, critical}
		if in[t] == nil {
			seen = append(seen, t)
		}
		in[t] = append(in[t], sh.Id)
	}
	for _, t := range seen {
		add(t.critical, t.remedy, "%s %s", shardNames(in[t]), t.what)
	}
}

// crowdProblems says which shards take nothing new from users, because too few
// of their voters have room.
func crowdProblems(nodes []*banyanv1.Node, shards []*banyanv1.Shard, state map[uint64]string, add addProblem) {
	low := map[banyan.NodeID]bool{}
	for _, n := range nodes {
		low[banyan.NodeID(n.Id)] = n.DiskLevel > 0
	}
	var full []uint32
	for _, sh := range shards {
		var voters []banyan.NodeID
		for _, id := range sh.Voters {
			voters = append(voters, banyan.NodeID(id))
		}
		room := placement.Room(voters, func(id banyan.NodeID) bool { return !low[id] && state[uint64(id)] != "dead" })
		if sh.Leader != 0 && !room && slices.ContainsFunc(voters, func(id banyan.NodeID) bool { return low[id] }) {
			full = append(full, sh.Id)
		}
	}
	if len(full) > 0 {
		add(true, "free space on the disks named here, or join nodes with room", "%s no room for new data: puts, new jobs and uploads are refused, deletes go on", shardNames(full))
	}
}

// copyProblems says which shards have what was written on one disk only, while
// more nodes are listed: their copies are on nodes that are away, or have yet to
// catch up.
func copyProblems(shards []*banyanv1.Shard, state map[uint64]string, add addProblem) {
	on := map[uint64][]uint32{}
	for _, sh := range shards {
		if onOneDisk(sh, state) {
			on[sh.Voters[0]] = append(on[sh.Voters[0]], sh.Id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(on)) {
		add(true, "start the nodes that are away, or join another one ('banyan token' says how): it gets copies at once; until then the loss of that disk loses data",
			"%s what was written on one disk only, that of %v", shardNames(on[id]), banyan.NodeID(id))
	}
}

// onOneDisk says whether only the sole voter of a shard surely has all of it.
func onOneDisk(sh *banyanv1.Shard, state map[uint64]string) bool {
	if sh.Leader == 0 || len(sh.Voters) != 1 {
		return false
	}
	return !slices.ContainsFunc(sh.Learners, func(id uint64) bool {
		return hasCopy(sh.Behind, id) && state[id] != "dead" && state[id] != ""
	})
}

// hasCopy says whether a learner has what its leader has, but for a little.
func hasCopy(behind map[uint64]uint64, id uint64) bool {
	b, known := behind[id]
	return known && b <= behindMax
}

// shardNames is the subject of a sentence, with its verb.
func shardNames(ids []uint32) string {
	var names []string
	root := false
	for _, id := range ids {
		if id == uint32(banyan.RootShard) {
			root = true
			continue
		}
		names = append(names, fmt.Sprint(id))
	}
	text := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return "the root shard has"
	case len(names) == 1 && !root:
		return "shard " + text + " has"
	case root && len(names) == 1:
		return "the root shard and shard " + text + " have"
	case root:
		return "the root shard and shards " + text + " have"
	}
	return "shards " + text + " have"
}

// shardProblem says what is wrong with one shard; "": nothing.
func shardProblem(sh *banyanv1.Shard, state map[uint64]string, voters int) (what, remedy string, critical bool) {
	var down, names []string
	for _, v := range sh.Voters {
		names = append(names, banyan.NodeID(v).String())
		if s := state[v]; s != "alive" && s != "draining" && s != "leaving" {
			down = append(down, banyan.NodeID(v).String())
		}
	}
	switch {
	case sh.Leader == 0 && len(names) == 0:
		return "no leader, and no replica on a node that is up", "bring back the nodes that have it; if they are lost for good, docs/recovery.md says how to go on", true
	case sh.Leader == 0 && len(down) == 0:
		return "no leader", "wait a second: an election is under way, or its nodes do not reach each other", true
	case sh.Leader == 0 && len(down) <= (len(sh.Voters)-1)/2:
		return "no leader: " + strings.Join(down, ", ") + " cannot be reached", "wait two seconds: the others elect one, unless they do not reach each other", true
	case sh.Leader == 0:
		return "no leader: " + strings.Join(down, ", ") + " cannot be reached", "bring back a majority of its voters (" + strings.Join(names, ", ") + ")", true
	case len(down) > 0 && len(sh.Voters)-len(down) <= len(sh.Voters)/2+1:
		return fmt.Sprintf("%d of %d voters: %s cannot be reached", len(sh.Voters)-len(down), len(sh.Voters), strings.Join(down, ", ")), "bring the node back, or add a spare one", false
	}
	if able := votersAble(sh, state, voters); len(down) == 0 && len(sh.Voters) < able {
		return fmt.Sprintf("%d of %d voters", len(sh.Voters), able), "wait: new replicas catch up; if it stays so, 'banyan debug shard ID' says how far they are", false
	}
	return "", "", false
}

// votersAble is how many voters a shard can have with the nodes that there are.
func votersAble(sh *banyanv1.Shard, state map[uint64]string, wanted int) int {
	able := 0
	for id, s := range state {
		if s == "alive" || s == "draining" && slices.Contains(sh.Voters, id) {
			able++
		}
	}
	able = min(able, wanted)
	return able - (able+1)%2
}
