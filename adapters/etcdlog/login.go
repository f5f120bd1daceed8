package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// login keeps the token of an etcd user. The client library can do that too, but it
// sends an old token along when it asks for a new one, which etcd 3.4 refuses, and it
// asks for one with each stream of watches, for which etcd hashes the password.
type login struct {
	user, password string

	renewing sync.Mutex
	mu       sync.Mutex
	token    string
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (l *login) GetRequestMetadata(_ context.Context, uri ...string) (map[string]string, error) {
	token := l.current()
	asking := slices.ContainsFunc(uri, func(u string) bool { return strings.HasSuffix(u, "/etcdserverpb.Auth") })
	if token == "" || asking {
		return nil, nil
	}
	return map[string]string{rpctypes.TokenFieldNameGRPC: token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. That a password
// goes over plain TCP is for the operator to decide, with the scheme of the endpoints.
func (l *login) RequireTransportSecurity() bool { return false }

func (l *login) current() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

// refusedToken reports whether a request was turned away for its token, or for
// having none.
func refusedToken(err error) bool {
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrAuthOldRevision)
}

// renew gets a token in the place of the refused one, unless another caller did.
func (l *login) renew(ctx context.Context, client *clientv3.Client, refused string) error {
	if l.user == "" {
		return nil
	}
	l.renewing.Lock()
	defer l.renewing.Unlock()
	if l.current() != refused {
		return nil
	}
	response, err := client.Authenticate(ctx, l.user, l.password)
	if err != nil {
		return fmt.Errorf("asking for a token: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token = response.Token
	return nil
}
