package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/route"
	"banyan/internal/pause"
	"banyan/node/pki"
)

// tokenRow is the root shard's row of a join token: t/<hash of the secret>.
// The secret itself is stored nowhere.
type tokenRow struct {
	ExpireMs int64  `json:"expire_ms"`
	Uses     int    `json:"uses"` // left
	CreateMs int64  `json:"create_ms,omitempty"`
	By       string `json:"by,omitempty"` // who made it, by the certificate
}

// admissionRow is the root shard's row t/<hash of the secret>/<request id>: who
// was let in by a join whose answer may be lost.
type admissionRow struct {
	ExpireMs int64         `json:"expire_ms"` // named as a token's: it is swept like one
	Node     banyan.NodeID `json:"node"`
	Key      string        `json:"key"` // pki.RequestKey
}

const (
	tokenPrefix = rootPrefix + "t/"
	clusterKey  = clusterPrefix + "cluster"
	nextNodeKey = clusterPrefix + "next_node"

	tokenTTLDefault = time.Hour
	tokenTTLMax     = 365 * 24 * time.Hour

	// clockSkewMax is how far a joining machine's clock may be off.
	clockSkewMax = 30 * time.Second

	// repeatMax is how long a join can be repeated: as long as a node tries, by
	// the clocks of two members.
	repeatMax = joinTimeout + clockSkewMax
)

func tokenKey(hash string) []byte { return []byte(tokenPrefix + hash) }

func admissionKey(token []byte, id banyan.RequestID) []byte {
	return fmt.Appendf(nil, "%s/%v", token, id)
}

// createToken stores a new token's hash and gives the token and its id. What has expired
// goes with it, so that it never stands in the way of a new one.
func createToken(ctx context.Context, db *route.Router, fingerprint string, ttl time.Duration, uses int, now time.Time, by string) (string, string, tokenRow, error) {
	if ttl == 0 {
		ttl = tokenTTLDefault
	}
	if uses == 0 {
		uses = 1
	}
	if ttl < 0 || ttl > tokenTTLMax {
		return "", "", tokenRow{}, banyan.Errorf(banyan.Invalid, "a token cannot be valid for %v: give a time up to %v", ttl, tokenTTLMax)
	}
	if uses < 0 || uses > banyan.TokenUsesMax {
		return "", "", tokenRow{}, banyan.Errorf(banyan.Invalid, "a token cannot have %d uses: give a number from 1 to %d", uses, banyan.TokenUsesMax)
	}
	sweep, err := expiredTokens(ctx, db, now)
	if err != nil {
		return "", "", tokenRow{}, err
	}
	token, hash, err := pki.NewToken(fingerprint)
	if err != nil {
		return "", "", tokenRow{}, err
	}
	row := tokenRow{ExpireMs: now.Add(ttl).UnixMilli(), Uses: uses, CreateMs: now.UnixMilli(), By: by}
	value, err := json.Marshal(row)
	if err != nil {
		return "", "", tokenRow{}, err
	}
	_, err = db.Commit(ctx, banyan.RootShard, &mvcc.Command{
		Muts: append(sweep, mvcc.Mutation{Op: mvcc.Put, Key: tokenKey(hash), Value: value}),
	})
	return token, tokenID(hash), row, err
}

// sweepEvery is how long what has expired is kept, about.
const sweepEvery = 10 * time.Minute

// sweepTokens removes expired tokens and admissions. It runs on every node and
// acts only beside the root shard's leader.
func (n *Server) sweepTokens(ctx context.Context) error {
	for _ = pause.For(ctx, sweepEvery); ctx.Err() == nil; _ = pause.For(ctx, sweepEvery) {
		if leader, _ := n.host.Leader(banyan.RootShard); leader != n.file.Node {
			continue
		}
		if err := sweepExpired(ctx, n.router, time.Now()); err != nil {
			n.log.Debug("expired join tokens not removed, tried again", "error", err)
		}
	}
	return nil
}

func sweepExpired(ctx context.Context, db *route.Router, now time.Time) error {
	for {
		muts, err := expiredTokens(ctx, db, now)
		if banyan.IsKind(err, banyan.Exhausted) { // that all are valid is no error here
			return nil
		}
		if err != nil || len(muts) == 0 {
			return err
		}
		if _, err := db.Commit(ctx, banyan.RootShard, &mvcc.Command{Muts: muts}); err != nil {
			return err
		}
	}
}

func expiredTokens(ctx context.Context, db *route.Router, now time.Time) ([]mvcc.Mutation, error) {
	res, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{
		Key: []byte(tokenPrefix), End: mvcc.PrefixEnd([]byte(tokenPrefix)), Limit: banyan.TokensMax,
	})
	if err != nil {
		return nil, err
	}
	var muts []mvcc.Mutation
	for i := range res.Rows {
		var row tokenRow
		if json.Unmarshal(res.Rows[i].Value, &row) != nil || row.ExpireMs <= now.UnixMilli() {
			muts = append(muts, mvcc.Mutation{Op: mvcc.Delete, Key: res.Rows[i].Key})
		}
	}
	if len(res.Rows)-len(muts) >= banyan.TokensMax {
		return nil, banyan.Errorf(banyan.Exhausted, "%d join tokens are valid already (TokensMax): 'banyan token list' shows them, 'banyan token revoke ID' ends one", banyan.TokensMax)
	}
	return muts, nil
}

