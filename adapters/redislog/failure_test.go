package redislog

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// What hinders a server for a while is said with its cure, and is over when it is.
func TestHindrancesAreNamedAndPass(t *testing.T) {
	server := startServer(t, "--busy-reply-threshold", "50")
	s := openStore(t, testOptions(server.Address()))
	identity := identityOf(t, s)
	operator := admin(t, server.Address())

	command(t, operator, "CONFIG", "SET", "min-replicas-to-write", "1")
	r := do(s, triple(core.Position{}, identity))
	if r.Status != core.StoreFailed || !strings.Contains(r.Text, "min-replicas-to-write") {
		t.Errorf("status %d %s", r.Status, r.Text)
	}
	command(t, operator, "CONFIG", "SET", "min-replicas-to-write", "0")
	at := positionOf(mustDo(t, s, triple(core.Position{}, identity)))

	busy := make(chan error)
	go func() { busy <- operator.Do(t.Context(), "EVAL", "while true do end", "0").Err() }()
	await(t, s, core.StoreFailed, "end it with SCRIPT KILL")
	command(t, admin(t, server.Address()), "SCRIPT", "KILL")
	if err := <-busy; err == nil {
		t.Error("the script was not killed")
	}
	await(t, s, core.StoreOK, "")
	mustDo(t, s, triple(at, identity))
}

// A server that answers everything with one error.
func TestErrorsOfTheServerAreJudged(t *testing.T) {
	for _, c := range []struct {
		line, reason string
		unfit        bool
	}{
		{"LOADING Redis is loading the dataset in memory", "still loading its data: wait", false},
		{"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", "make room on its disk", false},
		{"ERR max number of clients reached", "raise maxclients", false},
		{"READONLY You can't write against a read only replica.", "name the primary", true},
		{"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "name the primary", true},
		{"CLUSTERDOWN The cluster is down", "Cluster mode", true},
		{"ERR unknown command 'EVALSHA'", "no command renamed", true},
		{"WRONGTYPE Operation against a key holding the wrong kind of value", "another program uses this prefix", true},
		{"TROUBLE of a kind not known", "answered with an error: TROUBLE of a kind", false},
	} {
		t.Run(c.line, func(t *testing.T) {
			_, err := Open(t.Context(), testOptions(complaining(t, c.line)))
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Fatalf("%v, want %q", err, c.reason)
			}
			if got := failed(&core.StoreCall{}, err).Status == core.StoreUnfit; got != c.unfit {
				t.Errorf("unfit is %v: %v", got, err)
			}
		})
	}
}

// complaining listens and answers every command with an error, but for the greeting.
func complaining(t *testing.T, line string) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { complain(conn, line) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close() // it was only for this test
		serving.Wait()
	})
	return listener.Addr().String()
}

func complain(conn net.Conn, line string) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	for in := bufio.NewScanner(conn); in.Scan(); {
		answer := "-" + line
		switch word, begins := strings.CutPrefix(in.Text(), "*"); {
		case !begins:
			continue
		case word == "2": // HELLO 2
			answer = "*0"
		}
		if _, err := conn.Write([]byte(answer + "\r\n")); err != nil {
			return
		}
	}
}
