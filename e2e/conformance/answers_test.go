//go:build e2e

package conformance

import (
	"strconv"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"postern.dev/postern/internal/envoy"
)

// optionAnswers are header options that an authorizer may answer with, by the request's
// path: /options/N.
func optionAnswers() [][]*corev3.HeaderValueOption {
	const add, ifAbsent, set, ifThere = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD, corev3.HeaderValueOption_ADD_IF_ABSENT, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS
	deprecated := func(name, value string, yes bool) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(yes)} //nolint:staticcheck // what some authorizers send
	}
	kept := option("x-r", "", set)
	kept.KeepEmptyValue = true
	var out [][]*corev3.HeaderValueOption
	for _, name := range []string{"x-r", "x-new", "via"} {
		for _, action := range []corev3.HeaderValueOption_HeaderAppendAction{add, ifAbsent, set, ifThere} {
			out = append(out, []*corev3.HeaderValueOption{option(name, "1", action)}, []*corev3.HeaderValueOption{option(name, "", action)}, []*corev3.HeaderValueOption{option(name, "1", action), option(name, "2", action)})
		}
		out = append(out, []*corev3.HeaderValueOption{deprecated(name, "1", true)}, []*corev3.HeaderValueOption{deprecated(name, "1", false)}, []*corev3.HeaderValueOption{deprecated(name, "", true)}, []*corev3.HeaderValueOption{deprecated(name, "1", true), deprecated(name, "2", true)})
	}
	out = append(out, []*corev3.HeaderValueOption{kept}, []*corev3.HeaderValueOption{option("x-new", "1", set), option("x-new", "2", add), option("x-r", "3", add), option("x-r", "4", set)},
		[]*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-r", RawValue: []byte("raw")}, AppendAction: set}})
	return out
}

// pseudoAnswers are header options that concern the request's host, path, method and
// scheme.
func pseudoAnswers() [][]*corev3.HeaderValueOption {
	var out [][]*corev3.HeaderValueOption
	for _, name := range []string{":path", ":authority", "host", "Host", ":method", ":scheme"} {
		for _, value := range []string{"/other", "/other?x=/options", "OTHER"} {
			out = append(out, []*corev3.HeaderValueOption{option(name, value, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)})
		}
	}
	return out
}

// optionAnswer is the answer to a check of /options/KIND/N, nil for other paths.
func optionAnswer(path string) *authv3.CheckResponse {
	rest, found := strings.CutPrefix(path, "/options/")
	kind, number, _ := strings.Cut(rest, "/")
	i, err := strconv.Atoi(number)
	if !found || err != nil {
		return nil
	}
	list := append(optionAnswers(), pseudoAnswers()...)[i]
	switch kind {
	case "ok", "pseudo":
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: list}}}
	case "response":
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{ResponseHeadersToAdd: list}}}
	}
	return &authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Headers: list}}}
}

// TestAnswersOfAuthorizers: what a gRPC authorizer's header options do to the request,
// to the answer and to a refusal (copyHeaderFieldIntoResponse of Envoy's grpc_impl,
// Filter::onComplete and encodeHeaders of ext_authz).
func TestAnswersOfAuthorizers(t *testing.T) {
	var requests []request
	add := func(kind string, i int) {
		for _, headers := range []envoy.Headers{{{Name: "x-r", Value: "client"}, {Name: "x-r", Value: "again"}, {Name: "via", Value: "client"}}, nil} {
			requests = append(requests, request{method: "GET", target: "/options/" + kind + "/" + strconv.Itoa(i), host: "a.example", headers: headers})
		}
	}
	n := len(optionAnswers())
	for i := range n {
		add("ok", i)
		add("response", i)
		add("denied", i)
	}
	for i := range pseudoAnswers() {
		add("pseudo", n+i)
	}
	for i, route := range []string{`{"match":{"prefix":"/"},"route":{"cluster":"up"}}`, `{"match":{"prefix":"/"},"route":{"cluster":"up","prefixRewrite":"/new/","hostRewriteLiteral":"b"}}`, `{"match":{"safeRegex":{"regex":"/.*"}},"redirect":{"prefixRewrite":"/new/"}}`} {
		authz := `{"name":"a","typedConfig":{` + extensions + `http.ext_authz.v3.ExtAuthz","clearRouteCache":true,"grpcService":{"envoyGrpc":{"clusterName":"posternd."}},"transportApiVersion":"V3"}}`
		asked(t, byte(241+i), listenerOf("l", "0.0.0.0", "", route, authz), both(requests)...)
	}
}

// TestAnswersThatFillTheRequest: an allowing answer that adds to more headers than the
// listener takes is refused, with what the route adds to answers, also where the choice
// of the route was cleared.
func TestAnswersThatFillTheRequest(t *testing.T) {
	var requests []request
	for n := range 12 {
		var many envoy.Headers
		for k := range n {
			many = append(many, envoy.Header{Name: "x-many-" + strconv.Itoa(k), Value: "1"})
		}
		for i := range 8 {
			requests = append(requests, request{method: "GET", target: "/" + strconv.Itoa(i), host: "a.example", headers: many})
		}
	}
	for i, clear := range []string{"false", "true"} {
		authz := `{"name":"a","typedConfig":{` + extensions + `http.ext_authz.v3.ExtAuthz","clearRouteCache":` + clear + `,"grpcService":{"envoyGrpc":{"clusterName":"posternd."}},"transportApiVersion":"V3"}}`
		route := `{"match":{"prefix":"/"},"route":{"cluster":"up"},"responseHeadersToAdd":[` + optionOf("x-s", "1", "") + `]}`
		asked(t, byte(244+i), listenerOf("l", "0.0.0.0", `"commonHttpProtocolOptions":{"maxHeadersCount":14},`, route, authz), both(requests)...)
	}
}
