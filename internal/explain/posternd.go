package explain

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/passport"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// posternd is the manifests' posternd: the real authorizer with what it would
// know of them.
type posternd struct {
	config   authorizer.Config
	snapshot *authorizer.Snapshot
	keys     *passport.Keys
	login    string // the Service of the login it asks
	port     uint32
}

// findPosternd finds the workload with posternd's image and its ConfigMap; nil
// without one.
func findPosternd(w *world.World) (*posternd, error) {
	for _, wl := range w.Topology.Workloads() {
		if len(wl.Pods) == 0 || len(wl.Pods[0].Containers) == 0 || !strings.Contains(wl.Pods[0].Containers[0].Image, "posternd") {
			continue
		}
		return newPosternd(w, wl)
	}
	return nil, nil
}

func newPosternd(w *world.World, wl *topology.Workload) (*posternd, error) {
	obj, cm, ok := manifest.Find[*corev1.ConfigMap](w.Set, wl.Namespace, "posternd")
	if !ok {
		return nil, wl.Object.Errorf("", "ConfigMap %s/posternd is not in the manifests: posternd's configuration is not known", wl.Namespace)
	}
	p := &posternd{}
	var err error
	if p.config, err = authorizer.ParsePart("config.yaml", []byte(cm.Data["config.yaml"])); err != nil {
		return nil, obj.Errorf("data", "%v", err)
	}
	if p.snapshot, err = w.Snapshot(p.config); err != nil {
		return nil, err
	}
	if p.keys, err = passport.New(rand.Reader); err != nil {
		return nil, err
	}
	p.login, p.port = "authservice.istio-system.svc.cluster.local", 8080
	if u, err := url.Parse(p.config.Login.Delegate.URL); err == nil && u.Hostname() != "" {
		p.login, p.port = u.Hostname(), 80
		_, _ = fmt.Sscan(u.Port(), &p.port)
	}
	return p, nil
}

// authorize is the engine's question to an authorizer.
func (v *visit) authorize(c envoy.Check) envoy.Answer {
	v.asked = true
	l := v.system().loginOf(c.Cluster)
	if l.program == posterndApp && c.GRPC != nil {
		return v.askPosternd(c)
	}
	q := question{}
	if c.HTTP != nil {
		q = question{c.HTTP.Method, c.HTTP.Path, c.HTTP.Headers}
	} else {
		h := c.GRPC.GetAttributes().GetRequest().GetHttp()
		q.method, q.path = h.GetMethod(), h.GetPath()
		for name, value := range h.GetHeaders() {
			q.headers.Add(name, value)
		}
	}
	a := l.answer(v.walk.call, q)
	if a.undetermined != "" {
		return v.cannotTell(a.undetermined)
	}
	v.say(a.assumed, nil)
	v.walk.assume(a.assumed)
	for _, h := range a.headers {
		if a.status == http.StatusOK && h.Name == identity[0] {
			v.walk.named = h.Value
		}
	}
	if c.GRPC != nil {
		return envoy.Answer{GRPC: checkResponse(a)}
	}
	return envoy.Answer{Status: a.status, Headers: a.headers}
}

// cannotTell ends the evaluation: whatever the engine makes of it is not used.
func (v *visit) cannotTell(text string) envoy.Answer {
	v.undetermined = text
	return envoy.Answer{Err: errors.New("not known")}
}

// say adds a step of the authorizer's between those of the engine.
func (v *visit) say(text string, by *By) {
	step := envoy.Step{Stage: "authorizer", Text: text}
	if by != nil {
		step.Object, step.Rule = by.object(), by.Rule
	}
	v.trace.Steps = append(v.trace.Steps, step)
}

// askPosternd runs the real authorizer. Each call has one of its own, so that
// no session is remembered from another.
func (v *visit) askPosternd(c envoy.Check) envoy.Answer {
	p := v.system().posternd
	if p == nil {
		return v.cannotTell("the answer of posternd is not known: its Deployment and ConfigMap are not in the manifests")
	}
	transport := &statedLogin{visit: v, login: v.system().loginOf(fmt.Sprintf("outbound|%d||%s", p.port, p.login))}
	a, err := authorizer.New(p.config, authorizer.Options{HTTPClient: &http.Client{Transport: transport}, Keys: p.keys, Now: v.system().now})
	if err != nil {
		return v.cannotTell("posternd's configuration: " + err.Error())
	}
	a.Swap(p.snapshot)
	verdict := a.Decide(v.walk.ctx, authorizer.RequestOf(c.GRPC))
	if transport.undetermined != "" {
		return v.cannotTell(transport.undetermined)
	}
	v.verdict(verdict)
	return envoy.Answer{GRPC: authorizer.Response(verdict)}
}

// verdict records what posternd said.
func (v *visit) verdict(d authorizer.Verdict) {
	v.walk.allowed = nil
	if !d.Allow {
		v.refusal = &d
		v.say(fmt.Sprintf("posternd refuses: %s: %s", d.Reason, orElse(d.Message, fmt.Sprintf("the login's own answer, %d", d.Status))), nil)
		return
	}
	text := "posternd allows: " + d.Reason
	if d.Caller.User != "" {
		text += fmt.Sprintf(", %s, recognised by %s", d.Caller.User, d.How)
	}
	var by *By
	if d.Decision.Allowed {
		by = byRef(d.Decision)
		v.walk.allowed = by
	}
	v.say(text, by)
	for _, h := range d.Set {
		if h.Name == identity[0] {
			v.walk.named = h.Value
		}
	}
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// statedLogin is the login that posternd asks, as it is stated or assumed.
type statedLogin struct {
	visit        *visit
	login        login
	undetermined string
}

func (t *statedLogin) RoundTrip(r *http.Request) (*http.Response, error) {
	q := question{method: r.Method, path: r.URL.RequestURI()}
	for name, values := range r.Header {
		for _, value := range values {
			q.headers.Add(strings.ToLower(name), value)
		}
	}
	a := t.login.answer(t.visit.walk.call, q)
	if a.undetermined != "" {
		t.undetermined = a.undetermined
		return nil, errors.New(a.undetermined)
	}
	t.visit.walk.assume(a.assumed)
	t.visit.say("posternd asks the login: "+a.assumed, nil)
	resp := &http.Response{StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(nil)), Request: r}
	for _, h := range a.headers {
		resp.Header.Add(h.Name, h.Value)
	}
	return resp, nil
}

// checkResponse is a stated answer as a gRPC authorizer gives it.
func checkResponse(a said) *authv3.CheckResponse {
	var options []*corev3.HeaderValueOption
	for _, h := range a.headers {
		options = append(options, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD})
	}
	if a.status == http.StatusOK {
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.OK)},
			HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: options}}}
	}
	return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(a.status)}, Headers: options}}}
}

var _ http.RoundTripper = (*statedLogin)(nil)
