package core

import "errors"

type storeJournal struct{ raftJournal }

func newStoreJournal(r *Replica, boot Boot) (*storeJournal, error) {
	return nil, errors.New("not yet")
}
