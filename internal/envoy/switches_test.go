package envoy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// What is off by itself runs where a route switches it on, by FilterConfig or by
// configuration of its own (e2e/conformance, TestSwitchedFilters).
func TestFilterSwitchedOn(t *testing.T) {
	const config = `{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig"`
	route := func(path, rbac string) string {
		return `{"match":{"path":"` + path + `"},"route":{"cluster":"up"},"typedPerFilterConfig":{"rbac":` + rbac + `}},`
	}
	own := `{` + filterType + `rbac.v3.RBACPerRoute","rbac":{"rules":{"action":"DENY","policies":{"p":{"permissions":[{"any":true}],"principals":[{"any":true}]}}}}}`
	p := compile(t, route("/on", config+`,"config":{}}`)+route("/off", config+`,"disabled":true}`)+route("/own", own)+route("/inner", config+`,"config":`+own+`}`)+catchAll,
		strings.Replace(denyPOST, `"name":"rbac"`, `"name":"rbac","disabled":true`, 1))
	for path, want := range map[string]Kind{"/on": Local, "/off": Forward, "/own": Local, "/inner": Local, "/": Forward} {
		if o := ask(p, "POST", "a", path); o.Kind != want {
			t.Errorf("%s: got %s %s, want %s", path, o.Kind, o.Reason, want)
		}
	}
	if o := ask(p, "GET", "a", "/on"); o.Kind != Forward {
		t.Errorf("switched on, and not what the filter denies: got %s", o.Kind)
	}
}

// A filter is known by the type of its configuration. Istio's own ones are left out by
// theirs; what has one of their names and another type is not.
func TestTypesNotNames(t *testing.T) {
	const typed = `"typedConfig":{"@type":"type.googleapis.com/udpa.type.v1.TypedStruct","typeUrl":"type.googleapis.com/`
	wasm := func(runtime, code string) string {
		return `{"name":"x","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm","config":{"vmConfig":{"runtime":"` + runtime + `","code":{"local":{"inlineString":"` + code + `"}}}}}}`
	}
	for name, tt := range map[string]struct {
		filter string
		want   Kind
	}{
		"istio.stats":                        {`{"name":"x",` + typed + `stats.PluginConfig","value":{"a":"b"}}}`, Forward},
		"metadata exchange":                  {`{"name":"y",` + typed + `io.istio.http.peer_metadata.Config"}}`, Forward},
		"ALPN":                               {`{"name":"z","typedConfig":{"@type":"type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"}}`, Forward},
		"Istio 1.14's metadata exchange":     {wasm("envoy.wasm.runtime.null", "envoy.wasm.metadata_exchange"), Forward},
		"a module of somebody's":             {wasm("envoy.wasm.runtime.v8", "envoy.wasm.metadata_exchange"), Unknown},
		"another plugin":                     {wasm("envoy.wasm.runtime.null", "envoy.wasm.other"), Unknown},
		"a name of Istio's, an unknown type": {`{"name":"istio.stats",` + typed + `somebodys.Config"}}`, Unknown},
		"a name of Istio's on RBAC":          {strings.Replace(denyPOST, `"name":"rbac"`, `"name":"istio.alpn"`, 1), Local},
		"optional and of no type":            {`{"name":"x","isOptional":true}`, Forward},
	} {
		if o := ask(compile(t, catchAll, tt.filter), "POST", "a", "/"); o.Kind != tt.want {
			t.Errorf("%s: got %s %s, want %s", name, o.Kind, o.Reason, tt.want)
		}
	}
}

// RBAC of action LOG lets everything through and leaves whether it matched.
func TestLogNeverDenies(t *testing.T) {
	audit := strings.Replace(denyPOST, `"action":"DENY"`, `"action":"LOG"`, 1)
	if audit == denyPOST {
		t.Fatal("the filter's action is not where it was")
	}
	deny := `{"name":"second","typedConfig":{` + filterType + `rbac.v3.RBAC","rules":{"action":"DENY","policies":{"p":{"permissions":[{"metadata":{"filter":"envoy.common","path":[{"key":"access_log_hint"}],"value":{"boolMatch":true}}}],"principals":[{"any":true}]}}}}}`
	if o := ask(compile(t, catchAll, audit), "POST", "a", "/"); o.Kind != Forward {
		t.Errorf("got %s %s, want forward", o.Kind, o.Reason)
	}
	p := compile(t, catchAll, audit, deny)
	for method, want := range map[string]Kind{"POST": Local, "GET": Forward} {
		if o := ask(p, method, "a", "/"); o.Kind != want {
			t.Errorf("%s with a rule that looks at it: got %s %s, want %s", method, o.Kind, o.Reason, want)
		}
	}
	odd := strings.Replace(audit, `"principals":[{"any":true}]`, `"principals":[{"filterState":{"key":"x","stringMatch":{"exact":"y"}}}]`, 1)
	if o := ask(compile(t, catchAll, odd), "POST", "a", "/"); o.Kind != Forward {
		t.Errorf("what it would match is not known: got %s %s, want forward all the same", o.Kind, o.Reason)
	}
	if o := ask(compile(t, catchAll, odd, deny), "POST", "a", "/"); o.Kind != Unknown || !strings.Contains(o.Reason, "FilterState") {
		t.Errorf("and a rule looks at that: got %s %s, want unknown by its name", o.Kind, o.Reason)
	}
}

