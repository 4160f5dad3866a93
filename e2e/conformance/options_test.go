//go:build e2e

package conformance

import (
	"strconv"
	"strings"
	"testing"

	"postern.dev/postern/internal/envoy"
)

const (
	extensions     = `"@type":"type.googleapis.com/envoy.extensions.filters.`
	mutationFilter = `{"name":"m","typedConfig":{` + extensions + `http.header_mutation.v3.HeaderMutation"}}`
)

// optionOf is a HeaderValueOption with more fields, each with a comma before it.
func optionOf(name, value, more string) string {
	return `{"header":{"key":"` + name + `","value":"` + value + `"}` + more + `}`
}

// TestHeaderOptions: which of a level's options come to pass, and in which order
// (HeaderParser::evaluateHeaders): empty values change nothing unless they are to be
// kept, what is overwritten goes first, and what is there already is looked up before.
func TestHeaderOptions(t *testing.T) {
	const set, ifThere, ifAbsent, keep = `,"appendAction":"OVERWRITE_IF_EXISTS_OR_ADD"`, `,"appendAction":"OVERWRITE_IF_EXISTS"`, `,"appendAction":"ADD_IF_ABSENT"`, `,"keepEmptyValue":true`
	var routes []string
	var requests []request
	levels := [][]string{
		{optionOf("x-r", "", set)}, {optionOf("x-r", "", "")}, {optionOf("x-r", "", ifThere)}, {optionOf("x-r", "", ifAbsent)}, {optionOf("x-r", "", `,"append":false`)}, {optionOf("x-r", "", `,"append":true`)},
		{optionOf("x-r", "", set+keep)}, {optionOf("x-r", "", keep)}, {optionOf("x-r", "", ifThere+keep)}, {optionOf("x-new", "", ifAbsent+keep)}, {optionOf("via", "", keep)}, {optionOf("via", "", set)},
		{optionOf("x-r", "1", ""), optionOf("x-r", "2", set)}, {optionOf("x-r", "1", set), optionOf("x-r", "2", ifThere)}, {optionOf("x-r", "1", ifThere), optionOf("x-r", "2", set)},
		{optionOf("x-new", "1", set), optionOf("x-new", "2", ifAbsent)}, {optionOf("x-new", "1", ""), optionOf("x-new", "2", ifAbsent), optionOf("x-new", "3", ifThere)}, {optionOf("x-new", "1", set), optionOf("x-new", "2", ifThere)},
		{optionOf("x-r", "100%%", set)}, {`{"header":{"key":"x-r","rawValue":"YQ=="},"appendAction":"OVERWRITE_IF_EXISTS_OR_ADD"}`},
	}
	for i, options := range levels {
		path, list := "/"+strconv.Itoa(i), strings.Join(options, ",")
		routes = append(routes, `{"match":{"path":"`+path+`"},"route":{"cluster":"up"},"requestHeadersToAdd":[`+list+`],"responseHeadersToAdd":[`+list+`]}`,
			`{"match":{"path":"`+path+`/direct"},"directResponse":{"status":200},"responseHeadersToAdd":[`+list+`]}`,
			`{"match":{"path":"`+path+`/nobody"},"route":{"cluster":"nobody"},"responseHeadersToRemove":["x-r"],"responseHeadersToAdd":[`+list+`]}`)
		// The filter does one after the other.
		var each []string
		for _, o := range options {
			each = append(each, `{"append":`+o+`}`)
		}
		routes = append(routes, `{"match":{"path":"`+path+`/filter"},"route":{"cluster":"up"},"typedPerFilterConfig":{"m":{`+extensions+`http.header_mutation.v3.HeaderMutationPerRoute","mutations":{"requestMutations":[`+strings.Join(each, ",")+`],"responseMutations":[`+strings.Join(each, ",")+`]}}}}`)
		for _, target := range []string{path, path + "/direct", path + "/nobody", path + "/filter"} {
			requests = append(requests, request{method: "GET", target: target, host: "a.example", headers: envoy.Headers{{Name: "x-r", Value: "client"}, {Name: "via", Value: "client"}}},
				request{method: "GET", target: target, host: "a.example"})
		}
	}
	host := `],"responseHeadersToAdd":[` + optionOf("x-r", "", set) + `,` + optionOf("x-host", "1", "")
	asked(t, 230, listenerOf("l", "0.0.0.0", "", strings.Join(routes, ",")+host, mutationFilter), both(requests)...)
}