// tokenIDLength is how many digits of the hash of a token's secret name it.
const tokenIDLength = 12

func tokenID(hash string) string { return hash[:tokenIDLength] }

// validTokens gives the tokens that somebody could still join with, by their
// keys, the soonest to expire first.
func validTokens(ctx context.Context, db *route.Router, now time.Time) ([]*banyanv1.Token, map[string]mvcc.Row, error) {
	var tokens []*banyanv1.Token
	rows := map[string]mvcc.Row{}
	for from := []byte(tokenPrefix); ; {
		res, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: from, End: mvcc.PrefixEnd([]byte(tokenPrefix)), Limit: banyan.TokensMax})
		if err != nil {
			return nil, nil, err
		}
		for _, r := range res.Rows {
			hash := strings.TrimPrefix(string(r.Key), tokenPrefix)
			var row tokenRow
			if len(hash) != pki.TokenHashLength || json.Unmarshal(r.Value, &row) != nil || row.ExpireMs <= now.UnixMilli() {
				continue // an admission, or one that is swept soon
			}
			rows[hash] = r
			tokens = append(tokens, &banyanv1.Token{Id: tokenID(hash), CreateMs: row.CreateMs, ExpireMs: row.ExpireMs, Uses: uint32(row.Uses), MadeBy: row.By})
		}
		if !res.More {
			break
		}
		from = append(res.Rows[len(res.Rows)-1].Key, 0)
	}
	slices.SortStableFunc(tokens, func(a, b *banyanv1.Token) int { return cmp.Compare(a.ExpireMs, b.ExpireMs) })
	return tokens, rows, nil
}

// revokeToken ends the one token whose id begins so.
func revokeToken(ctx context.Context, db *route.Router, id string, now time.Time) (*banyanv1.Token, error) {
	id = strings.ToLower(id)
	if len(id) < tokenIDLength/3 || strings.Trim(id, "0123456789abcdef") != "" || len(id) > pki.TokenHashLength {
		return nil, banyan.Errorf(banyan.Invalid, "%q is no token's id: give the one that 'banyan token list' shows, or at least its first %d digits", id, tokenIDLength/3)
	}
	tokens, rows, err := validTokens(ctx, db, now)
	if err != nil {
		return nil, err
	}
	var key []byte
	for hash, row := range rows {
		if !strings.HasPrefix(hash, id) {
			continue
		}
		if key != nil {
			return nil, banyan.Errorf(banyan.Invalid, "several tokens have an id that begins with %s: give more of it", id)
		}
		key = row.Key
	}
	if key == nil {
		return nil, banyan.Errorf(banyan.NotFound, "no token with the id %s is valid: 'banyan token list' shows those that are", id)
	}
	if _, err := db.Commit(ctx, banyan.RootShard, &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Delete, Key: key}}}); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(tokens, func(t *banyanv1.Token) bool {
		return strings.HasPrefix(string(key), tokenPrefix+t.Id)
	})
	return tokens[at], nil
}

// newcomer is who asks to be let in.
type newcomer struct {
	token   string
	request banyan.RequestID // of all tries of one join
	key     string           // pki.RequestKey
	row     nodeRow          // without an id
}

// admit spends one use of the token and draws the new node's id, in one
// command, so that a token is never used more often than allowed and an id is
// never given twice. A join that is repeated spends nothing and gets the same.
// fits says whether the node may come in at what the cluster acts at, in that
// very command.
func admit(ctx context.Context, db *route.Router, who newcomer, fits func(acts uint32) error) (nodeRow, error) {
	secret, _, err := pki.ParseToken(who.token)
	if err != nil {
		return nodeRow{}, err
	}
	key := tokenKey(pki.HashToken(secret))
	again := admissionKey(key, who.request)
	for {
		if row, err := admitted(ctx, db, again, who); err != nil || row.ID != 0 {
			return row, err
		}
		tok, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: key})
		if err != nil {
			return nodeRow{}, err
		}
		spend, err := spendToken(key, tok.Rows, who.row.JoinMs)
		if err != nil {
			return nodeRow{}, err
		}
		next, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: []byte(nextNodeKey)})
		if err != nil {
			return nodeRow{}, err
		}
		if len(next.Rows) == 0 {
			return nodeRow{}, banyan.Errorf(banyan.Unavailable, "the cluster is still being created: try again in a second")
		}
		acts, err := readActs(ctx, db)
		if err == nil {
			err = fits(acts)
		}
		if err != nil {
			return nodeRow{}, err
		}
		id, err := strconv.ParseUint(string(next.Rows[0].Value), 10, 64)
		if err != nil {
			return nodeRow{}, banyan.Errorf(banyan.Corrupt, "row %s: %w", nextNodeKey, err)
		}
		node := who.row
		node.ID = banyan.NodeID(id)
		admission, err := json.Marshal(admissionRow{ExpireMs: node.JoinMs + repeatMax.Milliseconds(), Node: node.ID, Key: who.key})
		if err != nil {
			return nodeRow{}, err
		}
		out, err := db.Commit(ctx, banyan.RootShard, &mvcc.Command{
			Conds: []mvcc.Cond{
				{Key: again, Test: mvcc.Missing},
				{Key: key, Test: mvcc.ModEquals, Number: uint64(tok.Rows[0].Mod)},
				{Key: []byte(nextNodeKey), Test: mvcc.ModEquals, Number: uint64(next.Rows[0].Mod)},
				actsAt(acts),
			},
			Muts: []mvcc.Mutation{
				spend,
				{Op: mvcc.Put, Key: again, Value: admission},
				{Op: mvcc.Put, Key: []byte(nextNodeKey), Value: strconv.AppendUint(nil, id+1, 10)},
				{Op: mvcc.Put, Key: nodeKey(node.ID), Value: node.encode()},
			},
		})
		if err != nil || out.OK {
			return node, err
		}
	}
}

