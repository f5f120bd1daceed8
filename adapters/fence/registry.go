package fence

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/wire/controlpb"
)

// Lister reads who leads. It is a part of controlpb.LeadershipRegistryServiceClient.
type Lister interface {
	ListLeaders(ctx context.Context, in *controlpb.ListLeadersRequest, opts ...grpc.CallOption) (*controlpb.ListLeadersResponse, error)
}

// SeedFrom asks the registry by a linearizable read.
func SeedFrom(registry Lister) Seeder {
	return func(ctx context.Context) (Leaders, error) {
		r, err := registry.ListLeaders(ctx, &controlpb.ListLeadersRequest{Linearizable: true})
		if err != nil {
			return Leaders{}, err
		}
		l := Leaders{Fences: make(map[string]uint64, len(r.GetTokens())), Last: r.GetLastFence(), Revision: r.GetRevision()}
		for _, t := range r.GetTokens() {
			if t.GetFenceToken() <= 0 {
				return Leaders{}, fmt.Errorf("the registry tells fence %d for %q", t.GetFenceToken(), t.GetScope())
			}
			l.Fences[t.GetScope()] = uint64(t.GetFenceToken())
		}
		return l, nil
	}
}