// TestRewrites: what of the path is replaced, and by what, for each kind of match
// (RouteEntryImplBase::rewritePathHeader, Http::Utility::newUri).
func TestRewrites(t *testing.T) {
	var routes []string
	var requests []request
	for i, match := range []string{`"prefix":"/%d/v1"`, `"path":"/%d/v1"`, `"pathSeparatedPrefix":"/%d/v1"`, `"safeRegex":{"regex":"/%d/v[0-9].*"}`, `"safeRegex":{"regex":"/%d/v1"}`, `"prefix":"/%d/V1","caseSensitive":false`} {
		for j, action := range []string{`"route":{"cluster":"up","prefixRewrite":"/new"}`, `"route":{"cluster":"up","prefixRewrite":"/"}`, `"route":{"cluster":"up","prefixRewrite":"/%d/v1"}`, `"route":{"cluster":"up","prefixRewrite":"new?x=1"}`,
			`"route":{"cluster":"up","regexRewrite":{"pattern":{"regex":"v([0-9])"},"substitution":"w\\1-\\1"}}`, `"route":{"cluster":"up","regexRewrite":{"pattern":{"regex":".*"},"substitution":""}}`,
			`"route":{"cluster":"up","regexRewrite":{"pattern":{"regex":"v([0-9])"},"substitution":"w\\2"}}`, `"route":{"cluster":"up","regexRewrite":{"pattern":{"regex":"v([0-9])"},"substitution":"w\\\\\\1$1\\0\\ax"}}`, `"route":{"cluster":"up","regexRewrite":{"pattern":{"regex":"v([0-9])"},"substitution":"\\a\\2"}}`, `"route":{"cluster":"up","regexRewrite":{"pattern":{"regex":"/.\\z"},"substitution":"/x"}}`,
			`"redirect":{"prefixRewrite":"/new"}`, `"redirect":{"prefixRewrite":"new"}`, `"redirect":{"prefixRewrite":""}`, `"redirect":{"prefixRewrite":"/new","stripQuery":true}`, `"redirect":{"prefixRewrite":"/new?x=1"}`, `"redirect":{"prefixRewrite":"/new?x=1","stripQuery":true}`,
			`"redirect":{"pathRedirect":"new"}`, `"redirect":{"pathRedirect":"new?x=1"}`, `"redirect":{"pathRedirect":"new","stripQuery":true}`, `"redirect":{"hostRedirect":"b.example","stripQuery":true}`} {
			at := strconv.Itoa(i*100 + j)
			routes = append(routes, `{"match":{`+strings.ReplaceAll(match, "%d", at)+`},`+strings.ReplaceAll(action, "%d", at)+`}`)
			for _, rest := range []string{"/v1", "/v1?q=1", "/v1/models/m:predict", "/v1/x?q=/v1&r=v2#v3", "/v1?"} {
				requests = append(requests, request{method: "GET", target: "/" + at + rest, host: "a.example"})
			}
			requests = append(requests, request{proto: "HTTP/2", method: "GET", target: "/" + at + "/v1/\xe9", host: "a.example"})
		}
	}
	asked(t, 231, listenerOf("l", "0.0.0.0", `"normalizePath":false,`, strings.Join(routes, ",")), both(requests)...)
}

// TestRemovedPseudoHeaders: a header_mutation may take them away, which header options
// may not. A request without Host is sent without one, one without path or method is
// answered.
func TestRemovedPseudoHeaders(t *testing.T) {
	var routes []string
	var requests []request
	for i, names := range [][]string{{":authority"}, {"host"}, {"Host"}, {":path"}, {":method"}, {":scheme"}, {":protocol"}, {":other"}, {":path", ":method"}, {":authority", ":path"}} {
		path := "/" + strconv.Itoa(i)
		routes = append(routes, `{"match":{"path":"`+path+`"},"route":{"cluster":"up"},"responseHeadersToAdd":[`+optionOf("x-s", "1", "")+`],"typedPerFilterConfig":{"m":{`+extensions+`http.header_mutation.v3.HeaderMutationPerRoute","mutations":{"requestMutations":[{"remove":"`+strings.Join(names, `"},{"remove":"`)+`"}]}}}}`)
		for _, method := range []string{"GET", "HEAD", "POST"} {
			requests = append(requests, request{method: method, target: path, host: "a.example"}, request{method: method, target: path, host: "a.example", headers: envoy.Headers{{Name: "content-type", Value: "application/grpc"}}})
		}
	}
	asked(t, 232, listenerOf("l", "0.0.0.0", "", strings.Join(routes, ","), mutationFilter), both(requests)...)
}