// Of several listeners on a port the connection's address decides.
func TestListenersByAddress(t *testing.T) {
	listener := func(name, addr string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"name":%q,"address":{"socketAddress":{"address":%q,"portValue":80}},"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","statPrefix":"x",
		 "routeConfig":{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"directResponse":{"status":200,"body":{"inlineString":%q}}}]}]},"httpFilters":[{"name":"r","typedConfig":{`+filterType+`router.v3.Router"}}]}}]}]}`, name, addr, name))
	}
	build := func(listeners ...json.RawMessage) (*Proxy, error) {
		r, err := ParseResources(listeners, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return Compile(r)
	}
	answer := func(p *Proxy, addr string) string {
		req := get("/")
		req.Destination = netip.AddrPortFrom(netip.MustParseAddr(addr), 80)
		o := p.Evaluate(req, Env{}, nil)
		if o.Kind == Unknown {
			return "unknown: " + o.Reason
		}
		return o.Body
	}
	p, err := build(listener("one", "10.0.0.1"), listener("every", "0.0.0.0"), listener("six", "::"))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{"10.0.0.1": "one", "10.0.0.2": "every", "::ffff:10.0.0.1": "one", "fd00::1": "six"} {
		if got := answer(p, addr); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
	if p, err = build(listener("one", "10.0.0.1"), listener("two", "10.0.0.2")); err != nil {
		t.Fatal(err)
	}
	if got := answer(p, "10.0.0.3"); !strings.HasPrefix(got, "unknown: no listener at 10.0.0.3:80, only one") {
		t.Errorf("at none of the two: got %s", got)
	}
	if _, err := build(listener("one", "0.0.0.0"), listener("two", "0.0.0.0")); err == nil || !strings.Contains(err.Error(), "listener two: listens at 0.0.0.0:80, as listener one does") {
		t.Errorf("twice the same: got %v", err)
	}
}

// Envoy's limit of headers, by default 100 with Host (e2e/conformance, TestHeaderCounts).
func TestHeaderCount(t *testing.T) {
	for _, tt := range []struct {
		options string
		most    int
	}{{"", 100}, {`"commonHttpProtocolOptions":{"maxHeadersCount":9},`, 9}} {
		p := compileManager(t, tt.options, catchAll)
		for proto, own := range map[string]int{"HTTP/1.1": 1, "HTTP/2": 4} {
			req := get("/")
			req.Protocol, req.Scheme = proto, "http"
			for i := range tt.most - own {
				req.Headers = append(req.Headers, Header{fmt.Sprintf("x-%d", i), "1"})
			}
			if o := p.Evaluate(req, Env{}, nil); o.Kind != Forward {
				t.Errorf("%s, as many as there may be: got %s %s", proto, o.Kind, o.Reason)
			}
			req.Headers = append(req.Headers, Header{"accept", "a"})
			o := p.Evaluate(req, Env{}, nil)
			if want := map[string]int{"HTTP/1.1": 431, "HTTP/2": 0}[proto]; o.Kind != Local || o.Status != want {
				t.Errorf("%s, one more: got %s %d %s, want %d", proto, o.Kind, o.Status, o.Reason, want)
			}
			req.Headers = append(req.Headers[:len(req.Headers)-2], Header{"accept", "a"}, Header{"accept", "b"})
			if o := p.Evaluate(req, Env{}, nil); o.Kind != Forward {
				t.Errorf("%s, what is kept as one counts once: got %s %s", proto, o.Kind, o.Reason)
			}
		}
	}
}

// An authorizer may not add more headers than the listener takes.
func TestHeaderCountBehindAnAuthorizer(t *testing.T) {
	p := compileManager(t, `"commonHttpProtocolOptions":{"maxHeadersCount":12},`, catchAll, `{"name":"authz","typedConfig":{`+filterType+`ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"a"}}}}`)
	for added, want := range map[int]int{0: 0, 3: 0, 4: 0, 5: 500} { // with x-forwarded-for, -proto, the address, the id and four pseudo headers
		env := Env{Authorize: func(Check) Answer {
			ok := &authv3.OkHttpResponse{}
			for i := range added {
				ok.Headers = append(ok.Headers, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: fmt.Sprintf("x-%d", i), Value: "1"}})
			}
			return Answer{GRPC: &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}}
		}}
		if o := p.Evaluate(get("/"), env, nil); o.Status != want || o.Kind == Unknown {
			t.Errorf("%d added: got %s %d %s, want %d", added, o.Kind, o.Status, o.Reason, want)
		}
	}
}

// More filters than there are bits for are not followed.
func TestTooManyFilters(t *testing.T) {
	many := make([]string, 64)
	for i := range many {
		many[i] = denyPOST
	}
	if o := ask(compile(t, catchAll, slices.Clip(many[:63])...), "GET", "a", "/"); o.Kind != Forward {
		t.Errorf("64 with the router: got %s %s", o.Kind, o.Reason)
	}
	if o := ask(compile(t, catchAll, many...), "GET", "a", "/"); o.Kind != Unknown || !strings.Contains(o.Reason, "65 HTTP filters") {
		t.Errorf("65: got %s %s, want unknown", o.Kind, o.Reason)
	}
}
