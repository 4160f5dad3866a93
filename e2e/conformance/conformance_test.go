//go:build e2e

package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/lab/realenvoy"
)

// budget is how many requests each configuration gets: POSTERN_CONFORMANCE_N in
// all, by default what fits beside the other tests.
func budget(t *testing.T, configurations int) int {
	n := 80_000
	if text := os.Getenv("POSTERN_CONFORMANCE_N"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("POSTERN_CONFORMANCE_N: %v", err)
		}
	}
	return max(1, n/configurations)
}

func TestConformance(t *testing.T) {
	all := configurations(t)
	n := budget(t, len(all))
	seed := uint64(1) // the same requests every time; POSTERN_SEED=$(date +%s) for others
	if text := os.Getenv("POSTERN_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("POSTERN_SEED: %v", err)
		}
	}
	for i, c := range all {
		t.Run(c.name, func(t *testing.T) { run(t, c, n, seed, byte(i+1)) })
	}
}

// corpus holds Kubeflow's releases. It is not part of the checkout.
const corpus = "../../../shared/corpus"

type configuration struct {
	name      string
	resources envoy.Resources
	tokens    *mint // nil: no issuer
}

// configurations are the story's four states, one by hand, the goldens of the corpus, and
// what no golden holds.
func configurations(t *testing.T) []configuration {
	t.Helper()
	var out []configuration
	files, err := filepath.Glob("../../examples/story/translated/[0-9]*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("got %d committed translations, %v; want 4", len(files), err)
	}
	for _, f := range files {
		var entry struct {
			Output struct {
				Proxies []struct {
					Listeners, Routes, Clusters []json.RawMessage
				}
			}
		}
		readJSON(t, f, &entry)
		p := entry.Output.Proxies[0]
		out = append(out, configuration{name: "story-" + strings.TrimSuffix(filepath.Base(f), ".json"), resources: parse(t, p.Listeners, p.Routes, p.Clusters)})
	}
	tokens := newMint(t)
	bare, named := tokens.jwks(t, "", ""), tokens.jwks(t, "other", "ES256")
	out = append(out, byHand(t, tokens, bare))
	if _, err := os.Stat(corpus); err != nil {
		t.Logf("the corpus of Kubeflow releases is absent, only the story's configurations and the one by hand are compared: %v", err)
		return out
	}
	for _, f := range []string{"v1.8.1-shared/translated/istio-1.17.5-ingressgateway.json", "v1.8.1-shared-blogfix/translated/istio-1.17.5-ingressgateway.json",
		"v1.8.1-shared/translated/istio-1.17.5-cluster-local-gateway.json", "v1.6.1/translated/istio-1.14.1-ingressgateway.json", "v1.6.1/translated/istio-1.14.1-cluster-local-gateway.json",
		"v1.9.1/translated/istio-1.22.1-ingressgateway.json", "v1.9.1/translated/istio-1.22.1-cluster-local-gateway.json", "v1.10.2/translated/istio-1.26.1-ingressgateway.json", "v1.10.2/translated/istio-1.26.1-cluster-local-gateway.json",
		"26.03/translated/istio-1.28.0-ingressgateway.json", "26.03/translated/istio-1.28.0-cluster-local-gateway.json"} {
		var golden struct {
			Listeners, Routes []json.RawMessage
			Clusters          []string
		}
		readJSON(t, filepath.Join(corpus, f), &golden)
		// The goldens hold a public key whose private half nobody should have: ours take its place.
		for i, l := range golden.Listeners {
			var v any
			if err := json.Unmarshal(l, &v); err != nil {
				t.Fatal(err)
			}
			jwks := bare
			if strings.HasPrefix(f, "v1.10.2/") {
				jwks = named
			}
			tokens.replaceKeys(v, jwks)
			if golden.Listeners[i], err = json.Marshal(v); err != nil {
				t.Fatal(err)
			}
		}
		r := parse(t, golden.Listeners, golden.Routes, nil)
		if !strings.HasPrefix(f, "v1.6.1/") { // one release keeps its routes to Services that are not in the corpus
			golden.Clusters = append(golden.Clusters, destinations(r)...)
		}
		slices.Sort(golden.Clusters)
		for _, name := range slices.Compact(golden.Clusters) {
			r.Clusters = append(r.Clusters, &clusterv3.Cluster{Name: name})
		}
		c := configuration{name: strings.ReplaceAll(strings.TrimSuffix(f, ".json"), "/translated/", "-"), resources: r}
		if len(tokens.issuers) > 0 && strings.HasSuffix(f, "-ingressgateway.json") {
			c.tokens = tokens
		}
		out = append(out, c)
	}
	if !slices.Contains(tokens.issuers, dex) {
		t.Fatalf("no golden has issuer %s", dex)
	}
	return append(out, translations(t, tokens, bare)...)
}

