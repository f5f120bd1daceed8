package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// chosen is a valid block for each store, as one line under registry.
var chosen = map[string]string{
	StoreRaft:     "{store: raft}",
	StoreEtcd:     "{store: etcd, etcd: {endpoints: ['http://127.0.0.1:2379', 'http://127.0.0.1:2389/']}}",
	StorePostgres: "{store: postgres, postgres: {url: 'postgres://mesh@127.0.0.1:5432/mesh?sslmode=disable'}}",
	StoreRedis:    "{store: redis, redis: {address: '127.0.0.1:6379'}}",
}

func registry(text string) string { return least + "    registry: " + text + "\n" }

// The defaults with an external store keep the whole failover within five seconds,
// with any number of nodes: the store decides, not a majority of them.
func TestEveryStoreHasDefaults(t *testing.T) {
	for store, text := range chosen {
		for n := 1; n <= 9; n++ {
			c, problems := load(registry(text) + "    peers: [" + manyPeers(n) + "]\n")
			if problems != "" {
				t.Fatalf("%s with %d nodes: %s", store, n, problems)
			}
			heartbeat, election := 100*time.Millisecond, 600*time.Millisecond
			if store != StoreRaft {
				heartbeat, election = 200*time.Millisecond, time.Second
			}
			if c.HeartbeatInterval != heartbeat || c.ElectionTimeout != election {
				t.Errorf("%s: heartbeat %v, election timeout %v", store, c.HeartbeatInterval, c.ElectionTimeout)
			}
			if bound := max(c.failoverBound(), c.changeoverBound()); bound >= 5*time.Second {
				t.Errorf("%s: failover may take %v", store, bound)
			}
			if c.Registry.External() != (store != StoreRaft) {
				t.Errorf("%s: external is %t", store, c.Registry.External())
			}
		}
	}
	etcd, _ := load(registry(chosen[StoreEtcd]))
	postgres, _ := load(registry(chosen[StorePostgres]))
	redis, _ := load(registry(chosen[StoreRedis]))
	if etcd.Registry.Etcd.Prefix != "/leadership/demo/" || postgres.Registry.Postgres.Schema != "leadership" || redis.Registry.Redis.Prefix != "/leadership/demo/" {
		t.Errorf("prefixes %+v %+v %+v", etcd.Registry, postgres.Registry, redis.Registry)
	}
}

// What the example shows of each store, uncommented, is a valid block.
func TestExampleBlocksAreValid(t *testing.T) {
	data, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?m)^      # (etcd|postgres|redis):.*\n(?:      #   .*\n)+`)
	comment := regexp.MustCompile(`(?m)^      # `)
	shown := block.FindAllStringSubmatch(string(data), -1)
	if len(shown) != 3 {
		t.Fatalf("%d blocks", len(shown))
	}
	for _, b := range shown {
		text := strings.Replace(string(data), b[0], comment.ReplaceAllString(b[0], "      "), 1)
		text = strings.Replace(text, "store: raft", "store: "+b[1], 1)
		text = strings.NewReplacer("electionTimeout: 600ms", "electionTimeout: 1s", "heartbeatInterval: 100ms", "heartbeatInterval: 200ms").Replace(text)
		c, problems := load(text)
		if problems != "" || c.Registry.Store != b[1] {
			t.Errorf("%s: %s", b[1], problems)
			continue
		}
		// The defaults it shows are the defaults.
		short, _ := load(strings.Replace(least, "demo", "mesh-demo", 1) + "    registry: " + chosen[b[1]] + "\n")
		if c.Registry.Etcd.Prefix != short.Registry.Etcd.Prefix || c.Registry.Postgres.Schema != short.Registry.Postgres.Schema ||
			c.Registry.Redis.Prefix != short.Registry.Redis.Prefix || c.ElectionTimeout != short.ElectionTimeout || c.HeartbeatInterval != short.HeartbeatInterval {
			t.Errorf("%s: the example shows %+v, the defaults are %+v", b[1], c.Registry, short.Registry)
		}
	}
}

func TestWrittenTimesStay(t *testing.T) {
	c, problems := load(registry(chosen[StoreEtcd])+"    electionTimeout: 900ms\n", "MESH_LEADERSHIP__HEARTBEATINTERVAL=150ms")
	if problems != "" || c.ElectionTimeout != 900*time.Millisecond || c.HeartbeatInterval != 150*time.Millisecond {
		t.Errorf("%v and %v; %s", c.ElectionTimeout, c.HeartbeatInterval, problems)
	}
}

