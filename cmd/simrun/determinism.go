package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/sim"
)

// rounds is how often each seed is run in this process; a second process runs all
// of them once more.
const rounds = 3

func newDeterminismCommand() *cobra.Command {
	var (
		world worldFlags
		seeds string
		jobs  int
		child bool
	)
	cmd := &cobra.Command{
		Use:   "determinism",
		Short: "Check that a seed ends with the same hash every time, side by side and in another process",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, _, err := world.options()
			if err != nil {
				return err
			}
			from, to, err := parseSeeds(seeds)
			if err != nil {
				return err
			}
			if child {
				return printHashes(cmd.OutOrStdout(), o, from, to)
			}
			return determinism(cmd.OutOrStdout(), o, from, to, jobs, &world)
		},
	}
	world.register(cmd)
	cmd.Flags().StringVar(&seeds, "seeds", "", "seeds to run, A..B")
	cmd.Flags().IntVar(&jobs, "jobs", 4*defaultJobs(), "runs side by side")
	cmd.Flags().BoolVar(&child, "hashes", false, "only print each seed's hash")
	return cmd
}

func printHashes(w io.Writer, o sim.Options, from, to uint64) error {
	for seed := from; seed <= to; seed++ {
		o.Seed = seed
		fmt.Fprintln(w, seed, sim.Run(o).Hash)
	}
	return nil
}

func determinism(w io.Writer, o sim.Options, from, to uint64, jobs int, world *worldFlags) error {
	hashes, err := sim.Determinism(o, from, to, rounds, jobs)
	if err != nil {
		return ended(exitNondeterminism, "%v", err)
	}
	others, err := hashesOfChild(from, to, world)
	if err != nil {
		return ended(exitHarness, "the second process: %v", err)
	}
	for seed := from; seed <= to; seed++ {
		if hashes[seed] != others[seed] {
			return ended(exitNondeterminism, "seed %d ended with hash %s here and with hash %q in another process", seed, hashes[seed], others[seed])
		}
	}
	fmt.Fprintf(w, "%d seeds, %d runs of each side by side and one in another process: equal hashes\n", to-from+1, rounds)
	return nil
}

// hashesOfChild runs the same seeds in a process of their own.
func hashesOfChild(from, to uint64, world *worldFlags) (map[uint64]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"determinism", "--hashes", "--seeds", fmt.Sprintf("%d..%d", from, to), "--scenario", world.scenario,
		"--for", world.length.String(), "--plant", world.plant, "--log", world.log}
	child := exec.Command(self, args...)
	child.Stderr = os.Stderr
	out, err := child.Output()
	if err != nil {
		return nil, err
	}
	hashes := map[uint64]string{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var seed uint64
		var hash string
		if _, err := fmt.Sscan(lines.Text(), &seed, &hash); err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		hashes[seed] = hash
	}
	return hashes, nil
}
