package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// files are what an operator hands out: an authority, a server's pair and a client's.
type files struct{ ca, cert, key, otherCA, password string }

func writeFiles(t *testing.T) files {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	f := files{ca: at("ca.pem"), cert: at("pair.pem"), key: at("pair-key.pem"), otherCA: at("other.pem"), password: at("password")}
	for path, pair := range map[string]string{f.ca: f.cert, f.otherCA: at("unused.pem")} {
		ca, err := transport.NewAuthority("test")
		if err != nil {
			t.Fatal(err)
		}
		if err := ca.Save(path, path+"-key"); err != nil {
			t.Fatal(err)
		}
		issued, err := ca.IssueNode("node-1", "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if err := issued.Save(pair, strings.TrimSuffix(pair, ".pem")+"-key.pem"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(f.password, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// A store is opened with the certificates and the password that files hold, and with
// no others.
func TestStoreIsOpenedWithItsSecrets(t *testing.T) {
	f := writeFiles(t)
	for name, tc := range map[string]struct {
		args     []string
		registry func(address string, tls config.TLS, passwordFile string) config.Registry
	}{
		config.StoreEtcd: {nil, func(address string, tls config.TLS, _ string) config.Registry {
			return config.Registry{Store: config.StoreEtcd, Etcd: config.Etcd{Endpoints: []string{"https://" + address}, Prefix: "/test/", TLS: tls}}
		}},
		config.StoreRedis: {[]string{"--requirepass", "hunter2"}, func(address string, tls config.TLS, passwordFile string) config.Registry {
			return config.Registry{Store: config.StoreRedis, Redis: config.Redis{Address: address, Prefix: "/test/", TLS: tls, PasswordFile: passwordFile}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := storeserver.Start(t.Context(), storeserver.Options{
				Kind: storeserver.Kind(name), Dir: t.TempDir(), Args: tc.args, TLS: &storeserver.TLS{Cert: f.cert, Key: f.key, ClientCA: f.ca},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Kill)
			open := func(tls config.TLS, passwordFile string) error {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				c := &config.Config{ClusterID: "test", Registry: tc.registry(server.Address(), tls, passwordFile)}
				s, err := openStore(ctx, c, slog.New(slog.DiscardHandler))
				if err != nil {
					return err
				}
				if r := s.Do(ctx, &core.StoreCall{ID: 3, Timeout: 5 * time.Second, Confirm: &core.StoreConfirm{}}); r.Status != core.StoreOK || r.ID != 3 {
					t.Errorf("%+v", r)
				}
				return s.Close()
			}
			right := config.TLS{CA: f.ca, Cert: f.cert, Key: f.key}
			if err := open(right, f.password); err != nil {
				t.Errorf("with everything right: %v", err)
			}
			if err := open(config.TLS{CA: f.otherCA, Cert: f.cert, Key: f.key}, f.password); err == nil {
				t.Error("a server of another authority was believed")
			}
			if err := open(config.TLS{CA: f.ca}, f.password); err == nil {
				t.Error("the server let us in without a certificate")
			}
			for what, wrong := range map[string]config.TLS{
				"no file":        {CA: f.ca + "-none", Cert: f.cert, Key: f.key},
				"no certificate": {CA: f.password, Cert: f.cert, Key: f.key},
				"no pair":        {CA: f.ca, Cert: f.cert, Key: f.ca},
			} {
				if err := open(wrong, f.password); !isUnfit(err) || !strings.Contains(err.Error(), "registry."+name+".tls: ") {
					t.Errorf("%s: %v", what, err)
				}
			}
			if name == config.StoreEtcd {
				return // it has users only once its authentication is turned on
			}
			if err := open(right, ""); !isUnfit(err) {
				t.Errorf("without the password: %v", err)
			}
			if err := open(right, f.ca); !isUnfit(err) || strings.Contains(err.Error(), "CERTIFICATE") {
				t.Errorf("with another password: %v", err)
			}
			if err := open(right, f.password+"-none"); !isUnfit(err) || !strings.Contains(err.Error(), "registry.redis.passwordFile: ") {
				t.Errorf("without the file of the password: %v", err)
			}
		})
	}
}
