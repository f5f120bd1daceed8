package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// unfit says what of the cluster's members does not do, as far as they say. One that
// does not answer is passed over: the cluster is there for that.
func (s *Store) unfit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	found := make([]*clientv3.StatusResponse, len(s.options.Endpoints))
	var asked sync.WaitGroup
	for i, endpoint := range s.options.Endpoints {
		asked.Go(func() {
			status, err := s.client.Status(ctx, endpoint)
			if err != nil {
				s.log.Warn("an etcd member does not say how it is", "endpoint", endpoint, "error", err)
				return
			}
			found[i] = status
		})
	}
	asked.Wait()
	return s.judgeMembers(found)
}

// judgeMembers takes what each endpoint said, nil: nothing.
func (s *Store) judgeMembers(found []*clientv3.StatusResponse) error {
	var problems []error
	identity, first := "", ""
	for i, status := range found {
		if status == nil {
			continue
		}
		endpoint := s.options.Endpoints[i]
		if reason := unfitVersion(status.Version); reason != "" {
			problems = append(problems, fmt.Errorf("%s: %s", endpoint, reason))
		}
		if id := identityOf(status.Header); identity == "" {
			identity, first = id, endpoint
		} else if id != identity {
			problems = append(problems, fmt.Errorf("%s is of cluster %s, %s of %s: name members of one cluster", endpoint, id, first, identity))
		}
		if status.IsLearner {
			s.log.Warn("an etcd member is a learner and answers nothing yet", "endpoint", endpoint)
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return unfitError{errors.Join(problems...)}
}

// unfitVersion says why a server must not be used. One whose version cannot be read
// may be.
func unfitVersion(version string) string {
	var major, minor, patch int
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n < 3 && err != nil {
		return ""
	}
	switch {
	case major < 3 || major == 3 && minor < 4:
		return fmt.Sprintf("etcd %s is too old: 3.4 or later is right", version)
	case major == 3 && minor == 5 && patch < 3:
		return fmt.Sprintf("etcd %s can lose what it acknowledged when it is killed: 3.5.3 or later is right", version)
	}
	return ""
}
