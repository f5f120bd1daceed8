package sim

// storeHealthy reports whether the store is untouched and serves a set of replicas,
// and no replica outside it can hold the office.
func (w *World) storeHealthy(set uint) bool {
	s := w.store
	v := s.main()
	if !v.up || w.now < v.until || s.slow > 0 || s.flapping > 0 {
		return false
	}
	lead := v.lead()
	if lead.GetClosed() != "" || s.stillborn || s.lossy && lead == nil {
		return false
	}
	if lead.GetIdentity() != v.identity && (s.wiped || set != 1<<len(w.replicas)-1) {
		return false // every replica must see for itself what the server holds
	}
	for i, r := range w.replicas {
		switch within := set&(1<<i) != 0; {
		case within && (r.client.toOldStore || !w.network.open(r.at, v.at)):
			return false
		case !within && r.up && !r.paused && !r.client.toOldStore && w.network.open(r.at, v.at):
			return false
		}
	}
	return true
}
