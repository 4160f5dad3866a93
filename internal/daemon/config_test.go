package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"postern.dev/postern/internal/authorizer"
)

// story is the configuration of the story's ConfigMap: the program's own part may
// be left out.
func storyConfig(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../examples/story/4-postern/posternd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "config.yaml: |\n")
	if !ok {
		t.Fatal("no config.yaml in the story's ConfigMap")
	}
	var b strings.Builder
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "    ") {
			break
		}
		b.WriteString(line[4:])
	}
	return b.String()
}

// What reads the authorizer's part alone (postern explain, postern up) stumbles over no
// setting of the program's own, nor takes one it does not know.
func TestPart(t *testing.T) {
	own := 0
	for f := range reflect.TypeFor[Config]().Fields() {
		if name := f.Tag.Get("yaml"); name != ",inline" {
			own++
			value := "{}"
			if f.Type.Kind() == reflect.Bool {
				value = "true"
			}
			if _, err := authorizer.ParsePart("f", []byte(name+": "+value+"\n"+storyConfig(t))); err != nil {
				t.Error(err)
			}
		}
	}
	if own != 8 {
		t.Errorf("the program has %d settings of its own, want 8: tell authorizer.ParsePart", own)
	}
	if c, err := authorizer.ParsePart("f", []byte("insecure: true\n"+storyConfig(t))); err != nil || !c.Insecure || len(c.Doors) != 3 {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := authorizer.ParsePart("f", []byte("listens: {}\n"+storyConfig(t))); err == nil {
		t.Error("took an unknown setting")
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig("f", []byte(storyConfig(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Authorizer.Doors) != 3 || c.Listen.GRPC != "127.0.0.1:9000" || c.Listen.HTTP != "127.0.0.1:9001" || c.Authorizer.Insecure {
		t.Errorf("got %+v", c)
	}
	file := filepath.Join(t.TempDir(), "f.pem")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tls := "tls: {certFile: " + file + ", keyFile: " + file + ", clientCAFile: " + file + ", clients: [spiffe://d/ns/a/sa/b]}\n"
	for _, row := range []struct{ name, yaml, want string }{
		{"nothing", "", ""},
		{"loopback", "listen: {grpc: '127.0.0.1:1', http: ':9001'}", ""},
		{"loopback, IPv6", "listen: {grpc: '[::1]:1'}", ""},
		{"every address", "listen: {grpc: ':9000'}", "f:1: listen.grpc: whoever reaches :9000"},
		{"every address, IPv6", "listen: {grpc: '[::]:9000'}", "could claim any address"},
		{"another address", "\nlisten:\n  grpc: 10.0.0.1:9000", "f:3: listen.grpc: whoever reaches"},
		{"a name that is loopback today", "listen: {grpc: 'localhost:9000'}", `got host "localhost", want an IP address`},
		{"no port", "listen: {grpc: 127.0.0.1}", "want ADDRESS:PORT"},
		{"a service's name", "listen: {http: '127.0.0.1:http'}", "want a number"},
		{"insecure", "listen: {grpc: ':9000'}\ninsecure: true", ""},
		{"with tls", "listen: {grpc: ':9000'}\n" + tls, ""},
		{"tls and insecure", "insecure: true\n" + tls, "f:1: insecure: with tls the port is not insecure"},
		{"half of tls", "tls: {certFile: " + file + "}", "keyFile is missing"},
		{"tls without clients", "tls: {certFile: " + file + ", keyFile: " + file + ", clientCAFile: " + file + "}", "clients is missing"},
		{"any client", strings.Replace(tls, "spiffe://d/ns/a/sa/b", "'spiffe://d/*'", 1), "want a SPIFFE ID"},
		{"missing file", "passport: {keyFiles: [/no/such]}", "f:1: passport.keyFiles[0]: open /no/such"},
		{"three keys", "passport: {keyFiles: [" + file + "," + file + "," + file + "]}", "at most one more"},
		{"missing directory", "manifests: {dirs: [/no/such]}", "manifests.dirs[0]"},
		{"pods", "manifests: {pods: 127.66.0.0/16}", ""},
		{"bad pods", "manifests: {pods: x}", "netip.ParsePrefix"},
		{"unknown field", "lissen: {}", "f:1: lissen: unknown field"},
		{"unknown field inside", "listen: {grcp: ''}", "grcp: unknown field"},
		{"not for files", "insecureport: true", "unknown field"},
		{"the authorizer's problems", "\nrouting: x", "f:2: routing: got"},
		{"the authorizer's unknown field", "login: {delegat: {}}", "delegat: unknown field"},
		{"level", "logLevel: loud", "f:1: logLevel"},
		{"level of the program's only", "logLevel: INFO", "logLevel"},
		{"drain", "listen: {drain: 2h}", "want at most 1m"},
		{"a cluster", "cluster: {}", ""},
		{"a cluster laid out otherwise", "cluster: {kserve: kserve, mesh: istio}", ""},
		{"a kubeconfig that is not there", "\ncluster: {kubeconfig: /no/such}", "f:2: cluster.kubeconfig: open /no/such"},
		{"an unknown field of a cluster", "cluster: {kubeconfg: x}", "kubeconfg: unknown field"},
		{"two documents", "logLevel: info\n---\nlogLevel: info", "more than one YAML document"},
	} {
		_, err := ParseConfig("f", []byte(row.yaml))
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
	if c, err := ParseConfig("f", []byte("insecure: true")); err != nil || !c.Authorizer.Insecure {
		t.Errorf("insecure does not turn pod addresses off: %v", err)
	}
}

func TestMainRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("lissen: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "e.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, 2, "posternd: --config is missing\nposternd: hint: see posternd --help"},
		{[]string{"--config", "/no/such"}, 2, "posternd: open /no/such"},
		{[]string{"--config", file}, 2, "c.yaml:1: lissen: unknown field"},
		{[]string{"--config", empty}, 2, "nothing says where the cluster's objects"},
		{[]string{"--config", empty, "--in-cluster"}, 2, "cluster: no kubeconfig is given, and this is no pod of a cluster"},
		{[]string{"--config", empty, "--kubeconfig", "/no/such"}, 2, "/no/such: no such file"},
		{[]string{"--config", empty, "--kubeconfig", "x", "--in-cluster"}, 2, "want one of the two"},
		{[]string{"--config", empty, "--in-cluster", "--manifests", filepath.Dir(empty)}, 2, "want one of the two"},
		{[]string{"--config", empty, "--manifests", "/no/such"}, 2, "--manifests: open /no/such"},
		{[]string{"--config", empty, "x"}, 2, `got argument "x"`},
		{[]string{"--nonsense"}, 2, "posternd: flag provided but not defined: -nonsense"},
		{[]string{"--help"}, 0, ""},
	} {
		var out, talk strings.Builder
		if got := Main(row.args, &out, &talk); got != row.status || !strings.Contains(talk.String(), row.want) {
			t.Errorf("%v: got %d %q, want %d %q", row.args, got, talk.String(), row.status, row.want)
		}
		if row.status == 0 && !strings.HasPrefix(out.String(), "posternd answers") {
			t.Errorf("%v: got %q", row.args, out.String())
		}
	}
}
