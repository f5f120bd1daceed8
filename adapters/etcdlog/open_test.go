package etcdlog

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// refused opens a store, which must fail and say each of want.
func refused(t *testing.T, o Options, want ...string) {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err == nil {
		s.Close() //nolint:errcheck // it should not have been opened
		t.Fatalf("opened, want refused: %v", want)
	}
	// Without a connection it cannot be told whether the next attempt will fail too.
	var u interface{ Unfit() bool }
	if unfit := errors.As(err, &u) && u.Unfit(); unfit == strings.Contains(err.Error(), "if etcd listens there") {
		t.Errorf("unfit: %v, of %v", unfit, err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("refused with %q, which does not say %q", err, w)
		}
	}
}

func TestOptionsNameEveryProblem(t *testing.T) {
	refused(t, Options{Endpoints: []string{"http://a:1", "https://b:2", "c:3", "https://u@d:4", "https://e:5/v3"}, Prefix: "/x", Username: "u", TLS: &tls.Config{}, AuditRecords: -1},
		"Endpoints: http and https", "Endpoints[2]", "Endpoints[3]", "Endpoints[4]", "Prefix: ", "Username: ", "TLS: ", "ClusterID: ", "AuditRecords: ")
	refused(t, Options{Prefix: "/", ClusterID: strings.Repeat("x", 300), AuditRecords: 1 << 30}, "Endpoints: 0", "Prefix: ", "ClusterID: has 300", "AuditRecords: ")
	good := options("a:1", "b:2")
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

func TestOpenWithoutServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	proxy, err := storeserver.NewProxy("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	proxy.Close() // its port is free now
	_, err = Open(ctx, options(proxy.Address()))
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("no server: %v, want that the connection was refused", err)
	}
	if errors.As(err, new(unfitError)) {
		t.Errorf("no server is said to be one that will never be there: %v", err)
	}
}

// TestUnfit changes single keys of a log, and wants each change to be found, named,
// and said what would be right.
func TestUnfit(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		raw := rawClient(t, server)
		k := keys{testPrefix}
		for name, c := range map[string]struct {
			key   string
			value *string // nil: the key is deleted
			at    string  // open, or the call that finds it
			want  string
		}{
			"foreign key":        {testPrefix + "foreign", ptr("x"), "open", "choose a prefix with nothing below it"},
			"foreign in head":    {k.head("zebra"), ptr("x"), "open", "choose a prefix"},
			"foreign entry":      {testPrefix + "entry/first", ptr("x"), "fetch", "16 hexadecimal digits"},
			"foreign lead":       {k.head(nameLead), ptr("hello"), "open", "nothing but this log"},
			"other cluster":      {k.head(nameLead), leadText(t, &core.Lead{ClusterId: "other"}), "open", `is of cluster "other"`},
			"newer schema":       {k.head(nameLead), leadText(t, &core.Lead{ClusterId: testCluster, Schema: core.StoreSchema + 1}), "open", "use a newer one"},
			"lead missing":       {k.head(nameLead), nil, "open", "is missing"},
			"guard missing":      {k.head(nameGuard), nil, "open", "by the lead record"},
			"guard changed":      {k.head(nameGuard), ptr("term=1 last=1"), "confirm", "by the lead record"},
			"last changed":       {k.head(nameLast), ptr(number(8)), "confirm", "by the lead record"},
			"foreign jump":       {testPrefix + "jump/x", ptr("0"), "trail", "16 hexadecimal digits"},
			"jump no number":     {k.jump(3), ptr("x"), "trail", "a decimal number is right"},
			"jump from nowhere":  {k.jump(3), ptr("1"), "trail", "those between are missing"},
			"term changed":       {k.head(nameTerm), ptr("7"), "confirm", `"1" is right`},
			"beat missing":       {k.head(nameBeat), nil, "confirm", "is missing"},
			"beat changed":       {k.head(nameBeat), ptr("x"), "confirm", "a decimal number is right"},
			"published changed":  {k.head(namePublished), ptr("-1"), "confirm", "a decimal number is right"},
			"pointer changed":    {k.head(nameSnapshot), ptr("{}"), "confirm", "are right"},
			"pointer no JSON":    {k.head(nameSnapshot), ptr("-"), "confirm", "no pointer to a snapshot"},
			"pointer missing":    {k.head(nameSnapshot), nil, "fetch", "oldest entry kept is 5"},
			"entry changed":      {k.entry(6), ptr("\xff"), "fetch", "is not entry 6"},
			"entry exchanged":    {k.entry(6), entryText(t, 7), "fetch", "is not entry 6"},
			"gap":                {k.entry(6), nil, "fetch", k.entry(6) + ": is missing"},
			"newest missing":     {k.entry(9), nil, "fetch", k.entry(9) + ": is missing"},
			"oldest missing":     {k.entry(5), nil, "fetch", "oldest entry kept is 6"},
			"entry behind":       {k.entry(10), entryText(t, 10), "fetch", "lies beyond the lead record"},
			"chunk missing":      {"chunk", nil, "fetch", "is missing"},
			"chunk changed":      {"chunk", ptr("\x01\x02\x03"), "fetch", "is right: restore"},
			"chunk other size":   {"chunk", ptr("x"), "fetch", "3 are right"},
			"record missing":     {k.audit(2), nil, "trail", "those between are missing"},
			"last missing":       {k.audit(3), nil, "trail", k.audit(3) + ": is missing"},
			"record changed":     {k.audit(2), ptr("\xff"), "trail", "is not audit record 2"},
			"record behind":      {k.audit(4), ptr("\x08\x04"), "trail", "lies beyond"},
			"attest not by node": {testPrefix + "attest/ID/x", ptr(""), "fetch", "16 hexadecimal digits"},
			"attest no round":    {testPrefix + "attest/ID/0000000000000001", ptr("attested"), "fetch", "the round as a decimal number"},
		} {
			t.Run(name, func(t *testing.T) {
				if _, err := raw.Delete(t.Context(), testPrefix, clientv3.WithPrefix()); err != nil {
					t.Fatal(err)
				}
				o := options(server.Address())
				s := open(t, o)
				fill(t, s)
				pointer := do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}})
				c.key = strings.Replace(c.key, "/ID/", "/"+pointer.Identity+"/", 1)
				if c.key == "chunk" {
					got, err := raw.Get(t.Context(), testPrefix+"chunk/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
					if err != nil || len(got.Kvs) != 1 {
						t.Fatal(err, got)
					}
					c.key = string(got.Kvs[0].Key)
				}
				change(t, raw, c.key, c.value)
				if c.at == "open" {
					refused(t, o, c.want)
					return
				}
				reply := do(t, s, core.StoreUnfit, probe(c.at))
				if !strings.Contains(reply.Text, c.want) || !strings.Contains(reply.Text, "key "+testPrefix) {
					t.Errorf("text %q does not name the key and %q", reply.Text, c.want)
				}
			})
		}
	})
}

