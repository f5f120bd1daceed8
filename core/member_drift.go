package core

// Drift is the bound on the drift of clocks that the member reckons with.
func (m *Member) Drift() Epsilon { return Epsilon(m.cfg.Epsilon.permille()) }

// Widen makes the member reckon with a larger drift, from now on and for the lease it
// has: a registrar that allows for more frees a scope no earlier, and a member that
// allows for less believes longer than was agreed. A smaller one changes nothing.
// It returns an *Error when e is not below 500 parts per thousand.
func (m *Member) Widen(now Time, e Epsilon) error {
	if e < 0 || e >= 500 {
		return invalid("epsilon", "%d parts per thousand; want 0 to 499", e)
	}
	if e <= m.Drift() {
		return nil
	}
	shorter := m.cfg.Epsilon.Shrink(m.cfg.TTL) - e.Shrink(m.cfg.TTL)
	m.now, m.cfg.Epsilon = now, e
	if m.leased {
		m.leaseUntil -= Time(shorter)
	}
	m.noticeLapse()
	return nil
}
