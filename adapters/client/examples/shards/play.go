package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// play is a run of the service on a cluster, in which leaders are killed and paused.
type play struct {
	dir       string
	cluster   manifest
	authority *transport.Authority // of the cluster, to issue the members' certificates
	namespace string
	members   int
	shards    []string // scopes
	every     time.Duration
	length    time.Duration
	rate      time.Duration // between two deeds
	screen    screen

	address  string // of the resource
	resource *process
	actors   []*actor
	deeds    *journal
	back     time.Time // when the resource is started again; zero: it runs
	done     int       // deeds so far
	ledger   tail[assignment]
	refusals tail[refusal]
	scores   scores
}

// manifest is what a cluster's cluster.json says.
type manifest struct {
	Nodes []struct {
		ID   string `json:"id"`
		HTTP string `json:"http"`
		GRPC string `json:"grpc"`
	} `json:"nodes"`
	CA      string `json:"ca"`
	Clients map[string]struct {
		Cert string `json:"cert"`
		Key  string `json:"key"`
	} `json:"clients"`
}

func readManifest(path string) (m manifest, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	if len(m.Nodes) == 0 || m.Clients["admin"].Cert == "" {
		return m, fmt.Errorf("%s: names no nodes, or no certificate of role admin", path)
	}
	return m, nil
}

const (
	ttl        = core.DefaultTTL
	pauseFor   = ttl * 2                         // longer than any lease
	deadFor    = 3 * time.Second                 // until a killed member is started again
	lastDeeds  = 2*successorWithin - time.Second // before the end there are none
	settleTime = 20 * time.Second
)

// guilty is a play with problems.
type guilty struct{ v *verdict }

func (g *guilty) Error() string { return strings.Join(g.v.Problems, "\n") }

// runPlay plays on a cluster that runs, without a screen.
func runPlay(ctx context.Context, args []string) error {
	flags := newFlags("play")
	path := flags.String("cluster", ".dev/cluster.json", "of the cluster, as leaderd dev writes it")
	ca := flags.String("ca-key", "", "PEM file of the key of the cluster's authority")
	dir := flags.String("dir", "", "an empty folder for everything that is written")
	length := flags.Duration("for", 30*time.Second, "how long to play")
	members := flags.Int("members", 12, "members; at least 4")
	shards := flags.Int("shards", 16, "shards to lead")
	if err := flags.Parse(args); err != nil {
		return err
	}
	m, err := readManifest(*path)
	if err != nil {
		return err
	}
	p := newPlay(m, *dir, *length, *members, *shards)
	if p.authority, err = transport.LoadAuthority(m.CA, *ca); err != nil {
		return err
	}
	p.screen = &lines{out: os.Stdout}
	return p.run(ctx)
}

func newPlay(m manifest, dir string, length time.Duration, members, shards int) *play {
	p := &play{
		dir: dir, cluster: m, namespace: "demo.assign", members: max(members, 4), length: length, every: 150 * time.Millisecond, rate: 2 * time.Second,
		ledger: tail[assignment]{path: filepath.Join(dir, acceptedFile)}, refusals: tail[refusal]{path: filepath.Join(dir, refusedFile)},
	}
	for i := range shards {
		p.shards = append(p.shards, fmt.Sprintf("shard/%s/%02d", p.namespace, i))
	}
	p.scores = newScores(p.shards)
	return p
}

func (p *play) tls(name string) string { return filepath.Join(p.dir, "tls", name) }

func (p *play) endpoints() string {
	var all []string
	for _, n := range p.cluster.Nodes {
		all = append(all, n.GRPC)
	}
	return strings.Join(all, ",")
}

// run plays and judges. The error is a *guilty when something does not hold.
func (p *play) run(ctx context.Context) (err error) {
	defer p.clear()
	if err := p.prepare(ctx); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := p.act(ctx); err != nil {
		return err
	}
	p.clear()
	return p.end()
}

