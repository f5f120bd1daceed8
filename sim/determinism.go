package sim

import (
	"fmt"
	"sync"
)

// Determinism runs each seed rounds times, many side by side, and returns the
// hash of each, or an error that names the first seed of which two runs differ.
func Determinism(o Options, from, to uint64, rounds, jobs int) (map[uint64]string, error) {
	var (
		mu     sync.Mutex
		wait   sync.WaitGroup
		hashes = map[uint64]string{}
		broken error
		work   = make(chan uint64)
	)
	for range max(jobs, 1) {
		wait.Go(func() {
			for seed := range work {
				run := o
				run.Seed = seed
				hash := Run(run).Hash
				mu.Lock()
				if had, ok := hashes[seed]; ok && had != hash && broken == nil {
					broken = fmt.Errorf("seed %d ended with hash %s and with hash %s", seed, had, hash)
				}
				hashes[seed] = hash
				mu.Unlock()
			}
		})
	}
	for range rounds {
		for seed := from; seed <= to; seed++ {
			work <- seed
		}
	}
	close(work)
	wait.Wait()
	return hashes, broken
}
