package redislog

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/sys/unix"
)

const (
	callConnections = 8 // calls under way at once; more wait for one to end
	waitConnections = 8 // fetches that wait at once; more are woken late, not early
	deadAfter       = 2 * time.Second
	dialTimeout     = deadAfter
)

// silence keeps the library from printing to standard error what its calls return
// as errors as well.
var silence = sync.OnceFunc(func() { redis.SetLogger(mute{}) })

type mute struct{}

func (mute) Printf(context.Context, string, ...any) {}

// connect returns a client that tries everything once: what a call that was not
// answered did is unknown, and only the caller knows how to find out.
func connect(o Options, connections int, poolTimeout time.Duration) *redis.Client {
	silence()
	return redis.NewClient(&redis.Options{
		Addr:     o.Address,
		Username: o.Username,
		Password: o.Password,
		DB:       o.DB,
		Protocol: 2, // flat replies, nothing pushed
		Dialer:   dialer(o.TLS),

		MaxRetries:            -1,
		DialerRetries:         1,
		DialTimeout:           dialTimeout,
		ReadTimeout:           -1, // the deadline is that of the call
		WriteTimeout:          -1,
		ContextTimeoutEnabled: true,

		PoolSize:         connections,
		MaxActiveConns:   connections,
		PoolTimeout:      poolTimeout,
		PipelinePoolSize: -1,
		DisableIdentity:  true,

		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// dialer makes connections that notice within about deadAfter that the other
// machine is gone, idle or not. A server that is merely slow is waited for.
func dialer(config *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	plain := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: deadAfter / 2, Interval: deadAfter / 2, Count: 1},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if outer := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
			}); outer != nil {
				return outer
			}
			return err
		},
	}
	if config == nil {
		return plain.DialContext
	}
	return (&tls.Dialer{NetDialer: plain, Config: config}).DialContext
}