// A store written by the environment alone is as good as one in the file.
func TestStoreFromTheEnvironment(t *testing.T) {
	c, problems := load(least, "MESH_LEADERSHIP__REGISTRY__STORE=etcd", "MESH_LEADERSHIP__REGISTRY__ETCD__ENDPOINTS=[https://a:2379, https://b:2379]",
		"MESH_LEADERSHIP__REGISTRY__ETCD__TLS__CA=ca.pem", "MESH_LEADERSHIP__REGISTRY__ETCD__USERNAME=mesh", "MESH_LEADERSHIP__REGISTRY__ETCD__PASSWORDFILE=secret",
		"MESH_LEADERSHIP__REGISTRY__ETCD__PREFIX=/other/")
	if problems != "" {
		t.Fatal(problems)
	}
	if e := c.Registry.Etcd; len(e.Endpoints) != 2 || e.TLS.CA != "ca.pem" || e.Username != "mesh" || e.Prefix != "/other/" {
		t.Errorf("%+v", e)
	}
	c.anchorPaths("/etc/mesh")
	if e := c.Registry.Etcd; e.PasswordFile != "/etc/mesh/secret" || e.TLS.CA != "/etc/mesh/ca.pem" || e.TLS.Key != "" {
		t.Errorf("anchored to %+v", e)
	}
}

// Each case is the registry's block, variables besides, and what must be said of them.
func TestRegistryProblems(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for name, tc := range map[string]struct {
		text    string
		environ []string
		want    string
	}{
		"unknown store":         {"{store: raft2}", nil, `node.yaml:8: mesh.leadership.registry.store: "raft2" is unknown; one of raft, etcd, postgres, redis`},
		"unknown key":           {"{store: etcd, etcd: {endpoints: ['http://h:1'], prefixes: a}}", nil, "registry.etcd.prefixes: unknown key; did you mean prefix?"},
		"block as text":         {"{store: postgres, postgres: text}", nil, `node.yaml:8: mesh.leadership.registry.postgres: "text" does not fit; write a mapping with keys like passwordFile, schema, url`},
		"stray block":           {"{store: redis, redis: {address: 'h:1'}, postgres: {schema: x}}", nil, "node.yaml:8: mesh.leadership.registry.postgres: is written, but registry.store is redis; choose it by registry.store: postgres, or leave it out"},
		"empty stray block":     {"{store: raft, etcd: {}}", nil, "registry.etcd: is written, but registry.store is raft"},
		"block without store":   {"{etcd: {endpoints: ['http://h:1']}}", nil, "registry.etcd: is written, but registry.store is raft; choose it by registry.store: etcd"},
		"stray variable":        {"{store: raft}", []string{"MESH_LEADERSHIP__REGISTRY__REDIS__TLS__CA=x"}, "environment MESH_LEADERSHIP__REGISTRY__REDIS__TLS__CA: mesh.leadership.registry.redis: is written, but registry.store is raft"},
		"no endpoints":          {"{store: etcd}", nil, "node.yaml:8: mesh.leadership.registry.etcd.endpoints: 0 endpoints; 1 to 16 are right"},
		"many endpoints":        {"{store: etcd, etcd: {endpoints: [" + strings.Repeat("'http://h:1',", 17) + "]}}", nil, "17 endpoints; 1 to 16"},
		"endpoint":              {"{store: etcd, etcd: {endpoints: ['h:2379']}}", nil, `registry.etcd.endpoints[0]: "h:2379" is no endpoint; write http:// or https://, host and port`},
		"endpoint without port": {"{store: etcd, etcd: {endpoints: ['http://h']}}", nil, `"http://h" is no endpoint`},
		"endpoint with path":    {"{store: etcd, etcd: {endpoints: ['http://h:1/v3']}}", nil, "has something behind the port"},
		"endpoint with user":    {"{store: etcd, etcd: {endpoints: ['http://u@h:1']}}", nil, "endpoints[0]: holds a user; write username and passwordFile"},
		"long endpoint":         {"{store: etcd, etcd: {endpoints: ['http://h:1/" + long + "']}}", nil, "is no endpoint"},
		"mixed endpoints":       {"{store: etcd, etcd: {endpoints: ['http://h:1', 'https://h:2']}}", nil, "endpoints: http and https are mixed"},
		"tls without https":     {"{store: etcd, etcd: {endpoints: ['http://h:1'], tls: {ca: x}}}", nil, "registry.etcd.tls: is written, but the endpoints are http"},
		"half a pair":           {"{store: etcd, etcd: {endpoints: ['https://h:1'], tls: {cert: x}}}", nil, "registry.etcd.tls: has one of cert and key; write both, or neither"},
		"user alone":            {"{store: etcd, etcd: {endpoints: ['http://h:1'], username: u}}", nil, "registry.etcd.passwordFile: is missing"},
		"password alone":        {"{store: etcd, etcd: {endpoints: ['http://h:1'], passwordFile: p}}", nil, "registry.etcd.username: is missing"},
		"long user":             {"{store: redis, redis: {address: 'h:1', username: " + long + "}}", nil, "registry.redis.username: 3000 bytes; at most 128"},
		"prefix":                {"{store: etcd, etcd: {endpoints: ['http://h:1'], prefix: mesh}}", nil, `registry.etcd.prefix: "mesh" is no prefix`},
		"everything":            {"{store: etcd, etcd: {endpoints: ['http://h:1'], prefix: /}}", nil, `registry.etcd.prefix: "/" is no prefix`},
		"no prefix":             {"{store: redis, redis: {address: 'h:1', prefix: ''}}", nil, `registry.redis.prefix: "" is no prefix`},
		"long prefix":           {"{store: redis, redis: {address: 'h:1', prefix: /" + long + "/}}", nil, "is no prefix"},
		"no url":                {"{store: postgres}", nil, "node.yaml:8: mesh.leadership.registry.postgres.url: is missing; write postgres://"},
		"no url of postgres":    {"{store: postgres, postgres: {url: 'http://h/db'}}", nil, "registry.postgres.url: is no URL of a database; write postgres://user@host:5432/database"},
		"no database":           {"{store: postgres, postgres: {url: 'postgres://h'}}", nil, "url: lacks host, database or proper options"},
		"no host":               {"{store: postgres, postgres: {url: 'postgres:///db'}}", nil, "url: lacks host, database"},
		"long url":              {"{store: postgres, postgres: {url: 'postgres://h/" + long + "'}}", nil, "url: is no URL of a database"},
		"schema":                {"{store: postgres, postgres: {url: 'postgres://h/db', schema: 'A-b'}}", nil, `registry.postgres.schema: "A-b" is no name of a schema`},
		"schema of postgres":    {"{store: postgres, postgres: {url: 'postgres://h/db', schema: pg_x}}", nil, `"pg_x" is no name of a schema`},
		"no address":            {"{store: redis}", nil, "registry.redis.address: is missing; write host:port"},
		"address":               {"{store: redis, redis: {address: 'redis://h:1'}}", nil, `registry.redis.address: "redis://h:1" is no address`},
		"db":                    {"{store: redis, redis: {address: 'h:1', db: -1}}", nil, "registry.redis.db: -1 is out of bounds; from 0 to 1023 is right"},
		"tls without authority": {"{store: redis, redis: {address: 'h:1', tls: {cert: a, key: b}}}", nil, "registry.redis.tls.ca: is missing"},
		"heartbeat too slow":    {chosen[StoreRedis] + "\n    electionTimeout: 600ms", nil, "node.yaml:2: mesh.leadership.heartbeatInterval: 200ms leaves an electionTimeout of 600ms no room"},
		"window too short":      {chosen[StoreRedis] + "\n    maxElectionWindow: 4s", nil, "maxElectionWindow: 4s is shorter than the 4.15s that failover may take: a leaseDuration of 2s stretched by clockDrift, two election timeouts of 1s, an assumed commit of 100ms"},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := load(registry(tc.text), tc.environ...)
			if !strings.Contains(got, tc.want) || strings.Contains(got, "\n") {
				t.Errorf("have\n%s\nwant one problem that contains\n%s", got, tc.want)
			}
		})
	}
}

