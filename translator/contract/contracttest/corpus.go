// Package contracttest is the part of a translator's tests that is the same for every line.
package contracttest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"postern.dev/postern/translator/contract"
)

// corpus is where the corpus lies, seen from a translator's directory. It is not part of the checkout.
const corpus = "../../../shared/corpus"

// ToJSON turns one YAML document into JSON. The contract is stdlib only, so the translators bring it.
type ToJSON func(yaml []byte) ([]byte, error)

// Derived are the objects that exist only at run time and that the goldens were made with.
var Derived = []string{"isvc-runtime", "knative-vs-external", "kserve-vs-external"}

// Release returns the objects of a release of the corpus, with Derived. Without a corpus it skips the test; a release that is missing in
// a corpus that is there fails it.
func Release(t *testing.T, toJSON ToJSON, release string) []json.RawMessage {
	t.Helper()
	if _, err := os.Stat(corpus); os.IsNotExist(err) {
		t.Skipf("NOT TESTED: no corpus at %s (it is not part of the checkout)", corpus)
	}
	files, err := filepath.Glob(filepath.Join(corpus, release, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("release %s: got %d files (%v), want some", release, len(files), err)
	}
	sort.Strings(files)
	for _, d := range Derived {
		files = append(files, filepath.Join(corpus, "derived", d+".yaml"))
	}
	var out []json.RawMessage
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Objects(t, toJSON, string(b))...)
	}
	return out
}

// Objects splits a YAML stream.
func Objects(t *testing.T, toJSON ToJSON, stream string) []json.RawMessage {
	t.Helper()
	var out []json.RawMessage
	for _, doc := range strings.Split("\n"+stream, "\n---") {
		b, err := toJSON([]byte(doc))
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if string(b) != "null" {
			out = append(out, b)
		}
	}
	return out
}

// IngressGateway is Kubeflow's gateway.
func IngressGateway() contract.Proxy {
	return contract.Proxy{
		Name: "istio-ingressgateway.istio-system", Type: "router", Namespace: "istio-system",
		ServiceAccount: "istio-ingressgateway-service-account",
		Labels:         map[string]string{"app": "istio-ingressgateway", "istio": "ingressgateway"},
		Addresses:      []string{"10.0.0.1"},
	}
}

// Translate runs a line and fails the test if it does.
func Translate(t *testing.T, line contract.Line, objects []json.RawMessage, proxies ...contract.Proxy) contract.Response {
	t.Helper()
	return TranslateRequest(t, line, contract.Request{Objects: objects, Proxies: proxies})
}

// TranslateRequest is Translate with all that can be asked.
func TranslateRequest(t *testing.T, line contract.Line, req contract.Request) contract.Response {
	t.Helper()
	b, err := line.Run(&req)
	if err != nil {
		t.Fatal(err)
	}
	var out contract.Response
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
