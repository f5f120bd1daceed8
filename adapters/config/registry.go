package config

import (
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The stores that can keep the registry.
const (
	StoreRaft     = "raft"
	StoreEtcd     = "etcd"
	StorePostgres = "postgres"
	StoreRedis    = "redis"
)

// Stores are all of them.
var Stores = []string{StoreRaft, StoreEtcd, StorePostgres, StoreRedis}

// Bounds and defaults of the settings of external stores.
const (
	MaxEndpoints   = 16
	MaxStoreText   = 2048 // bytes of a URL or an address
	MaxStorePrefix = 256  // bytes of a prefix, the default of the longest clusterId among them
	MaxStoreUser   = 128  // bytes of the name a server knows us by
	MaxRedisDB     = 1023

	// An external store is asked whether the registrar lives, where raft's replicas
	// tell each other: fewer beats spare it, and a longer silence allows for its delays.
	storeHeartbeat       = 200 * time.Millisecond
	storeElectionTimeout = time.Second
)

// Registry says where the registry is kept, the same on every node. Only the block
// of the chosen store may be written.
type Registry struct {
	// Store is raft (the nodes' own log), etcd, postgres or redis.
	Store    string   `koanf:"store"`
	Etcd     Etcd     `koanf:"etcd"`
	Postgres Postgres `koanf:"postgres"`
	Redis    Redis    `koanf:"redis"`
}

// External tells whether another server than the nodes keeps the registry.
func (r *Registry) External() bool { return r.Store != StoreRaft }

// Etcd names an etcd cluster.
type Etcd struct {
	Endpoints []string `koanf:"endpoints"` // http or https URLs, all of one kind
	// Prefix starts every key, with a slash at both ends. Not written:
	// /leadership/<clusterId>/.
	Prefix       string `koanf:"prefix"`
	Username     string `koanf:"username"`
	PasswordFile string `koanf:"passwordFile"` // holds the password in its first line
	// TLS is for https. Not written: the system's authorities, and no certificate.
	TLS TLS `koanf:"tls"`
}

// Postgres names a database.
type Postgres struct {
	// URL is postgres://user@host:port/database?options, without a password.
	URL          string `koanf:"url"`
	PasswordFile string `koanf:"passwordFile"` // holds the password in its first line
	// Schema holds all tables and functions. Not written: leadership.
	Schema string `koanf:"schema"`
}

// Redis names a single Redis server.
type Redis struct {
	Address      string `koanf:"address"` // host:port
	Username     string `koanf:"username"`
	PasswordFile string `koanf:"passwordFile"` // holds the password in its first line
	DB           int    `koanf:"db"`
	// Prefix starts every key, with a slash at both ends. Not written:
	// /leadership/<clusterId>/.
	Prefix string `koanf:"prefix"`
	// TLS with at least its ca turns TLS on.
	TLS TLS `koanf:"tls"`
}

// derive sets what follows from the chosen store and was not written itself.
func (r *Registry) derive(clusterID string, written func(key string) bool) {
	prefix := "/leadership/" + clusterID + "/"
	switch {
	case r.Store == StoreEtcd && !written("registry.etcd.prefix"):
		r.Etcd.Prefix = prefix
	case r.Store == StorePostgres && !written("registry.postgres.schema"):
		r.Postgres.Schema = "leadership"
	case r.Store == StoreRedis && !written("registry.redis.prefix"):
		r.Redis.Prefix = prefix
	}
}

// paths are the settings that name files.
func (r *Registry) paths() []*string {
	return []*string{
		&r.Etcd.PasswordFile, &r.Etcd.TLS.CA, &r.Etcd.TLS.Cert, &r.Etcd.TLS.Key, &r.Postgres.PasswordFile,
		&r.Redis.PasswordFile, &r.Redis.TLS.CA, &r.Redis.TLS.Cert, &r.Redis.TLS.Key,
	}
}

// strayBlocks are problems with blocks of stores that were not chosen: who wrote one
// believes that it counts.
func (c *Config) strayBlocks(doc *document, env *environment) (found Problems) {
	chosen := c.Registry.Store
	if !slices.Contains(Stores, chosen) {
		return nil // what was meant is not known
	}
	for _, field := range sortedFields(reflect.TypeFor[Registry]()) {
		key := rootKey + ".registry." + field
		name, inEnv := env.variableBelow(key)
		line, inFile := doc.lines[key]
		if field == "store" || field == chosen || (!inEnv && !inFile) {
			continue
		}
		p := Problem{Key: key, What: fmt.Sprintf("is written, but registry.store is %s", clip(chosen)),
			Want: "choose it by registry.store: " + field + ", or leave it out"}
		if inFile {
			p.Line = line
		} else {
			p.Env = name
		}
		found = append(found, p)
	}
	return found
}

func (c *Config) judgeRegistry(j *judge) {
	switch r := &c.Registry; r.Store {
	case StoreRaft:
	case StoreEtcd:
		r.Etcd.judge(j)
	case StorePostgres:
		r.Postgres.judge(j)
	case StoreRedis:
		r.Redis.judge(j)
	default:
		j.oneOf("registry.store", r.Store, Stores...)
	}
}

func (e *Etcd) judge(j *judge) {
	const key = "registry.etcd"
	if len(e.Endpoints) == 0 || len(e.Endpoints) > MaxEndpoints {
		j.refuse(key+".endpoints", fmt.Sprintf("%d endpoints", len(e.Endpoints)), fmt.Sprintf("1 to %d are right, like [http://127.0.0.1:2379]", MaxEndpoints))
	}
	schemes := map[string]bool{}
	for i, endpoint := range e.Endpoints {
		schemes[j.endpoint(fmt.Sprintf("%s.endpoints[%d]", key, i), endpoint)] = true
	}
	switch {
	case schemes["http"] && schemes["https"]:
		j.refuse(key+".endpoints", "http and https are mixed", "write all of one kind")
	case schemes["http"] && e.TLS != TLS{}:
		j.refuse(key+".tls", "is written, but the endpoints are http", "write https:// endpoints, or leave tls out")
	}
	j.storeUser(key, e.Username, e.PasswordFile, true)
	j.storeTLS(key+".tls", e.TLS)
	j.prefix(key+".prefix", e.Prefix)
}

// endpoint checks a URL of etcd and returns its scheme.
func (j *judge) endpoint(key, text string) string {
	u, err := url.Parse(text)
	switch {
	case len(text) > MaxStoreText || err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Port() == "" || u.Hostname() == "":
		j.refuse(key, fmt.Sprintf("%q is no endpoint", clip(text)), "write http:// or https://, host and port, like http://127.0.0.1:2379")
		return ""
	case u.User != nil:
		j.refuse(key, "holds a user", "write username and passwordFile instead")
	case strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		j.refuse(key, fmt.Sprintf("%q has something behind the port", clip(text)), "end it with the port")
	}
	return u.Scheme
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

func (p *Postgres) judge(j *judge) {
	const key = "registry.postgres"
	if j.required(key+".url", p.URL, "write postgres://user@host:5432/database") {
		j.databaseURL(key+".url", p.URL)
	}
	if !schemaName.MatchString(p.Schema) || strings.HasPrefix(p.Schema, "pg_") {
		j.refuse(key+".schema", fmt.Sprintf("%q is no name of a schema", clip(p.Schema)), "1 to 40 of a-z, 0-9 and '_', beginning with neither a digit nor pg_, are right")
	}
}

// databaseURL never repeats what was written: it may hold a password.
func (j *judge) databaseURL(key, text string) {
	const want = "write postgres://user@host:5432/database?options"
	u, err := url.Parse(text)
	if len(text) > MaxStoreText || err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		j.refuse(key, "is no URL of a database", want)
		return
	}
	options, err := url.ParseQuery(u.RawQuery)
	if _, written := u.User.Password(); written || options.Has("password") || options.Has("sslpassword") {
		j.refuse(key, "holds a password", "write it into a file of its own and name that by passwordFile")
	}
	if err != nil || (u.Host == "" && options.Get("host") == "") || len(u.Path) < 2 {
		j.refuse(key, "lacks host, database or proper options", want)
	}
}

func (r *Redis) judge(j *judge) {
	const key = "registry.redis"
	if j.required(key+".address", r.Address, "write host:port, like 127.0.0.1:6379") {
		j.address(key+".address", r.Address, false)
	}
	j.storeUser(key, r.Username, r.PasswordFile, false)
	j.number(key+".db", int64(r.DB), 0, MaxRedisDB)
	j.storeTLS(key+".tls", r.TLS)
	if r.TLS != (TLS{}) && r.TLS.CA == "" {
		j.refuse(key+".tls.ca", "is missing", "name the PEM file of the authority that signed the server's certificate")
	}
	j.prefix(key+".prefix", r.Prefix)
}

// storeUser checks how we log in. named: a password alone says too little.
func (j *judge) storeUser(key, user, passwordFile string, named bool) {
	switch {
	case len(user) > MaxStoreUser:
		j.refuse(key+".username", fmt.Sprintf("%d bytes", len(user)), fmt.Sprintf("at most %d are right", MaxStoreUser))
	case user != "" && passwordFile == "":
		j.refuse(key+".passwordFile", "is missing", "name the file that holds the password of username")
	case user == "" && passwordFile != "" && named:
		j.refuse(key+".username", "is missing", "name the user of passwordFile")
	}
}

func (j *judge) storeTLS(key string, t TLS) {
	if (t.Cert == "") != (t.Key == "") {
		j.refuse(key, "has one of cert and key", "write both, or neither")
	}
}

var storePrefix = regexp.MustCompile(`^/([A-Za-z0-9._-]+/)+$`)

func (j *judge) prefix(key, prefix string) {
	if len(prefix) > MaxStorePrefix || !storePrefix.MatchString(prefix) {
		j.refuse(key, fmt.Sprintf("%q is no prefix", clip(prefix)),
			fmt.Sprintf("at most %d letters, digits, dots, dashes and underscores between slashes, like /leadership/mesh/, are right", MaxStorePrefix))
	}
}
