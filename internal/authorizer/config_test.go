package authorizer

import (
	"strings"
	"testing"
	"time"
)

const fullConfig = `doors:
- {gateway: kubeflow/kubeflow-gateway, port: 8080}
- gateway: knative-serving/knative-local-gateway
  port: 8081
  inCluster: true
gateways:
- {namespace: istio-system, labels: {istio: ingressgateway}}
kubeflow:
  namespaces: [my-tools]
  hosts: [kf.example.com]
routing: derived
login:
  delegate:
    url: http://oauth2-proxy.oauth2-proxy.svc.cluster.local:80
    requestHeaders: [Authorization, cookie]
    responseHeaders: [kubeflow-userid, kubeflow-groups]
    groupsHeader: kubeflow-groups
    timeout: 1s
    sessionPath: /oauth2/auth
    sessionLife: 3s
    cookies: [my_session]
identity:
  headers: [x-remote-*]
proxies:
- {app: my-proxy}
`

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig("c.yaml", []byte(fullConfig))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Doors) != 2 || !c.Doors[1].InCluster || c.Routing != Derived || c.Login.Delegate.Timeout != time.Second || c.Login.Delegate.GroupsHeader != "kubeflow-groups" {
		t.Errorf("got %+v", c)
	}
	if got := c.withDefaults().Login.Delegate.RequestHeaders[0]; got != "authorization" || c.Login.Delegate.RequestHeaders[0] != "Authorization" {
		t.Errorf("got %s, and the caller's is %s", got, c.Login.Delegate.RequestHeaders[0])
	}
	if _, err := New(c, Options{}); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "# nothing\n", "{}"} {
		c, err := ParseConfig("c.yaml", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if d := c.withDefaults(); d.Routing != Metadata || len(d.Doors) != 0 || d.Login.Delegate.Timeout == 0 {
			t.Errorf("%q: got %+v", text, d)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{"inCluster: true", "incluster: true", "c.yaml:5: incluster: unknown field"},
		{"routing: derived", "routing: off", `c.yaml:11: routing: got "off", want metadata or derived`},
		{"routing: derived", "routing: derived\nrouting: metadata", `c.yaml:12: mapping key "routing" already defined at line 11`},
		{"port: 8081", "port: 0", "c.yaml:4: doors[1].port: required"},
		{"port: 8081", "port: 70000", "c.yaml:4: cannot unmarshal"},
		{"port: 8081", "port: 8080", "c.yaml:5: doors[1].inCluster: another door has port 8080"},
		{"gateway: knative-serving/knative-local-gateway", "gateway: knative-local-gateway", `c.yaml:3: doors[1].gateway: got "knative-local-gateway"`},
		{"labels: {istio: ingressgateway}", "labels: {}", "c.yaml:7: gateways[0]: namespace and labels are required"},
		{"hosts: [kf.example.com]", `hosts: ["*.example.com"]`, `c.yaml:10: kubeflow.hosts[0]: got "*.example.com", want an exact host name`},
		{"url: http://oauth2-proxy.oauth2-proxy.svc.cluster.local:80", "url: oauth2-proxy:80", `c.yaml:14: login.delegate.url: got "oauth2-proxy:80"`},
		{"local:80\n", "local:80/auth\n", "c.yaml:14: login.delegate.url"},
		{"timeout: 1s", "timeout: 2", "c.yaml:18: cannot unmarshal"},
		{"timeout: 1s", "timeout: 2ms", "c.yaml:18: login.delegate.timeout: got 2ms, want 10ms to 1m"},
		{"timeout: 1s", "timeout: soon", "c.yaml:18: cannot unmarshal"},
		{"[Authorization, cookie]", "[Host]", "c.yaml:15: login.delegate.requestHeaders[0]: host cannot be passed on"},
		{"sessionLife: 3s", "sessionLife: 1h", "c.yaml:20: login.delegate.sessionLife"},
		{"sessionPath: /oauth2/auth", "sessionPath: auth", "c.yaml:19: login.delegate.sessionPath"},
		{"groupsHeader: kubeflow-groups", "groupsHeader: x", "c.yaml:17: login.delegate.groupsHeader: x is not among the responseHeaders"},
		{"cookies: [my_session]", `cookies: ["*"]`, "c.yaml:21: login.delegate.cookies[0]"},
		{"[x-remote-*]", `["x-*-y"]`, "c.yaml:23: identity.headers[0]"},
		{"timeout: 1s", "skip: {paths: [/dex/*]}", "c.yaml:18: login.delegate.skip.doors: required"},
		{"timeout: 1s", "skip: {doors: [8080], paths: [dex]}", `c.yaml:18: login.delegate.skip.paths[0]: got "dex"`},
		{"timeout: 1s", `skip: {paths: ["/*"]}`, `c.yaml:18: login.delegate.skip.paths[0]: got "/*"`},
		{"timeout: 1s", "skip: {headers: [a b]}", `c.yaml:18: login.delegate.skip.headers[0]: got "a b"`},
		{"timeout: 1s", "refusalHeaders: [a b]", `c.yaml:18: login.delegate.refusalHeaders[0]: got "a b"`},
		{"headers: [x-remote-*]", "userHeader: x-postern-caller", `c.yaml:23: identity.userHeader: got "x-postern-caller"`},
		{"{app: my-proxy}", "{}", "c.yaml:25: proxies[0]: no label"},
		{"proxies:", "---\nproxies:", "c.yaml: got more than one YAML document"},
		{"doors:", "doors: &a", ""},
		{"doors:", "\tdoors:", "c.yaml"},
	} {
		if !strings.Contains(fullConfig, tt.old) {
			t.Fatalf("%q is not in the configuration", tt.old)
		}
		_, err := ParseConfig("c.yaml", []byte(strings.Replace(fullConfig, tt.old, tt.new, 1)))
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: got %v", tt.new, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %s", tt.new, err, tt.want)
		}
	}
	if _, err := New(Config{Routing: "off"}, Options{}); err == nil {
		t.Error("New takes what ParseConfig does not")
	}
}
