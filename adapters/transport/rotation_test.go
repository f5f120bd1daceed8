package transport

import (
	"math/big"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
)

// serialOf is the number of the certificate that a call was answered with.
func serialOf(t *testing.T, at *peer.Peer) *big.Int {
	t.Helper()
	info, ok := at.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		t.Fatalf("peer %v", at)
	}
	return info.State.PeerCertificates[0].SerialNumber
}

// rotate gives the site a new certificate.
func (s *site) rotate() {
	s.t.Helper()
	pair, err := s.authority.IssueNode("server")
	if err == nil {
		err = pair.Save(s.server.Cert, s.server.Key)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestCertificatesAreReplacedUnderStandingStreams: what stands goes on; who connects
// anew sees the new certificate.
func TestCertificatesAreReplacedUnderStandingStreams(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{duplex: echo}, Limits{})
		old := s.channel(only(p))
		var before, same, after peer.Peer
		open := func(c *Channel, at *peer.Peer) testpb.TestService_FullDuplexCallClient {
			t.Helper()
			stream, err := testpb.NewTestServiceClient(c).FullDuplexCall(patient(t), grpc.Peer(at))
			if err != nil {
				t.Fatal(err)
			}
			return stream
		}
		say := func(stream testpb.TestService_FullDuplexCallClient) {
			t.Helper()
			if err := stream.Send(duplexRequest(5)); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		end := func(stream testpb.TestService_FullDuplexCallClient) {
			t.Helper()
			_ = stream.CloseSend()
			_, _ = stream.Recv() // grpc tells the peer at the end
		}
		standing := open(old, &before)
		say(standing)
		s.rotate()
		say(standing)
		second := open(old, &same)
		say(second)
		fresh := open(s.channel(only(p)), &after)
		say(fresh)
		say(standing)
		for _, stream := range []testpb.TestService_FullDuplexCallClient{standing, second, fresh} {
			end(stream)
		}
		if serialOf(t, &before).Cmp(serialOf(t, &same)) != 0 {
			t.Error("the channel connected anew")
		}
		if serialOf(t, &before).Cmp(serialOf(t, &after)) == 0 {
			t.Error("a new connection sees the old certificate")
		}
	})
}

func TestTheWebFrontReplacesItsCertificateToo(t *testing.T) {
	for protocol, prefer := range map[string]Preference{HTTP2: OnlyHTTP2, HTTP3: OnlyHTTP3} {
		t.Run(protocol, func(t *testing.T) {
			s := serveWeb(t, okHandler, Limits{})
			serial := func() *big.Int {
				rt := s.roundTripper(RoundTripperOptions{Prefer: prefer})
				r, err := http.NewRequestWithContext(patient(t), http.MethodGet, "https://"+s.address, nil)
				if err != nil {
					t.Fatal(err)
				}
				response, err := rt.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = response.Body.Close()
				if response.Header.Get(ProtocolHeader) != protocol {
					t.Errorf("over %s", response.Header.Get(ProtocolHeader))
				}
				return response.TLS.PeerCertificates[0].SerialNumber
			}
			before := serial()
			s.rotate()
			if serial().Cmp(before) == 0 {
				t.Error("a new connection sees the old certificate")
			}
		})
	}
}
