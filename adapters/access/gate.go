package access

import "context"

// Gate is what every call passes: who is it, and does it come too often.
type Gate struct {
	Authenticator *Authenticator
	Limiter       *Limiter
}

// Admit says who calls. The error is *Denied or *Exceeded. A call that shows bad
// evidence is counted against the network it comes from; when that has shown too much
// of it, nothing from there is looked at for a moment, so that guessing stays cheap to
// refuse. Certificates are checked by the handshake before and are not held up by it.
func (g Gate) Admit(ctx context.Context, e Evidence) (Caller, error) {
	failures := "failures/" + network(e.Remote)
	if len(e.Authorization) > 0 {
		if err := g.Limiter.spent(failures); err != nil {
			return Caller{}, err
		}
	}
	caller, err := g.Authenticator.Authenticate(ctx, e)
	if err != nil {
		if tooMany := g.Limiter.take(failures); tooMany != nil {
			return Caller{}, tooMany
		}
		return Caller{}, err
	}
	if err := g.Limiter.Request(caller); err != nil {
		return Caller{}, err
	}
	return caller, nil
}