// destinations are the clusters that routes lead to.
func destinations(r envoy.Resources) []string {
	var out []string
	for _, rc := range r.Routes {
		for _, vh := range rc.VirtualHosts {
			for _, rt := range vh.Routes {
				if name := rt.GetRoute().GetCluster(); name != "" {
					out = append(out, name)
				}
			}
		}
	}
	return out
}

func readJSON(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func parse(t *testing.T, listeners, routes, clusters []json.RawMessage) envoy.Resources {
	t.Helper()
	r, err := envoy.ParseResources(listeners, routes, clusters)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// octet makes the loopback addresses this process's own, so that two runs may
// stand beside each other; ours is how they begin.
var (
	octet = byte(68 + os.Getpid()%61)
	ours  = fmt.Sprintf("127.%d", octet)
)

// pair is one configuration in both: the engine and a real Envoy with its peers.
type pair struct {
	proxy   *envoy.Proxy
	witness *witness
	gateway netip.Addr
	client  netip.Addr

	coverage coverage
}

// cannotTell begins the difference of an answer that is unknown.
const cannotTell = "the engine cannot tell: "

func run(t *testing.T, c configuration, n int, seed uint64, host byte) {
	p, err := start(t, c, host)
	if err != nil {
		t.Fatal(err)
	}
	v := read(c.resources, p.proxy.Ports())
	const workers = 16
	var wg sync.WaitGroup
	failures := make(chan string, 3*workers)
	for worker := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(worker)))
			failed := 0
			conns := p.clients()
			defer conns.close()
			for i := worker; i < n; i += workers {
				q := v.generate(r, i, c.tokens)
				diff := p.compare(conns.of(q), q, strconv.Itoa(i))
				if _, ok := strings.CutPrefix(diff, cannotTell); ok { // counted with its cause
					continue
				}
				if diff != "" {
					if failed++; failed > 3 {
						return
					}
					failures <- fmt.Sprintf("seed %d, request %d:\n%q\n%s", seed, i, q, diff)
				}
			}
		})
	}
	wg.Wait()
	close(failures)
	for f := range failures {
		t.Error(f)
	}
	p.coverage.report(t, c.name, n)
}

