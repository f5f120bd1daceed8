package core

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// MemberConfig of a Member.
type MemberConfig struct {
	MemberID string
	Labels   map[string]string
	Weight   uint32 // 0: 1
	// TTL of the session; 0: DefaultTTL. The member believes in its grants for at
	// most TTL(1-ε) after it sent the latest acknowledged keepalive.
	TTL time.Duration
	// RenewalLead is the time before the end of a lease at which a keepalive must
	// have been sent; 0: no more than TTL/5 asks for anyhow.
	RenewalLead time.Duration
	// Backoff is the pause before a lost session is opened anew; 0: TTL/10. A session is
	// lost when its lease runs out, too: it is not taken up again.
	Backoff time.Duration
	Epsilon Epsilon
	Seed    uint64
	// Instance is unique to this life of the process. Request ids begin with it:
	// were it the same twice, a new life would be given its former session.
	Instance string
	// Replaces is a session of an earlier life that is proven dead; 0: none.
	Replaces SessionID
	// Manual leaves it to the application to answer an Ask with GiveUp, once it has
	// finished. Otherwise the member gives up at once.
	Manual bool
	Plants plant.Set
}

// Member is the holder's side of the protocol: it opens a session, keeps it alive,
// stands, and says at every moment what its process may believe to lead. It is
// given the time and messages, starts no goroutine, and is not safe for concurrent
// use.
type Member struct {
	cfg MemberConfig
	rng *rand.Rand
	now Time

	state      sessionState
	session    SessionID
	openID     string // request id of the session being opened
	openStands []*logpb.Stand
	openWish   uint64 // the latest wish that went out with the opening
	openBase   uint64 // the same at every repetition, or a late one would open a second session
	attempt    uint64
	dueAt      Time // when an unanswered opening or closing is told again, or a lost session reopened

	// Of the session.
	cursor       uint64 // highest revision seen from anywhere
	viewRevision uint64
	number       uint64 // of the latest keepalive
	sent         []sentKeepalive
	keepaliveAt  Time
	leaseUntil   Time // belief ends here; 0: no lease yet
	leased       bool
	// The scopes that the next claims begin with, of a keepalive and of who asks from
	// outside, when there are too many to tell at once.
	claimFrom, askedFrom string
	grants               map[string]Grant
	// givenUp holds, by scope, the highest fence given up in this session. Such a
	// grant stays given up whatever a view says, and is told again until the view
	// shows it gone.
	givenUp map[string]*surrender

	stands  []*standing
	wishes  uint64 // the number of the latest wish
	changes []MemberChange
	out     []MemberMessage
}

type sessionState uint8

const (
	sessionNone    sessionState = iota // waiting to open
	sessionOpening                     // asked for
	sessionOpen
	sessionClosing // stopped acting, being closed
	sessionClosed
)

type sentKeepalive struct {
	number uint64
	at     Time
}

type surrender struct {
	fence  uint64
	tellAt Time
}

// standing is one wish to lead, for all sessions to come.
type standing struct {
	selector *logpb.Selector
	priority int32
	withdraw bool
	number   uint64 // of the wish, counted through the member's life
	done     bool   // of this session
	tellAt   Time
}

// ChangeKind says what a MemberChange tells.
type ChangeKind uint8

const (
	ChangeSessionOpened ChangeKind = iota + 1
	ChangeSessionLost              // with everything it led
	ChangeGained                   // a grant is in force
	ChangeLost                     // a grant is no longer in force
	ChangeAsked                    // the holder of Token is asked to hand over: finish, then GiveUp
	ChangeRefused                  // the registry refused something for good; Reason says why
)

// MemberChange tells the application what happened. Authority is never carried by
// it: Holds decides, at the moment of acting.
type MemberChange struct {
	Kind    ChangeKind
	Session SessionID
	Token   Token
	Ask     *Ask
	Reason  string
}

// Holding is a grant in force.
type Holding struct {
	Token
	Until Time // on this process's clock
}

// MemberEmission is what a member gave out.
type MemberEmission struct {
	// Messages for the replica that the member is attached to. Keepalives count from
	// the time that was given to Tick, so they may be sent late, never early.
	Messages []MemberMessage
	Changes  []MemberChange
}

