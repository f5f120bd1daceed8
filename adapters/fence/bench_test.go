package fence

import (
	"context"
	"fmt"
	"sync"
	"testing"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/omnirelay/leadership/core"
)

func BenchmarkAdmit(b *testing.B) {
	for _, scopes := range []int{1, 64} {
		ids := make([]string, scopes)
		for i := range ids {
			ids[i] = fmt.Sprintf("shard/mesh.demo/%02d", i)
		}
		b.Run(fmt.Sprintf("bare-mutex/%d", scopes), func(b *testing.B) {
			var mu sync.Mutex
			g := core.NewGuard(nil)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					mu.Lock()
					err := g.Admit(ids[i%scopes], 5)
					mu.Unlock()
					if err != nil {
						b.Error(err)
					}
				}
			})
		})
		b.Run(fmt.Sprintf("guard/%d", scopes), func(b *testing.B) {
			g := newGuard(b, Options{})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if err := g.Admit(context.Background(), ids[i%scopes], 5); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkUnaryCall(b *testing.B) {
	for name, rules := range map[string]Rules{"open": {Default: Rule{Open: true}}, "guarded": {}} {
		b.Run(name, func(b *testing.B) {
			client := serve(b, newGuard(b, Options{}), rules, &resource{unary: echo})
			ctx := leader(context.Background(), "s", 5)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.UnaryCall(ctx, &testpb.SimpleRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