func probe(call string) *core.StoreCall {
	switch call {
	case "fetch":
		return &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 1 << 20}}
	case "trail":
		return &core.StoreCall{Trail: &core.StoreTrail{Limit: 100}}
	}
	return &core.StoreCall{Confirm: &core.StoreConfirm{}}
}

func change(t *testing.T, raw *clientv3.Client, key string, value *string) {
	t.Helper()
	var err error
	if value == nil {
		_, err = raw.Delete(t.Context(), key)
	} else {
		_, err = raw.Put(t.Context(), key, *value)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func ptr(s string) *string { return &s }

func leadText(t *testing.T, l *core.Lead) *string {
	t.Helper()
	b, err := proto.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return ptr(string(b))
}

func entryText(t *testing.T, index uint64) *string {
	t.Helper()
	b, err := proto.Marshal(&core.StoredEntry{Index: index, Term: 1})
	if err != nil {
		t.Fatal(err)
	}
	return ptr(string(b))
}

// fill writes entries 1 to 9 of term 1, a snapshot up to 4, behind which entries are
// kept, and audit records 1 to 3.
func fill(t *testing.T, s *Store) {
	t.Helper()
	for i := range 9 {
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, []byte{byte(i)})})
	}
	do(t, s, core.StoreOK, &core.StoreCall{Checkpoint: &core.StoreCheckpoint{
		Term: 1, Snapshot: &core.StoredSnapshot{Index: 4, Term: 1, Data: []byte("\x01\x02\x04")}, TrimTo: 4,
	}})
	do(t, s, core.StoreOK, &core.StoreCall{Publish: &core.StorePublish{Term: 1, Records: []*core.Record{{Seq: 1}, {Seq: 2}, {Seq: 3}}}})
}

// nextAppend is one behind where the log stands, of that term.
func nextAppend(t *testing.T, s *Store, term uint64, datas ...[]byte) *core.StoreAppend {
	t.Helper()
	r := do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}})
	return appendAt(r.Identity, core.Position{Term: r.Lead.GetTerm(), Last: r.Lead.GetLast()}, term, datas...)
}

func appendAt(identity string, at core.Position, term uint64, datas ...[]byte) *core.StoreAppend {
	a := &core.StoreAppend{Guard: at, Lead: &core.Lead{
		Schema: core.StoreSchema, ClusterId: testCluster, Identity: identity, Term: term, Holder: 1, Last: at.Last,
	}}
	for _, data := range datas {
		a.Lead.Last++
		a.Entries = append(a.Entries, &core.StoredEntry{Index: a.Lead.Last, Term: term, Data: data})
	}
	a.Lead.AppendId = []byte{byte(term), byte(a.Lead.Last >> 8), byte(a.Lead.Last)}
	return a
}
