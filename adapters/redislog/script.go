package redislog

import (
	"context"
	"embed"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

//go:embed lua/*.lua
var lua embed.FS

// The scripts, one for each call. A server that has forgotten one is sent it anew.
var (
	appendScript     = script("append")
	confirmScript    = script("confirm")
	fetchScript      = script("fetch")
	publishScript    = script("publish")
	uploadScript     = script("upload")
	checkpointScript = script("checkpoint")
	attestScript     = script("attest")
	closeScript      = script("close")
	replaceScript    = script("replace")
	trailScript      = script("trail")
)

func script(name string) *redis.Script {
	return redis.NewScript(source("prelude") + source(name))
}

func source(name string) string {
	text, err := lua.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // it is part of the program
	}
	return string(text)
}

// keys are the names of all keys, in the order in which the scripts take them.
type keys struct {
	lead     string // hash: the lead record, numbers as 20 digits
	entries  string // stream: one item for each entry, its id is <index>-0
	audit    string // stream: one item for each audit record, its id is <seq>-0
	floor    string // string: the newest audit record that the cap dropped
	attested string // hash: the round and the identity that a node attested last, by node
	snapshot string // hash: the snapshot in pieces, and what it is
	upload   string // hash: a snapshot that is not whole yet
}

func keysUnder(prefix string) keys {
	return keys{
		lead: prefix + "lead", entries: prefix + "entries", audit: prefix + "audit", floor: prefix + "audit-floor",
		attested: prefix + "attested", snapshot: prefix + "snapshot", upload: prefix + "upload",
	}
}

func (k keys) list() []string {
	return []string{k.lead, k.entries, k.audit, k.floor, k.attested, k.snapshot, k.upload}
}

// run runs one script, and returns its reply with status, text, identity and lead
// record filled in, and what else it said.
func (s *Store) run(ctx context.Context, sc *redis.Script, args ...any) (*core.StoreReply, []any, error) {
	args = append([]any{digits(uint64(core.StoreSchema)), s.options.ClusterID}, args...)
	answer, err := sc.Run(ctx, s.calls, s.keys.list(), args...).Slice()
	if err != nil {
		return nil, nil, s.failure(err)
	}
	texts := decoder{place: "the reply of the server"}
	status, text := texts.at(answer, 0), texts.at(answer, 1)
	if texts.err == nil && status == "unfit" {
		return nil, nil, unfitError(text)
	}
	r := &core.StoreReply{Text: text, Identity: texts.at(answer, 2), Lead: s.decodeLead(&texts, texts.list(answer, 3))}
	switch status {
	case "ok":
		r.Status = core.StoreOK
	case "refused":
		r.Status = core.StoreRefused
	case "failed":
		return nil, nil, failedError(text)
	default:
		texts.fail("an unknown status %q", status)
	}
	if texts.err != nil {
		return nil, nil, texts.err
	}
	return r, answer[4:], nil
}

// digits is how a number lies in the store: as 20 digits, so that the order of texts
// is that of numbers.
func digits(n uint64) string { return fmt.Sprintf("%020d", n) }

// item is the id in a stream of what has the number n.
func item(n uint64) string { return strconv.FormatUint(n, 10) + "-0" }

// leadFields are the fields of the lead record in the order of the scripts.
func leadFields(l *logpb.Lead) []any {
	return []any{
		digits(uint64(l.GetSchema())), l.GetClusterId(), digits(l.GetTerm()), digits(l.GetHolder()), digits(l.GetLast()),
		l.GetChain(), l.GetAppendId(), digits(l.GetBeat()), l.GetIdentity(), digits(l.GetGeneration()), l.GetClosed(),
		digits(l.GetRound()),
	}
}

func (s *Store) decodeLead(d *decoder, flat []any) *logpb.Lead {
	if len(flat) == 0 || d.err != nil {
		return nil
	}
	d = d.in("the key " + s.keys.lead)
	fields := map[string]string{}
	for i := 0; i+1 < len(flat); i += 2 {
		fields[d.at(flat, i)] = d.at(flat, i+1)
	}
	l := &logpb.Lead{
		Schema: uint32(d.number(fields["schema"])), ClusterId: fields["cluster_id"], Term: d.number(fields["term"]),
		Holder: d.number(fields["holder"]), Last: d.number(fields["last"]), Chain: []byte(fields["chain"]),
		AppendId: []byte(fields["append_id"]), Beat: d.number(fields["beat"]), Identity: fields["identity"],
		Generation: d.number(fields["generation"]), Closed: fields["closed"], Round: d.number(fields["round"]),
	}
	return l
}