// NewMember returns a member that opens its session at the first Tick.
func NewMember(cfg MemberConfig, now Time) (*Member, error) {
	defaultTo(&cfg.TTL, DefaultTTL)
	defaultTo(&cfg.Backoff, cfg.TTL/10)
	defaultTo(&cfg.Weight, 1)
	open := &logpb.OpenSession{MemberId: cfg.MemberID, Labels: cfg.Labels, Weight: cfg.Weight, TtlNs: int64(cfg.TTL)}
	if err := validateOpen(open); err != nil {
		return nil, err
	}
	if err := checkText("instance", cfg.Instance, MaxRequestID/2); err != nil || cfg.Instance == "" {
		return nil, invalid("instance", "want 1 to %d bytes that no other life of this member has", MaxRequestID/2)
	}
	if cfg.Epsilon < 0 || cfg.Epsilon >= 500 {
		return nil, invalid("epsilon", "%d parts per thousand; want 1 to 499, or 0 for %d", cfg.Epsilon, DefaultEpsilon)
	}
	if cfg.Backoff < 0 {
		return nil, invalid("backoff", "%v; want a positive pause", cfg.Backoff)
	}
	if cfg.RenewalLead < 0 || cfg.RenewalLead >= cfg.Epsilon.Shrink(cfg.TTL) {
		return nil, invalid("renewalLead", "%v; want less than the lease of %v", cfg.RenewalLead, cfg.Epsilon.Shrink(cfg.TTL))
	}
	return &Member{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x6d656d626572)), now: now, dueAt: now,
		keepaliveAt: Never, grants: map[string]Grant{}, givenUp: map[string]*surrender{},
	}, nil
}

// Session is the open session, 0 when there is none.
func (m *Member) Session() SessionID {
	if m.state == sessionOpen || m.state == sessionClosing {
		return m.session
	}
	return 0
}

// Closed reports whether Close has been acknowledged, or the session ended anyway.
func (m *Member) Closed() bool { return m.state == sessionClosed }

// MemberID is the id from the configuration.
func (m *Member) MemberID() string { return m.cfg.MemberID }

// Stand declares, once for all sessions to come, which scopes the member is
// eligible for. A later call with an equal selector changes the priority.
func (m *Member) Stand(sel *logpb.Selector, priority int32) error {
	if err := validateStand(&logpb.Stand{Session: 1, Selector: sel, Priority: priority}); err != nil {
		return err
	}
	for _, s := range m.stands {
		if sameSelector(s.selector, sel) {
			s.priority, s.withdraw = priority, false
			m.wish(s)
			return nil
		}
	}
	for _, s := range m.stands {
		if s.withdraw && s.done { // its place is free
			*s = standing{selector: sel, priority: priority}
			m.wish(s)
			return nil
		}
	}
	if len(m.stands) >= MaxStands {
		return &Error{Code: CodeLimit, Field: "stands", Message: fmt.Sprintf("at most %d selectors", MaxStands)}
	}
	s := &standing{selector: sel, priority: priority}
	m.wish(s)
	m.stands = append(m.stands, s)
	return nil
}

// wish numbers a wish and makes it due.
func (m *Member) wish(s *standing) {
	m.wishes++
	s.number, s.done, s.tellAt = m.wishes, false, m.now
}

// untold is the earliest wish that the registry has not answered, nil when there is
// none. Wishes are told one at a time, or a late one would undo an earlier one.
func (m *Member) untold() *standing {
	var first *standing
	for _, s := range m.stands {
		if !s.done && (first == nil || s.number < first.number) {
			first = s
		}
	}
	return first
}

// Withdraw ends the stand with an equal selector. What is led stays led until it
// is given up.
func (m *Member) Withdraw(sel *logpb.Selector) {
	for _, s := range m.stands {
		if sameSelector(s.selector, sel) && !s.withdraw {
			s.withdraw = true
			m.wish(s)
		}
	}
}

// GiveUp ends a grant: on the member's own wish, or as the answer to an Ask. The
// application has stopped acting before it calls this; Holds is false from here
// on. The registry is told until its view shows the grant gone, also when the
// grant was never seen in a view.
func (m *Member) GiveUp(scope string, fence uint64) {
	g, seen := m.grants[scope]
	if !seen && m.cfg.Plants.Has(plant.ForgetUnseenResign) {
		m.sendResign(scope, fence)
		return
	}
	s := m.givenUp[scope]
	if s == nil || s.fence < fence {
		m.givenUp[scope] = &surrender{fence: fence, tellAt: m.now}
	}
	if seen && g.Fence <= fence {
		delete(m.grants, scope)
		m.lost(g.Token, ReasonResigned)
	}
}