// TestClusterNotFound: RouteAction.cluster_not_found_response_code, also of weighted
// clusters.
func TestClusterNotFound(t *testing.T) {
	var routes []string
	var requests []request
	for _, code := range []string{"SERVICE_UNAVAILABLE", "NOT_FOUND", "INTERNAL_SERVER_ERROR"} {
		for cluster, action := range map[string]string{"one": `"cluster":"nobody"`, "two": `"weightedClusters":{"clusters":[{"name":"nobody","weight":1},{"name":"none","weight":1}]}`} {
			routes = append(routes, `{"match":{"path":"/`+code+cluster+`"},"route":{`+action+`,"clusterNotFoundResponseCode":"`+code+`"}}`)
			requests = append(requests, request{method: "GET", target: "/" + code + cluster, host: "a"}, request{method: "POST", target: "/" + code + cluster, host: "a", headers: envoy.Headers{{Name: "content-type", Value: "application/grpc"}}})
		}
	}
	asked(t, 233, listenerOf("l", "0.0.0.0", "", strings.Join(routes, ",")), both(requests)...)
}

// TestHTTP10: Http1ProtocolOptions.accept_http_10 and default_host_for_http_10.
func TestHTTP10(t *testing.T) {
	var requests []request
	for _, q := range []request{{}, {noHost: true}, {method: "POST", body: "x"}, {method: "POST", body: "x", chunked: true}, {method: "HEAD"}, {target: "/direct"}, {target: "/direct", method: "HEAD"}, {target: "/redirect"}, {target: "/redirect", noHost: true},
		{target: "http://b/x"}, {noHost: true, target: "http://b/x"}, {target: "ws://a/b"}, {target: "https://a/b"}, {target: "*"}, {method: "OPTIONS", target: "*"}, {method: "CONNECT", target: "a:80"}, {noHost: true, method: "CONNECT", target: "a:80"}, {host: "a b"},
		{headers: envoy.Headers{{Name: "connection", Value: "keep-alive"}}}, {headers: envoy.Headers{{Name: "connection", Value: "upgrade"}, {Name: "upgrade", Value: "websocket"}}}, {headers: envoy.Headers{{Name: "host", Value: "b"}}},
		{noHost: true, method: "POST", headers: envoy.Headers{{Name: "content-type", Value: "application/grpc"}}}} {
		if q.target == "" {
			q.target = "/"
		}
		if q.method == "" {
			q.method = "GET"
		}
		if q.host == "" {
			q.host = "a.example"
		}
		for _, q.proto = range []string{"HTTP/1.0", "HTTP/1.1"} {
			requests = append(requests, q)
		}
	}
	for i, manager := range []string{`"httpProtocolOptions":{"acceptHttp10":true},`, `"httpProtocolOptions":{"acceptHttp10":true,"defaultHostForHttp10":"old.example:80"},"upgradeConfigs":[{"upgradeType":"websocket"}],"stripAnyHostPort":true,`, `"httpProtocolOptions":{"defaultHostForHttp10":"old.example"},`} {
		asked(t, byte(234+i), listenerOf("l", "0.0.0.0", manager, `{"match":{"prefix":"/direct"},"directResponse":{"status":200,"body":{"inlineString":"x"}}},{"match":{"prefix":"/redirect"},"redirect":{"pathRedirect":"/x"}},`+everyPath), requests...)
	}
}

// TestSchemes: who stands before Envoy, if somebody does, may say https in plain
// text (Http1Settings::validate_scheme_).
func TestSchemes(t *testing.T) {
	var requests []request
	for _, target := range []string{"http://b/x", "https://b/x", "HTTPS://b/x", "ws://b/x", "WS://b/redirect", "https://b/redirect", "http://b/redirect", "/redirect", "/x"} {
		for _, proto := range []string{"", "http", "https", "other"} {
			q := request{proto: "HTTP/1.1", method: "GET", target: target, host: "a"}
			if proto != "" {
				q.headers = envoy.Headers{{Name: "x-forwarded-proto", Value: proto}}
			}
			requests = append(requests, q)
		}
	}
	for i, manager := range []string{`"useRemoteAddress":true,`, `"useRemoteAddress":true,"xffNumTrustedHops":1,`, `"useRemoteAddress":false,`} {
		asked(t, byte(237+i), listenerOf("l", "0.0.0.0", manager, `{"match":{"prefix":"/redirect"},"redirect":{"pathRedirect":"/x"}},`+everyPath), requests...)
	}
}

