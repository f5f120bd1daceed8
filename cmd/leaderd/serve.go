package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/telemetry"
)

// handOverWithin bounds a shutdown: what is not handed over by then is led anew
// when the session expires.
const handOverWithin = 10 * time.Second

func newServeCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run one node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(path, os.Environ())
			if err != nil {
				return err
			}
			logger, err := telemetry.NewLogger(os.Stderr, telemetry.LogOptions{Level: c.Log.Level, Format: c.Log.Format})
			if err != nil {
				return err
			}
			quietLibraries(logger)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return serve(ctx, c, logger.With("node", c.NodeID))
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

// quietLibraries sends what grpc and its gateway print of themselves, such as a line
// for every reader that goes away, to where only those who debug look.
func quietLibraries(logger *slog.Logger) {
	lines := slog.NewLogLogger(logger.Handler(), slog.LevelDebug).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, lines, lines))
}

// serve runs the node until ctx ends, and then hands over before it stops.
func serve(ctx context.Context, c *config.Config, logger *slog.Logger) error {
	n, err := newNode(c, logger)
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.start(); err != nil {
		return err
	}
	logger.Info("started", "http", c.Listeners.HTTP, "grpc", c.Listeners.GRPC, "peer", c.Listeners.Peer, "version", buildVersion())
	select {
	case err := <-n.failed:
		return err
	case <-ctx.Done():
	}
	logger.Info("handing over")
	n.front.service.EndStreams() // members go to other nodes while this one still leads
	handOver, cancel := context.WithTimeout(context.Background(), handOverWithin)
	defer cancel()
	if err := n.host.Shutdown(handOver); err != nil {
		logger.Warn("not everything was handed over", "error", err)
	} else {
		n.leaveGossip() // only now: who leaves while its lease lives looks like a leader that is gone
	}
	logger.Info("stopped")
	return nil
}
