package etcdlog

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// callWithin is what core gives a call by default.
const callWithin = core.DefaultElectionTimeout

// TestLeaderOfEtcdFails kills or pauses the leader of a cluster of three while a registrar
// appends and another replica follows: nothing acknowledged is lost, nothing is there
// twice, and the office goes on soon.
func TestLeaderOfEtcdFails(t *testing.T) {
	for version, binary := range binaries {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			members, addresses := startCluster(t, binary)
			o := options(addresses...)
			r := &registrar{t: t, store: open(t, o)}
			do(t, r.store, core.StoreOK, &core.StoreCall{Append: nextAppend(t, r.store, 1, []byte("0"))})
			follower := follow(t, open(t, o))
			r.write(30)
			leader := leaderOf(t, members)
			leader.Kill()
			r.write(30)
			t.Logf("killed: longest without an acknowledgement %v, %d appends made again", r.longest, r.again)
			if err := leader.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			leader = leaderOf(t, members)
			leader.Pause()
			r.write(30)
			leader.Resume()
			t.Logf("paused as well: longest %v, %d made again", r.longest, r.again)
			r.write(30)
			follower.until(r.last)
			if r.longest > 10*time.Second {
				t.Errorf("no append was acknowledged for %v", r.longest)
			}
		})
	}
}

func startCluster(t *testing.T, binary string) (members []*storeserver.Server, addresses []string) {
	t.Helper()
	members, err := storeserver.StartEtcdCluster(t.Context(), 3, storeserver.Options{Kind: storeserver.Etcd, Dir: t.TempDir(), Binary: realBinary(t, binary)})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		t.Cleanup(m.Kill)
		addresses = append(addresses, m.Address())
	}
	return members, addresses
}

// TestConfirmNeedsQuorum asks a member that lost the others, and so cannot know
// whether it was superseded: it must not answer from what it has.
func TestConfirmNeedsQuorum(t *testing.T) {
	for version, binary := range binaries {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			members, addresses := startCluster(t, binary)
			alone := open(t, options(addresses[0]))
			fill(t, alone)
			members[1].Pause()
			members[2].Pause()
			for _, call := range []*core.StoreCall{probe("confirm"), probe("fetch"), probe("trail"), {Confirm: &core.StoreConfirm{Term: 1, Beat: true}}} {
				call.Timeout = callWithin
				do(t, alone, core.StoreFailed, call)
			}
			members[1].Resume()
			members[2].Resume()
			until(t, "a confirmation with a quorum", func() bool {
				return alone.Do(t.Context(), &core.StoreCall{Timeout: time.Second, Confirm: &core.StoreConfirm{}}).Status == core.StoreOK
			})
		})
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); {
		if time.Now().After(end) {
			t.Fatalf("never seen: %s", what)
		}
	}
}

func leaderOf(t *testing.T, members []*storeserver.Server) *storeserver.Server {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		for _, m := range members {
			if leads(m) {
				return m
			}
		}
	}
	t.Fatal("etcd has no leader")
	return nil
}

func leads(m *storeserver.Server) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Address()}, Logger: zap.NewNop()})
	if err != nil {
		return false
	}
	defer c.Close() //nolint:errcheck // nothing rests on it
	status, err := c.Status(ctx, m.Address())
	return err == nil && status.Leader == status.Header.MemberId
}

// registrar appends the numbers 1, 2, 3 ..., one by one, each again until it is
// acknowledged.
type registrar struct {
	t       *testing.T
	store   *Store
	last    int
	again   int
	longest time.Duration
}

func (r *registrar) write(n int) {
	r.t.Helper()
	for range n {
		number := r.last + 1
		began := time.Now()
		for !r.try(number) {
			r.again++
			if time.Since(began) > patience {
				r.t.Fatalf("append %d is not acknowledged for %v", number, patience)
			}
		}
		r.longest = max(r.longest, time.Since(began))
		r.last = number
	}
}

func (r *registrar) try(number int) bool {
	identity := r.store.standing().identity
	a := appendAt(identity, core.Position{Term: 1, Last: uint64(number)}, 1, fmt.Append(nil, number))
	reply := r.store.Do(context.Background(), &core.StoreCall{Timeout: callWithin, Append: a})
	if reply.Status != core.StoreOK && reply.Status != core.StoreFailed {
		r.t.Fatalf("append %d: status %d (%s)", number, reply.Status, reply.Text)
	}
	return reply.Status == core.StoreOK
}

// follower fetches, as a replica does, and wants the numbers in order, each once.
type follower struct {
	t     *testing.T
	store *Store
	next  int
}

func follow(t *testing.T, s *Store) *follower { return &follower{t: t, store: s} }

func (f *follower) until(last int) {
	f.t.Helper()
	for end := time.Now().Add(patience); f.next <= last; {
		r := f.store.Do(context.Background(), &core.StoreCall{Timeout: callWithin, Fetch: &core.StoreFetch{After: uint64(f.next), MaxBytes: 200, Wait: 100 * time.Millisecond}})
		if r.Status == core.StoreUnfit || time.Now().After(end) {
			f.t.Fatalf("status %d (%s) at number %d of %d", r.Status, r.Text, f.next, last)
		}
		for _, e := range r.Entries {
			if string(e.Data) != fmt.Sprint(f.next) {
				f.t.Fatalf("entry %d holds %q, want %d", e.Index, e.Data, f.next)
			}
			f.next++
		}
	}
}