// start runs a configuration in both. An error is one that Envoy does not take.
func start(t *testing.T, c configuration, host byte) (*pair, error) {
	t.Helper()
	program, err := filepath.Abs("../../.tools/envoy/bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	proxy, err := envoy.Compile(c.resources)
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{upstream: map[string]message{}, checks: map[string]message{}, grpc: map[string]*authv3.CheckRequest{}}
	p := &pair{proxy: proxy, witness: w, gateway: netip.AddrFrom4([4]byte{127, octet, host, 1}), client: netip.AddrFrom4([4]byte{127, octet, host, 2}), coverage: newCoverage(proxy)}
	addrs := map[string]netip.AddrPort{}
	for _, cl := range c.resources.Clusters {
		switch {
		case strings.Contains(cl.Name, "authservice.") || strings.Contains(cl.Name, "oauth2-proxy.oauth2-proxy."):
			addrs[cl.Name] = w.serve(t, cl.Name, true)
		case strings.Contains(cl.Name, "posternd."):
			addrs[cl.Name] = w.serveGRPC(t)
		case cl.Name == "BlackHoleCluster" || cl.Name == "PassthroughCluster":
		default:
			// Every upstream here speaks HTTP/1.1; which protocol a cluster speaks changes no header.
			cl.Http2ProtocolOptions, cl.TypedExtensionProtocolOptions = nil, nil //nolint:staticcheck // Istio 1.17 writes it
			addrs[cl.Name] = w.serve(t, cl.Name, false)
		}
	}
	e, err := realenvoy.Start(context.Background(), realenvoy.Config{Program: program, Address: p.gateway, Endpoints: func(cluster string) []netip.AddrPort {
		if a, ok := addrs[cluster]; ok {
			return []netip.AddrPort{a}
		}
		return nil
	}}, c.resources)
	if errors.Is(err, realenvoy.ErrRefused) {
		return nil, err
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, nil
}

// compare sends a request and says where Envoy and the engine differ, "" for
// nowhere.
func (p *pair) compare(c *client, q request, id string) string {
	r, err := c.send(q, func() { p.witness.take(id) })
	if err != nil {
		return err.Error()
	}
	up, check, grpcCheck := p.witness.take(id)
	var trace *envoy.Trace
	var asked *message
	var askedGRPC *authv3.CheckRequest
	evaluate := func(random uint64) envoy.Outcome {
		trace = &envoy.Trace{}
		env := envoy.Env{RequestID: "x", Random: random, Now: time.Now(), Authorize: func(ch envoy.Check) envoy.Answer {
			if ch.GRPC != nil {
				askedGRPC = ch.GRPC
				r, err := grpcRule(ch.GRPC)
				return envoy.Answer{GRPC: r, Err: err}
			}
			asked = &message{cluster: ch.Cluster, method: ch.HTTP.Method, path: ch.HTTP.Path, host: ch.HTTP.Authority, headers: fromHeaders(ch.HTTP.Headers)}
			return httpRule(*asked)
		}}
		return p.proxy.Evaluate(q.engine(netip.AddrPortFrom(p.client, 1), netip.AddrPortFrom(p.gateway, q.port)), env, trace)
	}
	// Envoy's dice choose among weighted clusters: some choice must fit.
	o := evaluate(0)
	diff, random := p.differ(q, o, r, up, check, asked, grpcCheck, askedGRPC), uint64(0)
	for _, share := range o.Shares {
		if diff == "" {
			break
		}
		if random += uint64(share.Weight); share.Cluster != o.Shares[len(o.Shares)-1].Cluster {
			o = evaluate(random)
			diff = p.differ(q, o, r, up, check, asked, grpcCheck, askedGRPC)
		}
	}
	p.coverage.count(o, trace)
	return diff
}

func (p *pair) differ(q request, o envoy.Outcome, r reply, up, check, asked *message, grpcCheck, askedGRPC *authv3.CheckRequest) string {
	if o.Kind == envoy.Unknown {
		return cannotTell + o.Reason
	}
	if d := differCheck(check, asked, grpcCheck, askedGRPC); d != "" {
		return fmt.Sprintf("%s\nEnvoy answered %s", d, r)
	}
	switch o.Kind {
	case envoy.Forward:
		if up == nil {
			return fmt.Sprintf("engine: forwarded to %s; Envoy: answered %s", o.Cluster, r)
		}
		want := message{cluster: o.Cluster, method: o.Request.Method, path: o.Request.Path, host: o.Request.Authority, headers: fromHeaders(o.Request.Headers)}
		want.headers = withLength(want.headers, up.headers)
		if up.String() != want.String() {
			return fmt.Sprintf("the upstream got\n  %s\nthe engine says\n  %s", up, want)
		}
		return differAnswer(o, r)
	case envoy.Local:
		if up != nil {
			return fmt.Sprintf("engine: %d %s; Envoy: forwarded\n  %s", o.Status, o.Reason, up)
		}
		return differLocal(q, o, r)
	}
	return ""
}

// differAnswer compares the upstream's answer as it reached the client.
func differAnswer(o envoy.Outcome, r reply) string {
	if o.Upgrade != "" {
		return ""
	}
	want := append(envoy.Headers{}, upstreamHeaders...)
	o.Response.Apply(&want)
	want.Set("server", "istio-envoy")
	a, b := strings.Join(fromHeaders(withoutTimes(r.headers)), "\n    "), strings.Join(fromHeaders(want), "\n    ")
	if r.status != 200 || a != b {
		return fmt.Sprintf("Envoy: %d\n    %s\nengine: 200\n    %s", r.status, a, b)
	}
	return ""
}

// withoutTimes leaves out the date, the time the upstream took, and what belongs to
// the connection.
func withoutTimes(in envoy.Headers) envoy.Headers {
	var out envoy.Headers
	for _, h := range in {
		switch h.Name {
		case "date", "x-envoy-upstream-service-time", "connection":
			continue
		}
		out.Add(h.Name, h.Value)
	}
	return out
}

// withLength adds content-length: 0, which Envoy's HTTP/1 codec writes for some
// methods without a body, if it did: it belongs to the wire, not to the answer.
func withLength(want, got []string) []string {
	const zero = "content-length: 0"
	if slices.Contains(got, zero) && !slices.ContainsFunc(want, func(h string) bool { return strings.HasPrefix(h, "content-length:") }) {
		at := slices.IndexFunc(want, func(h string) bool { return h > "content-length" })
		if at < 0 {
			at = len(want)
		}
		want = slices.Insert(want, at, zero)
	}
	return want
}

func differCheck(check, asked *message, grpcCheck, askedGRPC *authv3.CheckRequest) string {
	switch {
	case (check == nil) != (asked == nil) || (grpcCheck == nil) != (askedGRPC == nil):
		return fmt.Sprintf("Envoy asked its authorizer: %v %v; the engine: %v %v", check, grpcCheck, asked, askedGRPC)
	case check != nil && check.String() != asked.String():
		return fmt.Sprintf("the authorizer was asked\n  %s\nthe engine says\n  %s", check, asked)
	case grpcCheck == nil:
		return ""
	}
	a, b := comparable(grpcCheck), comparable(askedGRPC)
	if !proto.Equal(a, b) {
		return fmt.Sprintf("the authorizer was asked\n  %v\nthe engine says\n  %v", a, b)
	}
	return ""
}

// comparable leaves out of a check what no rule decides: the time, the stream's
// and the request's id, and the client's ephemeral port.
func comparable(in *authv3.CheckRequest) *authv3.CheckRequest {
	out := proto.Clone(in).(*authv3.CheckRequest)
	out.Attributes.Request.Time = nil
	out.Attributes.Request.Http.Id = ""
	delete(out.Attributes.Request.Http.Headers, "x-request-id")
	out.Attributes.Source.GetAddress().GetSocketAddress().PortSpecifier = nil
	return out
}

// differLocal compares what Envoy answered by itself. Ignored: the date and the
// time the authorizer took.
func differLocal(q request, o envoy.Outcome, r reply) string {
	if (r.reset != "") != (o.Status == 0) {
		return fmt.Sprintf("Envoy: %s %v; engine: %d %s %q", r, r.headers, o.Status, o.Reason, o.Body)
	}
	if r.reset != "" {
		return ""
	}
	got := withoutTimes(r.headers)
	if r.get("server") == "" { // the codec's own refusal: no header and a body of its own
		if r.status != o.Status {
			return fmt.Sprintf("Envoy's codec: %d; engine: %d %s", r.status, o.Status, o.Reason)
		}
		return ""
	}
	wantBody, want := o.Body, append(envoy.Headers{}, o.Headers...)
	if q.method == "HEAD" { // the length of an empty answer to HEAD is the codec's to write or not
		wantBody = ""
		got.Remove("content-length")
		want.Remove("content-length")
	}
	a, b := strings.Join(fromHeaders(got), "\n    "), strings.Join(fromHeaders(want), "\n    ")
	if r.status != o.Status || a != b || r.body != wantBody {
		return fmt.Sprintf("Envoy: %d %q\n    %s\nengine: %d %s %q\n    %s", r.status, r.body, a, o.Status, o.Reason, wantBody, b)
	}
	return ""
}
