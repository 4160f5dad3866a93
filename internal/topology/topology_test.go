package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"
)

func set(t *testing.T, text string) *manifest.Set {
	t.Helper()
	s, err := manifest.Bytes("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func world(t *testing.T, text string) *World {
	t.Helper()
	w, err := New(set(t, text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func pod(name, labels, more string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: a, labels: {%s}}\nspec:\n  containers:\n  - name: c\n    image: i\n    ports: [{name: web, containerPort: 8080}]\n%s\n", name, labels, more)
}

func service(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: a}\nspec: {%s}\n", name, spec)
}

func deployment(name string, replicas int, more string) string {
	return fmt.Sprintf("---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %s, namespace: a}\nspec:\n  replicas: %d\n  selector: {matchLabels: {app: %s}}\n  template:\n    metadata: {labels: {app: %s}}\n    spec:\n      %s\n      containers: [{name: c, image: i}]\n", name, replicas, name, name, more)
}

func TestPods(t *testing.T) {
	w := world(t, pod("single", "app: x", "")+
		deployment("dep", 2, "serviceAccountName: robot")+
		deployment("none", 0, "")+
		strings.Replace(deployment("sts", 1, "hostNetwork: true"), "kind: Deployment", "kind: StatefulSet", 1)+
		pod("done", "app: x", "status: {phase: Succeeded, podIP: 10.244.9.9}")+
		pod("waiting", "app: x", "status: {phase: Running, podIP: 10.244.9.9, conditions: [{type: Ready, status: \"False\"}]}"))
	var got []string
	for _, p := range w.Pods() {
		got = append(got, fmt.Sprintf("%s %s %s host=%v running=%v ready=%v", p, p.ServiceAccount, p.Workload.Kind, p.HostNetwork, p.Running, p.Ready))
	}
	want := []string{
		"a/dep-1 robot Deployment host=false running=true ready=true",
		"a/dep-2 robot Deployment host=false running=true ready=true",
		"a/done default Pod host=false running=false ready=false",
		"a/single default Pod host=false running=true ready=true",
		"a/sts-0 default StatefulSet host=true running=true ready=true",
		"a/waiting default Pod host=false running=true ready=false",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// A finished pod's address may be another's by now.
	if p, ok := w.At(netip.MustParseAddr("10.244.9.9")); !ok || p.Name != "waiting" {
		t.Errorf("at 10.244.9.9: got %v", p)
	}
	if p, ok := w.At(netip.MustParseAddr("::ffff:10.244.9.9")); !ok || p.Name != "waiting" {
		t.Errorf("the same address written as IPv6: got %v", p)
	}
	for _, p := range w.Pods() {
		if at, ok := w.At(p.Addr); p.Running && (!ok || at != p) {
			t.Errorf("%s: %v is at its address", p, at)
		}
	}
	if _, ok := w.At(netip.MustParseAddr("10.244.0.1")); ok {
		t.Error("a pod at the bridge's address")
	}
}

// TestStable: another object moves nothing, unless two hashes meet.
func TestStable(t *testing.T) {
	text := deployment("dep", 3, "") + service("svc", "selector: {app: dep}, ports: [{port: 80}]")
	before, after := world(t, text), world(t, text+deployment("another", 5, "")+service("more", "ports: [{port: 80}]"))
	for _, p := range before.Pods() {
		if q, _ := after.Pod("a", p.Name); q.Addr != p.Addr {
			t.Errorf("%s moved from %s to %s", p, p.Addr, q.Addr)
		}
	}
	s, _ := before.Service("a", "svc")
	if q, _ := after.Service("a", "svc"); q.ClusterIP != s.ClusterIP {
		t.Errorf("service moved from %s to %s", s.ClusterIP, q.ClusterIP)
	}
}

func TestFull(t *testing.T) {
	opts := Options{Pods: netip.MustParsePrefix("10.0.0.0/29"), Services: netip.MustParsePrefix("fd00::/125")}
	for _, tt := range []struct{ text, want string }{
		{deployment("dep", 5, ""), ""},
		{deployment("dep", 6, ""), "no address for pod"},
		{service("s1", "") + service("s2", "") + service("s3", "") + service("s4", "") + service("s5", ""), ""},
		{service("s1", "") + service("s2", "") + service("s3", "") + service("s4", "") + service("s5", "") + service("s6", ""), "fd00::/125 has no address left"},
		{deployment("dep", 10001, ""), "spec.replicas: got 10001"},
	} {
		w, err := New(set(t, tt.text), opts)
		if tt.want == "" {
			if err != nil {
				t.Error(err)
				continue
			}
			seen := map[netip.Addr]bool{}
			for _, p := range w.Pods() {
				if seen[p.Addr] || !opts.Pods.Contains(p.Addr) {
					t.Errorf("%s at %s: twice, or out of %s", p, p.Addr, opts.Pods)
				}
				seen[p.Addr] = true
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

func TestSharedAddresses(t *testing.T) {
	at := func(host string) string { return host + "\nstatus: {podIP: 10.1.2.3}" }
	const node = "  hostNetwork: true"
	for _, tt := range []struct {
		name, text, want string
		found            bool
	}{
		{"one", pod("p", "x: y", at("")), "", true},
		{"two pods", pod("p", "x: y", at("")) + pod("q", "x: y", at("")), "10.1.2.3 is also the address of another pod", false},
		{"two of the node", pod("p", "x: y", at(node)) + pod("q", "x: y", at(node)), "", false},
		{"three of the node", pod("p", "x: y", at(node)) + pod("q", "x: y", at(node)) + pod("r", "x: y", at(node)), "", false},
		{"node and pod", pod("p", "x: y", at(node)) + pod("q", "x: y", at("")), "is also the address", false},
		{"no address", pod("p", "x: y", "status: {podIP: here}"), `got "here", want an IP address`, false},
		{"this machine", pod("p", "x: y", "status: {podIP: \"::ffff:127.0.0.1\"}"), "got ::ffff:127.0.0.1, which no pod can have", false},
		{"two cluster IPs", service("s", "clusterIP: 10.96.0.9") + service("t", "clusterIP: 10.96.0.9"), "10.96.0.9 is also the address of Service a/s", false},
		{"one name", pod("dep-1", "x: y", "") + deployment("dep", 1, ""), "is also a pod of", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := New(set(t, tt.text), Options{})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if err == nil {
				if _, ok := w.At(netip.MustParseAddr("10.1.2.3")); ok != tt.found {
					t.Errorf("found: got %v, want %v", ok, tt.found)
				}
			}
		})
	}
}

const gatewayObject = "---\napiVersion: networking.istio.io/v1beta1\nkind: Gateway\nmetadata: {name: g, namespace: other}\nspec: {%s servers: [{hosts: ['*'], port: {name: http, number: 80, protocol: HTTP}}]}\n"

func TestGateways(t *testing.T) {
	text := deployment("gw", 2, "") + deployment("app", 1, "") + deployment("off", 0, "")
	w := world(t, text+fmt.Sprintf(gatewayObject, "selector: {app: gw},"))
	if got := w.Gateways(map[string]string{"app": "gw"}); len(got) != 2 || got[0].Name != "gw-1" {
		t.Errorf("pods: got %v", got)
	}
	if got := w.Gateways(nil); len(got) != 0 {
		t.Errorf("no selector: got %v", got)
	}
	got, err := w.GatewayWorkloads()
	if err != nil || len(got) != 1 || got[0].String() != "Deployment a/gw" || len(got[0].Pods) != 2 {
		t.Errorf("workloads: got %v, %v", got, err)
	}
	w = world(t, text+fmt.Sprintf(gatewayObject, ""))
	if _, err := w.GatewayWorkloads(); err == nil || !strings.Contains(err.Error(), "spec.selector: empty") {
		t.Errorf("no selector: got %v", err)
	}
}

func TestCluster(t *testing.T) {
	w := world(t, pod("p", "app: x", "")+service("s", "selector: {app: x}, ports: [{port: 80, targetPort: web}]"))
	for _, tt := range []struct{ name, want string }{
		{"outbound|80||s.a.svc.cluster.local", ""},
		{"outbound|80||S.A.svc.cluster.local", ""},
		{"outbound|81||s.a.svc.cluster.local", "no port 81 in Service a/s (it has 80)"},
		{"outbound|80|v1|s.a.svc.cluster.local", "subset v1"},
		{"outbound|80||t.a.svc.cluster.local", "no Service t in namespace a: it has s"},
		{"outbound|80||example.com", "no Service's name"},
		{"outbound|x||s.a.svc.cluster.local", `got port "x"`},
		{"outbound|70000||s.a.svc.cluster.local", `got port "70000"`},
		{"inbound|8080||", "the proxy's own pod"},
		{"xds-grpc", "want outbound|PORT|SUBSET|HOST"},
		{"", "want outbound|PORT|SUBSET|HOST"},
	} {
		got, err := w.Cluster(tt.name)
		switch {
		case tt.want == "" && (err != nil || len(got) != 1 || got[0].Addr.Port() != 8080):
			t.Errorf("%s: got %v, %v", tt.name, got, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := w.Cluster("BlackHoleCluster"); !errors.Is(err, ErrBlackHole) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Cluster("PassthroughCluster"); !errors.Is(err, ErrPassthrough) {
		t.Errorf("got %v", err)
	}
	if c, err := ParseCluster("inbound|8080||"); err != nil || !c.Inbound || c.Port != 8080 {
		t.Errorf("inbound: got %+v, %v", c, err)
	}
}
