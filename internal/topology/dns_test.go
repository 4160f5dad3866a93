package topology

import (
	"fmt"
	"strings"
	"testing"
)

// names is a small cluster's worth of Services.
func names(t *testing.T) *World {
	t.Helper()
	return world(t, pod("p", "app: x", "")+pod("q", "app: x", "status: {phase: Pending}")+pod("lazy", "app: lazy", "status: {phase: Pending}")+
		service("s", "selector: {app: x}, ports: [{port: 80, targetPort: web}, {port: 81, targetPort: 9000}, {port: 82}, {port: 83, targetPort: grpc}, {port: 53, protocol: UDP}]")+
		service("head", "clusterIP: None, selector: {app: x}, ports: [{port: 8080, targetPort: 9999}]")+
		service("unready", "selector: {app: lazy}, ports: [{port: 80}]")+
		service("eager", "publishNotReadyAddresses: true, selector: {app: lazy}, ports: [{port: 80}]")+
		service("nobody", "selector: {app: nobody}, ports: [{port: 80}]")+
		service("manual", "ports: [{port: 80}]")+
		service("alias", "type: ExternalName, externalName: S.a.svc.cluster.local.")+
		service("again", "type: ExternalName, externalName: alias.a.svc.cluster.local")+
		service("short", "type: ExternalName, externalName: s.a")+
		service("out", "type: ExternalName, externalName: example.com")+
		service("ring", "type: ExternalName, externalName: gnir.a.svc.cluster.local")+
		service("gnir", "type: ExternalName, externalName: ring.a.svc.cluster.local")+
		service("self", "type: ExternalName, externalName: self.a.svc.cluster.local")+
		chain(12)+
		"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: empty}\n")
}

func chain(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(service(fmt.Sprintf("hop%d", i), fmt.Sprintf("type: ExternalName, externalName: hop%d.a.svc.cluster.local", i+1)))
	}
	return b.String()
}

func TestLookup(t *testing.T) {
	w := names(t)
	for _, tt := range []struct{ from, host, want string }{
		{"a", "s", "a/s"},
		{"a", "S", "a/s"},
		{"b", "s", `no such host "s" for a pod of namespace b: no Service s in namespace b: there is no such namespace`},
		{"empty", "s", "no Service s in namespace empty: it has none"},
		{"b", "s.a", "a/s"},
		{"b", "s.a.svc", "a/s"},
		{"b", "s.a.svc.cluster.local", "a/s"},
		{"b", "s.a.svc.cluster.local.", "a/s"},
		{"b", "s.A.Svc.Cluster.LOCAL", "a/s"},
		{"a", "s.", "no such host"}, // as it is: no search path
		{"a", "s.a.", "no such host"},
		{"b", "s.a.svc.cluster", "names outside of the cluster are not resolved"},
		{"a", "alias", "a/s"},
		{"a", "again", "a/s"},
		{"a", "short", "service a/short: externalName s.a:"}, // a CNAME knows no search path
		{"a", "out", "service a/out: externalName example.com: it is no Service's name"},
		{"a", "ring", "leads back to ring.a.svc.cluster.local"},
		{"a", "self", "leads back to self.a.svc.cluster.local"},
		{"a", "hop0", "more than 8 ExternalNames in a row"},
		{"a", "example.com", "names outside of the cluster are not resolved"},
		{"a", "t", "no Service t in namespace a: it has again, alias, eager, gnir, head, hop0, hop1, hop10 and "},
		{"a", "t.zoo.svc.cluster.local", "no Service t in namespace zoo: there is no such namespace"},
		{"a", "x.y.a.svc.cluster.local", "names outside"},
		{"a", "", "no such host"},
		{"a", "..", "no such host"},
	} {
		got, err := w.Lookup(tt.from, tt.host)
		switch {
		case err != nil && !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s from %s: got %v, want %q", tt.host, tt.from, err, tt.want)
		case err == nil && got.Service.String() != tt.want:
			t.Errorf("%s from %s: got %s, want %q", tt.host, tt.from, got.Service, tt.want)
		}
	}
	n, err := w.Lookup("a", "again")
	if want := "[again.a.svc.cluster.local alias.a.svc.cluster.local]"; err != nil || fmt.Sprint(n.Aliases) != want || n.Host != "s.a.svc.cluster.local" {
		t.Errorf("got %v %s %v, want %s", n.Aliases, n.Host, err, want)
	}
}

func TestReach(t *testing.T) {
	w := names(t)
	p, _ := w.Pod("a", "p")
	s, _ := w.Service("a", "s")
	for _, tt := range []struct {
		host string
		port uint32
		want string
	}{
		{"s", 80, "a/p:8080"},
		{"s", 81, "a/p:9000"},
		{"s", 82, "a/p:82"},
		{"s", 83, `no pod behind port 83 of Service a/s: no container has a port named "grpc"`},
		{"s", 53, "no port 53 in Service a/s"}, // UDP
		{"s", 84, "no port 84 in Service a/s (it has 80, 81, 82, 83, 53)"},
		{"s", 0, "got port 0"},
		{"s", 65536, "got port 65536"},
		{"alias", 80, "a/p:8080"},
		{"head", 7777, "a/p:7777"}, // no proxy in between: the port is the pod's
		{"unready", 80, "no pod behind Service a/unready: none of 1 is ready"},
		{"eager", 80, "a/lazy:80"},
		{"nobody", 80, "no pod behind Service a/nobody: its selector matches none in namespace a"},
		{"manual", 80, "no pod behind Service a/manual: it has no selector"},
		{p.Addr.String(), 1234, "a/p:1234"},
		{"::ffff:" + p.Addr.String(), 1234, "a/p:1234"},
		{s.ClusterIP.String(), 80, "a/p:8080"},
		{"192.0.2.1", 80, "nothing at 192.0.2.1"},
		{"[::1]", 80, "nothing at ::1"},
		{"gone", 80, "no such host"},
	} {
		got, err := w.Reach("a", tt.host, tt.port)
		switch {
		case err != nil && !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s:%d: got %v, want %q", tt.host, tt.port, err, tt.want)
		case err == nil && len(got) != 1:
			t.Errorf("%s:%d: got %v, want one", tt.host, tt.port, got)
		case err == nil:
			if at := fmt.Sprintf("%s:%d", got[0].Pod, got[0].Addr.Port()); at != tt.want {
				t.Errorf("%s:%d: got %s, want %s", tt.host, tt.port, at, tt.want)
			}
		}
	}
}
