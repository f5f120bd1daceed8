package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A second leaderd dev in the folder of a running cluster leaves everything as it is.
func TestDevRefusesTheFolderOfARunningCluster(t *testing.T) {
	dir := t.TempDir()
	running, err := lockDevFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	manifest := filepath.Join(dir, "cluster.json")
	if err := os.WriteFile(manifest, []byte("of the running cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = runDev(context.Background(), &devOptions{nodes: 1, dir: dir}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "another leaderd dev runs the cluster in "+dir) {
		t.Fatalf("runDev said %v", err)
	}
	if kept, err := os.ReadFile(manifest); err != nil || string(kept) != "of the running cluster" {
		t.Fatalf("cluster.json is %q, %v", kept, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node-1.yaml")); !os.IsNotExist(err) {
		t.Fatalf("node-1.yaml was written: %v", err)
	}
}

// The folder is free again when its leaderd dev has ended.
func TestDevFolderIsFreedAgain(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		lock, err := lockDevFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
