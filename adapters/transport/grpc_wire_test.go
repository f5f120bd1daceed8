package transport

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestTimeoutsAreRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0n", 0: "0n", 1: "1n", 99_999_999: "99999999n", 100_000_000: "100000u", 100_000_001: "100001u",
		time.Minute: "60000000u", 2 * time.Minute: "120000m", 100 * time.Hour: "360000S", 24 * 365 * 3 * time.Hour: "94608000S",
		200 * 24 * 365 * time.Hour: "1752000H",
	} {
		if got := encodeTimeout(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestStatusFromTrailers(t *testing.T) {
	for _, c := range []struct {
		code, message, details string
		want                   codes.Code
		text                   string
	}{
		{"0", "", "", codes.OK, ""},
		{"9", "100%25 stale", "", codes.FailedPrecondition, "100% stale"},
		{"9", "100% stale", "", codes.FailedPrecondition, "100% stale"}, // not encoded after all
		{"9", "said", "no base64 !", codes.FailedPrecondition, "said"},
		{"9", "said", "AAAA", codes.FailedPrecondition, "said"},
		{"", "", "", codes.Unavailable, "without a status"},
		{"nine", "", "", codes.Internal, `grpc-status "nine"`},
		{"-1", "", "", codes.Internal, "want a number"},
	} {
		h := http.Header{}
		for key, value := range map[string]string{headerStatus: c.code, headerMessage: c.message, headerDetails: c.details} {
			if value != "" {
				h.Set(key, value)
			}
		}
		st, err := readStatus(h)
		if err != nil {
			st = status.Convert(err)
		}
		if st.Code() != c.want || !strings.Contains(st.Message(), c.text) {
			t.Errorf("%+v: have %v %q", c, st.Code(), st.Message())
		}
	}
}

func TestMetadataOfHeaders(t *testing.T) {
	md := metadataOf(http.Header{"A": {"1", "2"}, "B-Bin": {"AP8", "AP8=", "???"}, "Grpc-Status": {"0"}, "Content-Type": {contentType}})
	if strings.Join(md.Get("a"), ",") != "1,2" || strings.Join(md.Get("b-bin"), ",") != "\x00\xff,\x00\xff" || len(md.Get("grpc-status")) != 0 {
		t.Errorf("have %v", md)
	}
}

// frame is a message as grpc sends it.
func frame(flag byte, m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(data))), data...) //nolint:gosec // small
}

// TestAnswersThatAreNotGRPC, or break its rules: a status each, and no wait.
func TestAnswersThatAreNotGRPC(t *testing.T) {
	good := frame(0, &testpb.SimpleResponse{Username: "x"})
	grpcHeader := func(w http.ResponseWriter) { w.Header().Set("Content-Type", contentType) }
	withStatus := func(w http.ResponseWriter, code string) {
		w.Header().Set(http.TrailerPrefix+headerStatus, code)
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   codes.Code
		text   string
	}{
		"another server": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, codes.Unimplemented, "HTTP status 404"},
		"a page":         {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, codes.Unknown, "content type"},
		"no status": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			_, _ = w.Write(good)
		}, codes.Unavailable, "without a status"},
		"half a message": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			_, _ = w.Write(good[:len(good)-1])
			withStatus(w, "0")
		}, codes.Unavailable, "EOF"},
		"a compressed message": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			_, _ = w.Write(frame(1, &testpb.SimpleResponse{}))
			withStatus(w, "0")
		}, codes.Internal, "compressed"},
		"no message at all": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			w.Header().Set(headerStatus, "0")
		}, codes.Internal, "without a message"},
		"a status without a message": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			w.Header().Set(headerStatus, "7")
			w.Header().Set(headerMessage, "not you")
		}, codes.PermissionDenied, "not you"},
		"two messages": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			_, _ = w.Write(append(good, good...))
			withStatus(w, "0")
		}, codes.Internal, "second message"},
		"no message of ours": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			_, _ = w.Write([]byte{0, 0, 0, 0, 2, 0xff, 0xff})
			withStatus(w, "0")
		}, codes.Internal, "decoding"},
		"a message without end": {func(w http.ResponseWriter, _ *http.Request) {
			grpcHeader(w)
			_, _ = w.Write([]byte{0, 0xff, 0xff, 0xff, 0xff})
			withStatus(w, "0")
		}, codes.ResourceExhausted, "4294967295 bytes"},
		"a broken stream": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, codes.Unavailable, "HTTP/3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveWeb(t, c.answer, Limits{})
			_, err := testpb.NewTestServiceClient(s.channel(only(OnlyHTTP3))).UnaryCall(patient(t), &testpb.SimpleRequest{})
			if status.Code(err) != c.want || !strings.Contains(status.Convert(err).Message(), c.text) {
				t.Errorf("have %v, want %v that says %q", err, c.want, c.text)
			}
		})
	}
}

// TestCallsThatAreWrongHere are refused before anything is sent.
func TestCallsThatAreWrongHere(t *testing.T) {
	s := serveGRPC(t, &testService{duplex: echo}, Limits{})
	c := s.channel(only(OnlyHTTP3))
	client := testpb.NewTestServiceClient(c)
	if err := c.Invoke(patient(t), "no-slash", &testpb.SimpleRequest{}, &testpb.SimpleResponse{}); status.Code(err) != codes.Internal {
		t.Errorf("a method without a slash: %v", err)
	}
	if err := c.Invoke(patient(t), "/a/b", "text", &testpb.SimpleResponse{}); status.Code(err) != codes.Internal {
		t.Errorf("a message that is none: %v", err)
	}
	if _, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{}, grpc.UseCompressor("gzip")); status.Code(err) != codes.Unimplemented {
		t.Errorf("compression: %v", err)
	}
	if _, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload(100)}, grpc.MaxCallSendMsgSize(50)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message above the caller's own limit: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.UnaryCall(ended, &testpb.SimpleRequest{}); status.Code(err) != codes.Canceled {
		t.Errorf("a context that is over: %v", err)
	}
	ctx := metadata.AppendToOutgoingContext(patient(t), "grpc-status", "5", "te", "gzip", "content-type", "text/html")
	stream, err := client.FullDuplexCall(ctx) // metadata that is the protocol's own is not sent
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(duplexRequest(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Error(err)
	}
}

// TestTheEndOfACallIsTold, once.
func TestTheEndOfACallIsTold(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{unary: tellsProtocol}, Limits{})
		var told []error
		client := testpb.NewTestServiceClient(s.channel(only(p)))
		if _, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{}, grpc.OnFinish(func(err error) { told = append(told, err) })); err != nil {
			t.Fatal(err)
		}
		if len(told) != 1 || told[0] != nil {
			t.Errorf("told %v", told)
		}
	})
}