// Whatever is wrong around it, a password is never repeated.
func TestPasswordsAreNotRepeated(t *testing.T) {
	const secret = "hunter2"
	for i, text := range []string{
		"{store: postgres, postgres: {url: 'postgres://u:hunter2@h/db'}}",
		"{store: postgres, postgres: {url: 'postgres://u:hunter2@h'}}",
		"{store: postgres, postgres: {url: 'postgres://u:hunter2@h:x y/%%'}}",
		"{store: postgres, postgres: {url: 'postgres://h/db?password=hunter2'}}",
		"{store: postgres, postgres: {url: 'host=h user=u password=hunter2'}}",
		"{store: postgres, postgres: 'postgres://u:hunter2@h/db'}",
		"{store: postgres, postgres: 'user=u password = hunter2'}",
		"'postgres://u:hunter2@h/db'",
		"{store: postgres, postgres: {url: 'postgres://h/db', password: hunter2}}",
		"{store: etcd, etcd: {endpoints: ['http://u:hunter2@h:1']}}",
		"{store: etcd, etcd: {endpoints: ['h://u:hunter2@h']}}",
		"{store: etcd, etcd: {endpoints: 'http://u:hunter2@h:1'}}",
		"{store: redis, redis: {address: 'redis://:hunter2@h:1'}}",
		"{store: redis, redis: {address: 'redis://:hun/ter2@h:1', prefix: 'redis://u:hunter2@h'}}",
		"{store: 'redis://:hunter2@h:1'}",
	} {
		_, got := load(registry(text))
		if got == "" || strings.Contains(got, secret) || strings.Contains(got, "ter2") {
			t.Errorf("%d: %s", i, got)
		}
	}
	for _, setting := range []string{"POSTGRES__URL=postgres://u:hunter2@h/db", "POSTGRES__PASSWORD=hunter2", "POSTGRES=u:hunter2@h", "REDIS__PASSWORD=hunter2"} {
		_, got := load(registry("{store: raft}"), "MESH_LEADERSHIP__REGISTRY__"+setting)
		if got == "" || strings.Contains(got, secret) {
			t.Errorf("%s: %s", setting, got)
		}
	}
}
