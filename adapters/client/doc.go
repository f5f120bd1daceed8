// Package client lets a Go process lead. It stands for scopes, runs a function for each
// one it leads, and ends the function's context before the leadership can end:
//
//	c, err := client.New(client.Options{
//		Endpoints: []string{"10.0.0.1:7412", "10.0.0.2:7412", "10.0.0.3:7412"},
//		TLS:       transport.Files{CA: "ca.pem", Cert: "billing-1.pem", Key: "billing-1-key.pem"},
//		MemberID:  "billing-1",
//	})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	return c.Run(ctx, []client.Scope{{ID: "billing/nightly"}}, func(ctx context.Context, t client.Token) error {
//		return bill(ctx) // what it calls through StampCalls carries scope, fence and term
//	})
//
// The protocol is core.Member's; here are only its clock, its connections, and the
// functions it runs. docs/sdk.md tells what is promised.
package client
