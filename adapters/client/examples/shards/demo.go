package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"github.com/omnirelay/leadership/adapters/transport"
)

const (
	clusterWithin = 40 * time.Second // until three nodes are ready
	clusterStop   = 25 * time.Second
)

// runDemo plays on a cluster of its own, and leaves nothing behind.
func runDemo(ctx context.Context, args []string) (err error) {
	flags := newFlags("demo")
	leaderd := flags.String("leaderd", beside("leaderd"), "the program to run the cluster with")
	length := flags.Duration("for", 45*time.Second, "how long to play")
	members := flags.Int("members", 12, "members; at least 4")
	keep := flags.String("dir", "", "folder to keep everything in that is written; empty: nothing is kept")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "leadership-demo-")
	if *keep != "" {
		dir, err = *keep, os.MkdirAll(*keep, 0o700)
	}
	if err != nil {
		return err
	}
	if *keep == "" {
		defer os.RemoveAll(dir)
	}
	fmt.Println("starting a cluster of three leaderd nodes")
	clusterDir := filepath.Join(dir, "cluster")
	dev, err := start(filepath.Join(dir, "cluster.log"), *leaderd, "dev", "--dir", clusterDir, "--base-port", "0")
	if err != nil {
		return err
	}
	defer dev.stop(clusterStop)
	m, err := awaitCluster(ctx, dev, clusterDir)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, logOf(dir))
	}
	p := newPlay(m, filepath.Join(dir, "play"), *length, *members, 16)
	if p.authority, err = transport.LoadAuthority(m.CA, filepath.Join(clusterDir, "tls", "ca-key.pem")); err != nil {
		return err
	}
	p.screen = &lines{out: os.Stdout}
	if term.IsTerminal(int(os.Stdout.Fd())) {
		p.screen = &panel{out: os.Stdout}
	}
	return p.run(ctx)
}

// beside is a program in the folder of this one.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

func awaitCluster(ctx context.Context, dev *process, dir string) (m manifest, err error) {
	for deadline := time.Now().Add(clusterWithin); ; {
		if m, err = readManifest(filepath.Join(dir, "cluster.json")); err == nil {
			return m, nil
		}
		switch {
		case dev.ended():
			return m, errors.New("the cluster ended before it was ready")
		case time.Now().After(deadline):
			return m, fmt.Errorf("the cluster is not ready after %v: %w", clusterWithin, err)
		}
		if err := sleep(ctx, tick); err != nil {
			return m, err
		}
	}
}

func logOf(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "cluster.log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}
