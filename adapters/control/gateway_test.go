package control

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/wire/controlpb"
)

func (st *site) post(path, body string, header ...string) (answer, string) {
	st.t.Helper()
	h := map[string]string{"Content-Type": "application/json"}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = header[i+1]
	}
	return st.do(st.client(true, st.pair(st.authority.IssueClient(transport.RoleAdmin))), "POST", path, h, strings.NewReader(body))
}

func TestOpenSession(t *testing.T) {
	st := newSite(t)
	st.service.reply = func(context.Context, proto.Message) (proto.Message, error) {
		return &controlpb.OpenSessionResponse{Session: 1 << 52, Revision: 7}, nil
	}
	resp, text := st.post("/control/sessions", `{"memberId":"billing","base":"12","ttl":"2s","stands":[{"selector":{"id":"job"},"priority":-3}],"weight":2}`)
	if resp.StatusCode != 200 || text != `{"session":4503599627370496,"revision":7}`+"\n" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	m, caller := st.service.last()
	t.Log(m, caller)
}