// prepare issues certificates, declares the shards, and starts everybody.
func (p *play) prepare(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Join(p.dir, "tls"), 0o700); err != nil {
		return err
	}
	if p.deeds, err = openJournal(filepath.Join(p.dir, deedsFile)); err != nil {
		return err
	}
	p.screen.say("declaring %d shards, starting the guarded resource and %d members", len(p.shards), p.members)
	if err := p.declare(ctx); err != nil {
		return fmt.Errorf("declaring the shards: %w", err)
	}
	if p.address, err = freeAddress(); err != nil {
		return err
	}
	if err := p.startResource(); err != nil {
		return err
	}
	for n := 1; n <= p.members; n++ {
		a := p.newActor(n)
		pair, err := p.authority.IssueMember(a.id)
		if err == nil {
			err = pair.Save(p.tls(a.id+".pem"), p.tls(a.id+"-key.pem"))
		}
		if err == nil {
			err = a.start()
		}
		if err != nil {
			return err
		}
		p.actors = append(p.actors, a)
	}
	return nil
}

// freeAddress is one that no outgoing connection takes while the resource is down.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (p *play) startResource() (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.back = time.Time{}
	p.resource, err = start(filepath.Join(p.dir, "resource.log"), self, "resource", "-dir", p.dir, "-listen", p.address,
		"-keys", p.cluster.Nodes[0].HTTP+"/control/keys", "-ca", p.cluster.CA, "-cluster-id", p.authority.Cluster())
	return err
}

// declare declares the shards, as an administrator.
func (p *play) declare(ctx context.Context) error {
	admin := p.cluster.Clients["admin"]
	certificates, err := transport.LoadCertificates(transport.Files{CA: p.cluster.CA, Cert: admin.Cert, Key: admin.Key}, nil)
	if err != nil {
		return err
	}
	channel, err := transport.NewChannel(transport.ChannelOptions{Address: p.cluster.Nodes[0].GRPC, TLS: func() *tls.Config { return certificates.Client("") }})
	if err != nil {
		return err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	req := &controlpb.DeclareScopesRequest{RequestId: fmt.Sprintf("declare-%d", time.Now().UnixNano())}
	for _, s := range p.shards {
		req.Scopes = append(req.Scopes, &controlpb.ScopeSpec{Id: s})
	}
	_, err = controlpb.NewLeadershipRegistryServiceClient(channel).DeclareScopes(ctx, req)
	return err
}

// settle waits until every shard has an assignment.
func (p *play) settle(ctx context.Context) error {
	deadline := time.Now().Add(settleTime)
	for {
		if err := p.look(); err != nil {
			return err
		}
		if p.scores.settled() {
			p.screen.say("every shard is led, and its assignments are accepted")
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d shards have an assignment after %v; see the logs in %s", p.scores.active(), len(p.shards), settleTime, p.dir)
		}
		if err := sleep(ctx, tick); err != nil {
			return err
		}
	}
}

const tick = 100 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errors.New("interrupted")
	case <-time.After(d):
		return nil
	}
}

// look reads what has happened, and shows it.
func (p *play) look() error {
	accepted, err := p.ledger.more()
	if err != nil {
		return err
	}
	refused, err := p.refusals.more()
	if err != nil {
		return err
	}
	p.scores.count(accepted, refused)
	p.screen.show(p)
	return nil
}

// act kills, pauses, and brings back, until the time is over.
func (p *play) act(ctx context.Context) error {
	begin := time.Now()
	next := begin.Add(p.rate)
	for time.Since(begin) < p.length {
		if err := p.look(); err != nil {
			return err
		}
		now := time.Now()
		if err := p.bringBack(now); err != nil {
			return err
		}
		if now.After(next) && now.Before(begin.Add(p.length-lastDeeds)) {
			next = now.Add(p.rate)
			if err := p.strike(now); err != nil {
				return err
			}
		}
		if err := sleep(ctx, tick); err != nil {
			return err
		}
	}
	return p.bringBack(time.Now().Add(pauseFor + deadFor))
}

