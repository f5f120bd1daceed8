package storeserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// StartEtcdCluster starts n members of one etcd cluster, in folders of o.Dir, and
// returns when each answers. o.Port must be 0.
func StartEtcdCluster(ctx context.Context, n int, o Options) ([]*Server, error) {
	if o.Kind != Etcd || o.Port != 0 || n < 1 || n > 9 {
		return nil, errors.New("storeserver: a cluster has 1 to 9 members of kind etcd, on ports of our choice")
	}
	members, err := etcdMembers(n, o)
	if err != nil {
		return nil, err
	}
	// None answers before a majority runs: they start at once.
	results := make(chan error, n)
	for _, s := range members {
		go func() { results <- s.Restart(ctx) }()
	}
	for range members {
		err = errors.Join(err, <-results)
	}
	if err != nil {
		for _, s := range members {
			s.Kill()
		}
		return nil, err
	}
	return members, nil
}

func etcdMembers(n int, o Options) ([]*Server, error) {
	var servers []*Server
	var programs []*etcdServer
	var names []string
	token := rand.Text()
	for i := range n {
		own := o
		var err error
		if own.Dir, err = realDir(filepath.Join(o.Dir, fmt.Sprintf("m%d", i+1))); err != nil {
			return nil, err
		}
		if own.Port, err = freePort(); err != nil {
			return nil, err
		}
		e, err := newEtcd(own)
		if err != nil {
			return nil, err
		}
		e.name, e.token = fmt.Sprintf("m%d", i+1), token
		names = append(names, e.name+"="+e.peer)
		programs = append(programs, e)
		servers = append(servers, &Server{options: own, program: e})
	}
	for _, e := range programs {
		e.members = strings.Join(names, ",")
	}
	return servers, nil
}