// checkToken says why admit would refuse a newcomer for its token, and spends
// nothing. again: this very join has been answered before.
func checkToken(ctx context.Context, db *route.Router, who newcomer) (again bool, err error) {
	secret, _, err := pki.ParseToken(who.token)
	if err != nil {
		return false, err
	}
	key := tokenKey(pki.HashToken(secret))
	if row, err := admitted(ctx, db, admissionKey(key, who.request), who); err != nil || row.ID != 0 {
		return true, err
	}
	tok, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: key})
	if err == nil {
		_, err = spendToken(key, tok.Rows, who.row.JoinMs)
	}
	return false, err
}

// admitted gives the row of the node that a join has let in before, none if it
// has not.
func admitted(ctx context.Context, db *route.Router, key []byte, who newcomer) (nodeRow, error) {
	res, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: key})
	if err != nil || len(res.Rows) == 0 {
		return nodeRow{}, err
	}
	var was admissionRow
	if err := json.Unmarshal(res.Rows[0].Value, &was); err != nil {
		return nodeRow{}, banyan.Errorf(banyan.Corrupt, "row %s: %w", key, err)
	}
	if was.Key != who.key {
		return nodeRow{}, banyan.Errorf(banyan.Unauthenticated, "request_id has let in the holder of another key: draw one for each join")
	}
	if was.ExpireMs <= who.row.JoinMs {
		return nodeRow{}, banyan.Errorf(banyan.Unauthenticated, "this join has let node %v in, too long ago to be repeated: make a new token with 'banyan token' on a member", was.Node)
	}
	return editNode(ctx, db, was.Node, func(*nodeRow) bool { return false })
}

// spendToken gives the mutation that takes one use off a token, or says why it
// cannot be used. All reasons read the same to somebody who guesses.
func spendToken(key []byte, rows []mvcc.Row, nowMs int64) (mvcc.Mutation, error) {
	refuse := func() (mvcc.Mutation, error) {
		return mvcc.Mutation{}, banyan.Errorf(banyan.Unauthenticated, "the join token is unknown, expired or used up: make a new one with 'banyan token' on a member")
	}
	if len(rows) == 0 {
		return refuse()
	}
	var row tokenRow
	if err := json.Unmarshal(rows[0].Value, &row); err != nil {
		return mvcc.Mutation{}, banyan.Errorf(banyan.Corrupt, "token row: %w", err)
	}
	if row.ExpireMs <= nowMs || row.Uses <= 0 {
		return refuse()
	}
	if row.Uses--; row.Uses == 0 {
		return mvcc.Mutation{Op: mvcc.Delete, Key: key}, nil
	}
	value, err := json.Marshal(row)
	return mvcc.Mutation{Op: mvcc.Put, Key: key, Value: value}, err
}

// clusterRow is the root shard's row c/cluster.
type clusterRow struct {
	ID          string `json:"id"`
	Replication int    `json:"replication"`
	CreateMs    int64  `json:"create_ms"`
}

// found writes the first rows of a new cluster; on every later start it
// changes nothing.
func found(ctx context.Context, db *route.Router, row clusterRow, m *shardmap.Map, self nodeRow) error {
	value, err := json.Marshal(row)
	if err != nil {
		return err
	}
	_, err = db.Commit(ctx, banyan.RootShard, &mvcc.Command{
		Conds: []mvcc.Cond{{Key: []byte(clusterKey), Test: mvcc.Missing}},
		Muts: []mvcc.Mutation{
			{Op: mvcc.Put, Key: []byte(clusterKey), Value: value},
			{Op: mvcc.Put, Key: []byte(shardMapKey), Value: m.Encode()},
			{Op: mvcc.Put, Key: []byte(nextNodeKey), Value: []byte("2")},
			{Op: mvcc.Put, Key: nodeKey(self.ID), Value: self.encode()},
		},
	})
	return err
}
