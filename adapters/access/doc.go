// Package access says who calls the public API and what they may do. A caller shows
// one credential: a client certificate, or a bearer token. From it follow a role, the
// member it may act as, the scopes that member may stand for, and what it is counted
// by when limits are held.
//
// Everything that is not given is refused: the zero Caller may do nothing, the zero
// Grant covers nothing, and a setting that is not understood stops the start.
package access
