package transport

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// What grpc says of a call in HTTP headers and trailers.
const (
	contentType   = "application/grpc"
	headerStatus  = "Grpc-Status"
	headerMessage = "Grpc-Message"
	headerDetails = "Grpc-Status-Details-Bin"
	headerTimeout = "Grpc-Timeout"
	binarySuffix  = "-bin"
)

// newCallRequest is the header of a call.
func newCallRequest(ctx context.Context, o *ChannelOptions, method string, perRPC []credentials.PerRPCCredentials) (*http.Request, error) {
	if !strings.HasPrefix(method, "/") {
		return nil, status.Errorf(codes.Internal, "method %q: want /service/method", method)
	}
	h := http.Header{}
	md, _ := metadata.FromOutgoingContext(ctx)
	for key, values := range md {
		if !reserved(key) {
			for _, v := range values {
				addHeader(h, key, v)
			}
		}
	}
	if err := addCredentials(ctx, h, o.Address, method, perRPC); err != nil {
		return nil, err
	}
	h.Set("Content-Type", contentType)
	h.Set("Te", "trailers")
	h.Set("User-Agent", strings.TrimSpace(o.UserAgent+" grpc-go-http3/"+grpc.Version))
	if deadline, ok := ctx.Deadline(); ok {
		h.Set(headerTimeout, encodeTimeout(time.Until(deadline)))
	}
	return &http.Request{
		Method: http.MethodPost, Host: o.Address, Header: h, ContentLength: -1,
		URL: &url.URL{Scheme: "https", Host: o.Address, Path: method},
	}, nil
}

// addCredentials asks for what is to be sent with each call.
func addCredentials(ctx context.Context, h http.Header, address, method string, perRPC []credentials.PerRPCCredentials) error {
	service := method
	if i := strings.LastIndexByte(method, '/'); i > 0 {
		service = method[:i]
	}
	for _, c := range perRPC {
		ctx := credentials.NewContextWithRequestInfo(ctx, credentials.RequestInfo{Method: method})
		values, err := c.GetRequestMetadata(ctx, "https://"+address+service)
		if err != nil {
			if _, ok := status.FromError(err); ok {
				return err
			}
			return status.Errorf(codes.Unauthenticated, "credentials of the call: %v", err)
		}
		for key, v := range values {
			addHeader(h, key, v)
		}
	}
	return nil
}

func addHeader(h http.Header, key, value string) {
	if strings.HasSuffix(strings.ToLower(key), binarySuffix) {
		value = base64.RawStdEncoding.EncodeToString([]byte(value))
	}
	h.Add(key, value)
}

// reserved reports whether a header is the protocol's own and no metadata.
func reserved(key string) bool {
	key = strings.ToLower(key)
	switch key {
	case "content-type", "te", "user-agent", "host", "connection", "trailer", "content-length", "transfer-encoding", "upgrade", "keep-alive":
		return true
	}
	return strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-")
}

// metadataOf is what the handler said in a header or trailer. Values that are not
// what their name promises are left out.
func metadataOf(h http.Header) metadata.MD {
	md := metadata.MD{}
	for key, values := range h {
		key = strings.ToLower(key)
		if reserved(key) && key != "content-type" {
			continue
		}
		for _, v := range values {
			if strings.HasSuffix(key, binarySuffix) {
				decoded, err := decodeBinary(v)
				if err != nil {
					continue
				}
				v = string(decoded)
			}
			md[key] = append(md[key], v)
		}
	}
	return md
}

func decodeBinary(v string) ([]byte, error) {
	if len(v)%4 == 0 {
		if out, err := base64.StdEncoding.DecodeString(v); err == nil {
			return out, nil
		}
	}
	return base64.RawStdEncoding.DecodeString(v)
}

// timeoutUnits are the units of grpc-timeout, finest first. A value has eight digits
// at most.
var timeoutUnits = []struct {
	unit time.Duration
	name string
}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}, {time.Minute, "M"}, {time.Hour, "H"}}

const maxTimeoutValue = 99_999_999

// encodeTimeout rounds up: the server must not give up before its caller.
func encodeTimeout(d time.Duration) string {
	if d <= 0 {
		return "0n"
	}
	for _, u := range timeoutUnits {
		if n := int64((d + u.unit - 1) / u.unit); n <= maxTimeoutValue {
			return strconv.FormatInt(n, 10) + u.name
		}
	}
	return fmt.Sprint(maxTimeoutValue) + "H"
}

// readStatus reads how a call ended. A server that ends a stream without a status
// was stopped.
func readStatus(h http.Header) (*status.Status, error) {
	text := h.Get(headerStatus)
	if text == "" {
		return nil, status.Error(codes.Unavailable, "the server ended the call without a status")
	}
	code, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the server sent grpc-status %q, want a number", text)
	}
	p := &spb.Status{Code: int32(code), Message: decodeMessage(h.Get(headerMessage))} //nolint:gosec // 32 bits were read
	if details := h.Get(headerDetails); details != "" {
		full := &spb.Status{}
		data, err := decodeBinary(details)
		if err == nil {
			err = proto.Unmarshal(data, full)
		}
		// The plain headers are what counts where the two differ.
		if err == nil && full.GetCode() == p.GetCode() {
			p.Details = full.GetDetails()
		}
	}
	return status.FromProto(p), nil
}

// decodeMessage undoes the percent-encoding of grpc-message. What is no encoding is
// taken as it stands.
func decodeMessage(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s
}

// codeOfHTTP is the code grpc prescribes for an answer that is not grpc's.
func codeOfHTTP(code int) codes.Code {
	switch code {
	case http.StatusBadRequest:
		return codes.Internal
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.Unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codes.Unavailable
	}
	return codes.Unknown
}
