package authorizer

import (
	"encoding/json"
	"net/http"
	"sort"
	"strings"

	"postern.dev/postern/internal/territory"
)

// allow is the only function that makes an allowing verdict.
func (a *Authorizer) allow(v Verdict) Verdict {
	v.Allow, v.Status = true, http.StatusOK
	return v
}

// refusal is the body of a refused call.
type refusal struct {
	Error   string   `json:"error"`
	Message string   `json:"message"`
	Accepts []string `json:"accepts,omitempty"` // credentials that are taken here
	Tokens  []accept `json:"tokens,omitempty"`  // whose tokens, and for whom they must be made
}

// accept is an issuer whose tokens are taken.
type accept struct {
	Issuer    string   `json:"issuer"`
	Audiences []string `json:"audiences"`
}

// refuse answers in JSON, never in HTML and never with a redirect. A call by
// gRPC gets the message as text: Envoy turns a refusal of a gRPC request into
// HTTP 200 with content-type application/grpc, a grpc-status made of the HTTP
// status (401: 16, 403: 7, 503: 14; httpToGrpcStatus in
// source/common/grpc/status.cc) and the body, percent-encoded, as grpc-message
// (Utility::prepareLocalReply in source/common/http/utility.cc), whatever
// content-type the service gave.
func (a *Authorizer) refuse(req Request, status int, reason, message string) Verdict {
	return a.refuseWith(req, territory.Territory{}, status, reason, message, nil)
}

func (a *Authorizer) refuseWith(req Request, t territory.Territory, status int, reason, message string, accepts []string) Verdict {
	v := Verdict{Reason: reason, Message: message, Status: status}
	v.Headers = []Header{{"cache-control", "no-store"}, {"x-content-type-options", "nosniff"}}
	if status == http.StatusUnauthorized {
		challenge := `Bearer realm="postern", error="` + reason + `"`
		if a.described(t) {
			challenge += `, resource_metadata="` + origin(req) + metadataPath + `"`
		}
		v.Headers = append(v.Headers, Header{"www-authenticate", challenge})
	}
	if isGRPC(req) {
		v.Body = []byte(reason + ": " + message)
		return v
	}
	said := refusal{Error: reason, Message: message, Accepts: accepts}
	if accepts != nil {
		said.Tokens = a.taken
	}
	body, err := json.Marshal(said)
	if err != nil {
		body = []byte(`{"error":"internal"}`) // cannot happen: strings only
	}
	v.Body = append(body, '\n')
	v.Headers = append(v.Headers, Header{"content-type", "application/json"})
	return v
}

// challenge refuses a caller who has proved nothing: with a credential it might
// be let in.
func (a *Authorizer) challenge(req Request, t territory.Territory, inCluster bool, id identity, reason, message string) Verdict {
	if id.how == ByAnonymous && id.note != "" && inCluster {
		message += " (" + id.note + ")"
	}
	v := a.refuseWith(req, t, http.StatusUnauthorized, reason, message, a.accepts(inCluster))
	v.Caller, v.How, v.Credential, v.Resource = id.caller, id.how, id.id, t.Resource
	return v
}

// accepts names the credentials that are taken at a door.
func (a *Authorizer) accepts(inCluster bool) []string {
	out := []string{ByKey}
	if a.cfg.Tokens.Cluster != nil {
		out = append(out, ByAccount)
	}
	if len(a.cfg.Tokens.Issuers) > 0 {
		out = append(out, ByToken)
	}
	out = append(out, BySession)
	if inCluster {
		out = append(out, ByPod)
	}
	return out
}

// taken lists the issuers of a configuration.
func taken(t Tokens) []accept {
	var out []accept
	for _, is := range t.Issuers {
		out = append(out, accept{is.Issuer, is.Audiences})
	}
	if c := t.Cluster; c != nil {
		out = append(out, accept{c.Issuer, c.Audiences})
	}
	return out
}

// isGRPC is Envoy's own test: application/grpc or application/grpc+..., so
// application/grpc-web is none.
func isGRPC(req Request) bool {
	v, _ := req.Headers.Only("content-type")
	return v == "application/grpc" || strings.HasPrefix(v, "application/grpc+")
}

func sortHeaders(h []Header) {
	sort.SliceStable(h, func(i, j int) bool { return h[i].Name < h[j].Name })
}
