package explain_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"postern.dev/postern/internal/explain"
)

func TestCalls(t *testing.T) {
	s := system(t, "4-postern")
	for _, tt := range []struct {
		call explain.Call
		want string // of the error, "" for none
	}{
		{explain.Call{URL: "http://localhost"}, ""},
		{explain.Call{URL: "HTTP://localhost?q=1#f"}, ""},
		{explain.Call{URL: "http://localhost:8081/"}, ""},
		{explain.Call{URL: "localhost/"}, "want http://HOST"},
		{explain.Call{URL: "https://localhost/"}, "TLS listeners are not modelled"},
		{explain.Call{URL: "ftp://localhost/"}, "want http://"},
		{explain.Call{URL: "http:///x"}, "without a host"},
		{explain.Call{URL: "http://a:b/"}, `got port "b"`},
		{explain.Call{URL: "http://u:p@a/"}, "user name"},
		{explain.Call{URL: "http://a/b c"}, "no white space"},
		{explain.Call{URL: "http://a/", Method: "G T"}, `got method "G T"`},
		{explain.Call{URL: "http://a/", Headers: [][2]string{{"a b", "c"}}}, "got header"},
		{explain.Call{URL: "http://a/", Headers: [][2]string{{"a", "b\r\nc: d"}}}, "got header"},
		{explain.Call{URL: "http://a/", From: "nobody"}, "want outside, pod:NAMESPACE/NAME"},
		{explain.Call{URL: "http://a/", From: "pod:default"}, "want pod:NAMESPACE/NAME"},
		{explain.Call{URL: "http://a/", From: "pod:default/gone"}, "there are myapp-pod"},
		{explain.Call{URL: "http://a/", From: "pod:nowhere/gone"}, "namespace nowhere has no running pods"},
		{explain.Call{URL: "http://a/", From: "sa:default/gone"}, "there are default"},
		{explain.Call{URL: "http://orders.backend/", From: "sa:default/default"}, ""},
		{explain.Call{URL: "http://a/", From: "10.1.2.3"}, ""},
		{explain.Call{URL: "http://a/", Door: "9"}, "no gateway listens there (there are 8080, 8081, "},
		{explain.Call{URL: "http://a/", Door: "kubeflow-gateway"}, ""},
		{explain.Call{URL: "http://a/", Door: "some-gateway"}, "kubeflow/kubeflow-gateway"},
		{explain.Call{URL: "http://a/", Session: "a", Authz: &explain.Authz{Status: 200}}, "want one of them"},
		{explain.Call{URL: "http://a/", Authz: &explain.Authz{Status: 20}}, "got authz status 20"},
	} {
		_, err := s.Explain(context.Background(), tt.call)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, explain.ErrCall) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%+v: got %v, want %q", tt.call, err, tt.want)
		}
	}
}

// What nobody stated and nobody can look up is unknown, and named.
func TestLogins(t *testing.T) {
	s := system(t, "1-login-everywhere")
	cookie := [2]string{"Cookie", "a=b; authservice_session=xyz"}
	for _, tt := range []struct {
		call    explain.Call
		outcome explain.Outcome
		text    string // in why or assumed
	}{
		{explain.Call{URL: "http://localhost/pipeline"}, explain.Redirected, "no session"},
		{explain.Call{URL: "http://localhost/dex/auth"}, explain.Forwarded, "lets every path that begins with /dex through"},
		{explain.Call{URL: "http://localhost/login/oidc?code=x"}, explain.Unknown, "path /login/oidc is istio-system/authservice:8080's own"},
		{explain.Call{URL: "http://localhost/", Method: "OPTIONS"}, explain.Unknown, "answers OPTIONS with 200 by itself"},
		{explain.Call{URL: "http://localhost/", Headers: [][2]string{cookie}}, explain.Unknown, "the session of the request's cookie authservice_session is not known"},
		{explain.Call{URL: "http://localhost/", Headers: [][2]string{cookie}, Authz: &explain.Authz{Status: 401}}, explain.Refused, "answers 401, as stated"},
		{explain.Call{URL: "http://localhost/", Authz: &explain.Authz{Status: 503}}, explain.Refused, "failed: status 503"},
		{explain.Call{URL: "http://orders-api.backend.svc.cluster.local/", From: "pod:default/myapp-pod", Session: "u@x"}, explain.Forwarded, "knows the session of u@x"},
	} {
		a := ask(t, s, tt.call)
		if a.Outcome != tt.outcome || !strings.Contains(strings.Join(append(a.Why, a.Assumed...), "\n"), tt.text) {
			t.Errorf("%s %s: got %s, %q, assumed %q; want %s, %q", tt.call.Method, tt.call.URL, a.Outcome, a.Why, a.Assumed, tt.outcome, tt.text)
		}
	}
}

func TestRequests(t *testing.T) {
	s := system(t, "4-postern")
	in := strings.Join([]string{
		`{"from":"pod:default/myapp-pod","method":"POST","url":"http://sklearn-iris.kserve-test.svc.cluster.local/v1/models/m"}`,
		`{"url":"http://localhost/","headers":[["Host","sklearn-iris.kserve-test.example.com"]]}`,
		``,
		`{"url":"http://localhost/","hedaers":[]}`,
		`not json`,
		`{"url":"` + strings.Repeat("x", 2<<20) + `"}`,
		`{"from":"pod:x/y","url":"http://a/"}`,
		`{"url":"http://localhost/","authz":{"status":403,"headers":[["x","y"]]}}`,
	}, "\n")
	var out strings.Builder
	status, err := s.Requests(context.Background(), strings.NewReader(in), &out, explain.Call{})
	if err != nil || status != 2 {
		t.Errorf("got status %d, %v; want 2", status, err)
	}
	type answer struct {
		Outcome explain.Outcome
		Status  int
		Line    int
		Error   string
	}
	want := []answer{
		{explain.Forwarded, 0, 0, ""}, {explain.Refused, 401, 0, ""}, {explain.Unknown, 0, 4, `unknown field "hedaers"`}, {explain.Unknown, 0, 5, "want one JSON object"},
		{explain.Unknown, 0, 6, "longer than"}, {explain.Unknown, 0, 7, "namespace x has no running pods"}, {explain.Refused, 403, 0, ""},
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(lines), len(want), out.String())
	}
	for i, line := range lines {
		var got answer
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		if got.Outcome != want[i].Outcome || got.Status != want[i].Status || got.Line != want[i].Line || !strings.Contains(got.Error, want[i].Error) {
			t.Errorf("line %d: got %+v, want %+v", i+1, got, want[i])
		}
	}
	// All reach a backend: 0.
	out.Reset()
	if status, err := s.Requests(context.Background(), strings.NewReader(`{}`+"\n"), &out, explain.Call{From: "pod:default/myapp-pod", URL: "http://orders.backend/"}); err != nil || status != 2 {
		t.Errorf("a line without url: got %d, %v; want 2", status, err)
	}
}

// What Envoy refuses by itself has something that would change it, too.
func TestRefusedByEnvoy(t *testing.T) {
	a := ask(t, system(t, "1-login-everywhere"), explain.Call{URL: "http://localhost/", Headers: [][2]string{{"Connection", "upgrade"}, {"Upgrade", "foo"}}})
	if a.Outcome != explain.Refused || a.Status != 403 || len(a.Nearest) != 1 || !strings.Contains(a.Nearest[0], "upgrade_failed") {
		t.Errorf("got %s %d, nearest %q, want Envoy's refusal of the upgrade", a.Outcome, a.Status, a.Nearest)
	}
}
