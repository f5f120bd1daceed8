// Package fence keeps the actions of deposed leaders out of a resource, so that a
// service need not write the check itself. A leader's calls carry its Authority;
// the resource's Guard lets a scope's actions pass in the order of their fences and
// refuses every one that was overtaken (NoStaleEffect), whatever clocks, networks
// and leaders believe, and after a restart of the resource too.
//
// The leader's side: With puts the authority into a context; UnaryClientInterceptor,
// StreamClientInterceptor and Transport stamp it on outgoing calls.
//
// The resource's side: Guard, with interceptors for gRPC servers and a handler for
// net/http. Where the effect is a transaction of a database, the fence belongs into
// that transaction: packages sqlfence, pgxfence and redisfence.
//
// docs/fencing.md tells which of them to take, and what each promises.
package fence