// TestRefusedConfigurations: what Envoy does not load is an error, what is next to it is
// none.
func TestRefusedConfigurations(t *testing.T) {
	const route = `{"match":{"prefix":"/"},"route":{"cluster":"up"}%s}`
	mutation := func(m string) string {
		return strings.Replace(mutationFilter, `HeaderMutation"`, `HeaderMutation","mutations":{`+m+`}`, 1)
	}
	for _, tt := range []struct {
		name, filters, route string
		refused              bool
	}{
		{"nothing", "", "", false},
		{"an option for :path", "", `,"requestHeadersToAdd":[` + optionOf(":path", "/x", "") + `]`, true},
		{"for :authority", "", `,"requestHeadersToAdd":[` + optionOf(":authority", "x", "") + `]`, true},
		{"for Host", "", `,"requestHeadersToAdd":[` + optionOf("Host", "x", "") + `]`, true},
		{"for Host, empty", "", `,"requestHeadersToAdd":[` + optionOf("Host", "", "") + `]`, true},
		{"for :status", "", `,"responseHeadersToAdd":[` + optionOf(":status", "500", "") + `]`, true},
		{"for host in an answer", "", `,"responseHeadersToAdd":[` + optionOf("host", "x", "") + `]`, true},
		{"for hostname", "", `,"responseHeadersToAdd":[` + optionOf("hostname", "x", "") + `]`, false},
		{"for what is no name", "", `,"requestHeadersToAdd":[` + optionOf("a b", "x", "") + `]`, false},
		{"for a name with a line feed", "", `,"requestHeadersToAdd":[` + optionOf(`a\n`, "x", "") + `]`, true},
		{"for no name", "", `,"requestHeadersToAdd":[` + optionOf("", "x", "") + `]`, true},
		{"with a line feed", "", `,"requestHeadersToAdd":[` + optionOf("x", `a\nb`, "") + `]`, true},
		{"append and append_action", "", `,"requestHeadersToAdd":[` + optionOf("x", "1", `,"append":false,"appendAction":"ADD_IF_ABSENT"`) + `]`, true},
		{"append and the same append_action", "", `,"requestHeadersToAdd":[` + optionOf("x", "1", `,"append":true,"appendAction":"APPEND_IF_EXISTS_OR_ADD"`) + `]`, false},
		{"removing :path", "", `,"requestHeadersToRemove":[":path"]`, true},
		{"removing HOST", "", `,"requestHeadersToRemove":["HOST"]`, true},
		{"removing :status", "", `,"responseHeadersToRemove":[":status"]`, true},
		{"removing hostname", "", `,"responseHeadersToRemove":["hostname"]`, false},
		{"a mutation of :path", mutation(`"requestMutations":[{"append":` + optionOf(":path", "/x", "") + `}]`), "", true},
		{"a mutation of host", mutation(`"requestMutations":[{"append":` + optionOf("host", "x", "") + `}]`), "", true},
		{"a mutation of :status", mutation(`"responseMutations":[{"append":` + optionOf(":status", "500", "") + `}]`), "", true},
		{"a mutation that removes :path", mutation(`"requestMutations":[{"remove":":path"}]`), "", false},
		{"a mutation that removes nothing", mutation(`"requestMutations":[{"remove":""}]`), "", false},
		{"a mutation that does nothing", mutation(`"requestMutations":[{}]`), "", true},
		{"a route's mutation of :path", "", `,"typedPerFilterConfig":{"m":{` + extensions + `http.header_mutation.v3.HeaderMutationPerRoute","mutations":{"requestMutations":[{"append":` + optionOf(":path", "/x", "") + `}]}}}`, true},
		{"two rewrites", "", `},{"match":{"prefix":"/"},"route":{"cluster":"up","prefixRewrite":"/x","regexRewrite":{"pattern":{"regex":"x"},"substitution":"y"}}`, true},
		{"a rewrite behind a template", "", `},{"match":{"pathMatchPolicy":{"name":"t","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig","pathTemplate":"/x/*"}}},"route":{"cluster":"up","prefixRewrite":"/x"}`, true},
		{"a template", "", `},{"match":{"pathMatchPolicy":{"name":"t","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig","pathTemplate":"/x/*"}}},"route":{"cluster":"up"}`, false},
		{"an action without a cluster", "", `},{"match":{"prefix":"/"},"route":{"prefixRewrite":"/x"}`, true},
		{"no action", "", `},{"match":{"prefix":"/"}`, true},
	} {
		filters := []string{mutationFilter}
		if tt.filters != "" {
			filters[0] = tt.filters
		}
		r := small(t, listenerOf("l", "0.0.0.0", "", strings.Replace(route, "%s", tt.route, 1), filters...))
		refusals(t, tt.name, r)
		if _, err := envoy.Compile(r); (err != nil) != tt.refused {
			t.Errorf("%s: the engine says %v, want refused %v", tt.name, err, tt.refused)
		}
	}
}
