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
	sort.Strings(v.Remove)
	return v
}

// refusal is the body of a refused call.
type refusal struct {
	Error   string   `json:"error"`
	Message string   `json:"message"`
	Accepts []string `json:"accepts,omitempty"` // credentials that are taken here
}

// refuse answers in JSON, never in HTML and never with a redirect. A call by
// gRPC gets the message as text: Envoy turns a refusal of a gRPC request into
// HTTP 200 with content-type application/grpc, a grpc-status made of the HTTP
// status (401: 16, 403: 7, 503: 14; httpToGrpcStatus in
// source/common/grpc/status.cc) and the body, percent-encoded, as grpc-message
// (Utility::prepareLocalReply in source/common/http/utility.cc), whatever
// content-type the service gave.
func (a *Authorizer) refuse(req Request, status int, reason, message string) Verdict {
	return a.refuseWith(req, status, reason, message, nil)
}

func (a *Authorizer) refuseWith(req Request, status int, reason, message string, accepts []string) Verdict {
	v := Verdict{Reason: reason, Message: message, Status: status}
	v.Headers = []Header{{"cache-control", "no-store"}, {"x-content-type-options", "nosniff"}}
	if status == http.StatusUnauthorized {
		v.Headers = append(v.Headers, Header{"www-authenticate", `Bearer realm="postern", error="` + reason + `"`})
	}
	if isGRPC(req) {
		v.Body = []byte(reason + ": " + message)
		return v
	}
	body, err := json.Marshal(refusal{reason, message, accepts})
	if err != nil {
		body = []byte(`{"error":"internal"}`) // cannot happen: three strings
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
	v := a.refuseWith(req, http.StatusUnauthorized, reason, message, accepts(inCluster))
	v.Caller, v.How, v.Resource = id.caller, id.how, t.Resource
	return v
}

// accepts names the credentials that are taken at a door. API keys and tokens
// join them when they are built.
func accepts(inCluster bool) []string {
	if inCluster {
		return []string{BySession, ByPod}
	}
	return []string{BySession}
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