// Close stops acting on everything and closes the session; Closed reports when
// the registry has acknowledged it.
func (m *Member) Close() {
	switch m.state {
	case sessionClosing, sessionClosed:
		return
	case sessionOpen:
		m.dropGrants(ReasonSessionEnded)
		m.state, m.dueAt, m.keepaliveAt = sessionClosing, m.now, Never
		m.leased = false
	default:
		m.state, m.dueAt, m.keepaliveAt = sessionClosed, Never, Never
	}
}

// Attached tells that a connection to a replica was made: what is due is sent at
// once, and the keepalive asks for a whole view.
func (m *Member) Attached(now Time) {
	m.now = now
	m.viewRevision = 0
	switch m.state {
	case sessionOpening, sessionClosing:
		m.dueAt = now
	case sessionOpen:
		m.keepaliveAt = now
	}
	for _, s := range m.stands {
		if !s.done {
			s.tellAt = now
		}
	}
	for _, scope := range sortedKeys(m.givenUp) {
		m.givenUp[scope].tellAt = now
	}
}

// Holds returns the token under which this process leads the scope at now, which
// must have been read for this call. It is the one question to ask before acting.
func (m *Member) Holds(scope string, now Time) (Token, bool) {
	if !m.believes(now) {
		return Token{}, false
	}
	g, ok := m.grants[scope]
	return g.Token, ok
}

// Held lists every grant in force at now, sorted by scope.
func (m *Member) Held(now Time) []Holding {
	if !m.believes(now) {
		return nil
	}
	held := make([]Holding, 0, len(m.grants))
	for _, scope := range sortedKeys(m.grants) {
		held = append(held, Holding{Token: m.grants[scope].Token, Until: m.leaseUntil})
	}
	return held
}

// Claims lists what the member believes to lead at now, sorted by scope: at most
// MaxClaims, and when there are more, in turn with every call.
func (m *Member) Claims(now Time) []Claim { return m.claims(now, &m.askedFrom) }

func (m *Member) claims(now Time, next *string) []Claim {
	if !m.believes(now) || len(m.grants) == 0 {
		return nil
	}
	scopes := sortedKeys(m.grants)
	n := min(len(scopes), MaxClaims)
	from := sort.SearchStrings(scopes, *next)
	claims := make([]Claim, 0, n)
	for i := range n {
		scope := scopes[(from+i)%len(scopes)]
		claims = append(claims, Claim{Scope: scope, Fence: m.grants[scope].Fence})
	}
	if n < len(scopes) {
		*next = scopes[(from+n)%len(scopes)]
	}
	slices.SortFunc(claims, func(a, b Claim) int { return strings.Compare(a.Scope, b.Scope) })
	return claims
}

// Until is when the member's belief ends unless a keepalive is acknowledged before; it
// has none while this is not after now.
func (m *Member) Until(now Time) Time {
	if !m.believes(now) {
		return now
	}
	return m.leaseUntil
}

func (m *Member) believes(now Time) bool {
	return m.state == sessionOpen && m.leased && now < m.leaseUntil
}

// TakeOutput returns what has accumulated, and forgets it.
func (m *Member) TakeOutput() MemberEmission {
	e := MemberEmission{Messages: m.out, Changes: m.changes}
	m.out, m.changes = nil, nil
	return e
}

func (m *Member) changed(c MemberChange) {
	c.Session = m.session
	m.changes = append(m.changes, c)
}

// lost tells of a grant that is no longer in force. One that was not, since the
// lease had lapsed or had not begun, was told as lost or never gained.
func (m *Member) lost(t Token, reason string) {
	if m.leased {
		m.changed(MemberChange{Kind: ChangeLost, Token: t, Reason: reason})
	}
}

func (m *Member) dropGrants(reason string) {
	for _, scope := range sortedKeys(m.grants) {
		m.lost(m.grants[scope].Token, reason)
	}
	clear(m.grants)
}