// strike does the next deed: a careless leader is paused, one is killed, one that looks
// at its clock is paused, one is killed, and then the resource.
func (p *play) strike(now time.Time) error {
	p.done++
	switch p.done % 5 {
	case 1:
		return p.pause(now, p.victim(func(a *actor) bool { return a.careless }))
	case 3:
		return p.pause(now, p.victim(func(a *actor) bool { return !a.careless }))
	case 0:
		return p.killResource(now)
	default:
		return p.kill(now, p.victim(func(*actor) bool { return true }))
	}
}

func (p *play) pause(now time.Time, a *actor) error {
	if a == nil {
		return nil
	}
	leads := p.scores.leads(a.id)
	if err := p.note("pause", a.id); err != nil {
		return err
	}
	a.process.signal(syscall.SIGSTOP)
	a.state, a.backAt = paused, now.Add(pauseFor)
	p.screen.say("SIGSTOP %s, which led %d shards, for %v: its lease is shorter", a.describe(), leads, pauseFor)
	return nil
}

func (p *play) kill(now time.Time, a *actor) error {
	if a == nil {
		return nil
	}
	leads := p.scores.leads(a.id)
	if err := p.note("kill", a.id); err != nil {
		return err
	}
	a.process.kill()
	a.state, a.backAt = killed, now.Add(deadFor)
	p.screen.say("SIGKILL %s, which led %d shards", a.describe(), leads)
	return nil
}

func (p *play) killResource(now time.Time) error {
	if err := p.note("kill", resourceName); err != nil {
		return err
	}
	p.resource.kill()
	p.back = now.Add(time.Second / 2)
	p.screen.say("SIGKILL the resource: its marks and its log are on its disk")
	return nil
}

func (a *actor) describe() string {
	if a.careless {
		return a.id + " (careless)"
	}
	return a.id
}

func (p *play) note(what, whom string) error {
	return p.deeds.write(deed{At: clock.Boottime(), What: what, Whom: whom})
}

// victim is the member of those wanted that leads most; nil: none leads.
func (p *play) victim(wanted func(*actor) bool) *actor {
	var most *actor
	for _, a := range p.actors {
		if leads := p.scores.leads(a.id); a.state == running && wanted(a) && leads > 0 && (most == nil || leads > p.scores.leads(most.id)) {
			most = a
		}
	}
	return most
}

// bringBack starts and resumes those whose time has come.
func (p *play) bringBack(now time.Time) error {
	if !p.back.IsZero() && now.After(p.back) {
		if err := p.startResource(); err != nil {
			return err
		}
		p.screen.say("the resource is back")
	}
	for _, a := range p.actors {
		if a.state == running || now.Before(a.backAt) {
			if a.state == running && a.process.ended() {
				return fmt.Errorf("%s ended by itself; see %s", a.id, a.log)
			}
			continue
		}
		what := "start"
		if a.state == paused {
			what = "resume"
		}
		if err := p.note(what, a.id); err != nil {
			return err
		}
		if a.state == paused {
			a.process.signal(syscall.SIGCONT)
			a.state = running
			p.screen.say("SIGCONT %s: it wakes up under fences that others have overtaken", a.describe())
			continue
		}
		if err := a.start(); err != nil {
			return err
		}
		p.screen.say("%s is started again", a.describe())
	}
	return nil
}

// clear ends every process, members in order first.
func (p *play) clear() {
	for _, a := range p.actors {
		a.process.signal(syscall.SIGCONT)
		a.process.signal(syscall.SIGTERM)
	}
	for _, a := range p.actors {
		a.process.stop(5 * time.Second)
	}
	if p.resource != nil {
		p.resource.stop(2 * time.Second)
	}
}

// end judges and reports.
func (p *play) end() error {
	e := &evidence{careless: map[string]bool{}, shards: p.shards}
	for _, a := range p.actors {
		e.careless[a.id] = a.careless
	}
	if err := collect(p.dir, e); err != nil {
		return err
	}
	v := judge(e)
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, reportFile), append(data, '\n'), 0o600); err != nil {
		return err
	}
	if err := p.look(); err != nil {
		return err
	}
	p.screen.close(v)
	if len(v.Problems) > 0 {
		return &guilty{v}
	}
	return nil
}
