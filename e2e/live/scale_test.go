//go:build e2e

package live

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
)

// size is that of the benchmark's cluster: each model with what the controllers write for it, pods as
// large as pods are, as many bindings as namespaces.
type size struct{ models, pods, keys, namespaces int }

// BenchmarkScale says what posternd costs on a large cluster: the time from its start
// to readiness and its CPU time, its memory, and how long revocations take while pods come and go.
func BenchmarkScale(b *testing.B) {
	scale(b, size{models: 1000, pods: 5000, keys: 1000, namespaces: 50})
}

// BenchmarkHuge is the same of a very large one, whose objects take some minutes to make.
func BenchmarkHuge(b *testing.B) {
	scale(b, size{models: 10_000, pods: 10_000, keys: 100_000, namespaces: 1000})
}

func scale(b *testing.B, s size) {
	p := newPlace(b)
	keys := p.many(b, s)
	kubeconfig := p.kubeconfig(b, p.token(b, "postern-system", "posternd"))
	program := buildPosternd(b)
	b.ResetTimer()
	for b.Loop() {
		began := time.Now()
		d := p.posternd(b, program, "--kubeconfig", kubeconfig)
		d.ready(b)
		b.ReportMetric(time.Since(began).Seconds(), "s-to-ready")
		b.ReportMetric(d.metric(b, "process_cpu_seconds_total"), "CPU-s-to-ready")
		b.ReportMetric(d.resident(b), "MB-at-ready")
		stop, churned := make(chan struct{}), make(chan int)
		go func() { churned <- p.churn(b, s, stop) }()
		var slowest time.Duration
		for i := range 20 {
			key := call{from: "203.0.113.7", door: 8080, host: "m0.ns0.example.com", key: keys[i]}
			d.until(b, key, "allow")
			p.remove(b, "apikeys.postern.dev/v1alpha1", "ApiKey", "ns0", "k"+strconv.Itoa(i))
			slowest = max(slowest, d.until(b, key, "401 key_unknown"))
		}
		close(stop)
		b.ReportMetric(float64(<-churned), "pod-changes")
		b.ReportMetric(slowest.Seconds(), "s-slowest-revocation")
		b.ReportMetric(d.resident(b), "MB-after")
		b.ReportMetric(d.metric(b, "go_memstats_next_gc_bytes")/(1<<20), "MB-heap-at-most")
		d.kill()
	}
}

// resident is the process's memory in MB.
func (p *posternd) resident(b *testing.B) float64 {
	b.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return float64(kb) / 1024
}

// many creates the objects, and gives the texts of the keys of namespace ns0.
func (p *place) many(b *testing.B, s size) []string {
	b.Helper()
	var work []map[string]any
	var models []*manifest.Object
	for i := range s.models {
		ns := fmt.Sprintf("ns%d", i%s.namespaces)
		if i < s.namespaces {
			work = append(work, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": ns}})
		}
		set, err := manifest.Bytes("m", []byte(fmt.Sprintf("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: m%d, namespace: %s}\nspec: {predictor: {model: {modelFormat: {name: sklearn}, storageUri: 'gs://models/m%d', resources: {limits: {cpu: '1', memory: 2Gi}}}}}\n", i, ns, i)))
		if err != nil {
			b.Fatal(err)
		}
		for o := range set.All() {
			models = append(models, o)
		}
	}
	set := p.set.With(models...)
	derived, err := kserve.Derive(set)
	if err != nil {
		b.Fatal(err)
	}
	for _, o := range append(models, derived...) {
		if _, ok := p.set.Get(o.Group(), o.Kind, o.Meta.Namespace, o.Meta.Name); ok || o.Kind == "Pod" {
			continue
		}
		var v map[string]any
		if err := json.Unmarshal(o.JSON, &v); err != nil {
			b.Fatal(err)
		}
		v["metadata"].(map[string]any)["namespace"] = o.Meta.Namespace
		work = append(work, v)
	}
	var texts []string
	for i := range s.keys {
		ns := fmt.Sprintf("ns%d", i/20%s.namespaces)
		text, spec, err := apikey.New(rand.Reader, ns, "k"+strconv.Itoa(i))
		if err != nil {
			b.Fatal(err)
		}
		if ns == "ns0" {
			texts = append(texts, text)
		}
		work = append(work, map[string]any{"apiVersion": "apikeys.postern.dev/v1alpha1", "kind": "ApiKey", "metadata": map[string]any{"name": "k" + strconv.Itoa(i), "namespace": ns}, "spec": map[string]any{"id": spec.ID, "hash": spec.Hash}})
	}
	for i := range s.namespaces {
		ns := fmt.Sprintf("ns%d", i)
		work = append(work, map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "keys", "namespace": ns},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "postern-model-caller"},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "postern:keys:" + ns}}})
	}
	for i := range s.pods {
		work = append(work, s.largePod(i))
	}
	p.putAll(b, work)
	return texts
}

// largePod is a pod with the fields that real ones have, about 8 kB.
func (s size) largePod(i int) map[string]any {
	var env []any
	for j := range 40 {
		env = append(env, map[string]any{"name": fmt.Sprintf("SETTING_%d", j), "value": strings.Repeat("v", 60)})
	}
	addr := fmt.Sprintf("10.%d.%d.%d", 128+i>>16, i>>8&255, i&255)
	return map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"namespace": fmt.Sprintf("ns%d", i%s.namespaces), "name": fmt.Sprintf("p%d", i),
			"labels":      map[string]any{"app": "x", "pod-template-hash": "7d4b9c6f5"},
			"annotations": map[string]any{"istio.io/status": strings.Repeat("s", 1500)}},
		"spec":   map[string]any{"serviceAccountName": "default", "containers": []any{map[string]any{"name": "c", "image": "i", "env": env}, map[string]any{"name": "d", "image": "i"}}},
		"status": map[string]any{"phase": "Running", "podIP": addr, "podIPs": []any{map[string]any{"ip": addr}}},
	}
}

// putAll creates many objects, namespaces first, eight at a time.
func (p *place) putAll(b *testing.B, work []map[string]any) {
	b.Helper()
	queue := make(chan map[string]any)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for v := range queue {
				if err := p.create(v); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, ns := range []bool{true, false} {
		for _, v := range work {
			if (v["kind"] == "Namespace") == ns {
				queue <- v
			}
		}
		time.Sleep(time.Second)
	}
	close(queue)
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// create creates one object; it may be called by any goroutine.
func (p *place) create(v map[string]any) error {
	meta := v["metadata"].(map[string]any)
	ns, _ := meta["namespace"].(string)
	at := "/apis/" + fmt.Sprint(v["apiVersion"])
	if v["apiVersion"] == "v1" {
		at = "/api/v1"
	}
	if ns != "" {
		at += "/namespaces/" + ns
	}
	at += "/" + plurals[fmt.Sprint(v["kind"])]
	status := v["status"]
	if err := p.send(http.MethodPost, at, v); err != nil {
		return err
	}
	if status == nil {
		return nil
	}
	return p.send(http.MethodPatch, at+"/"+fmt.Sprint(meta["name"])+"/status", map[string]any{"status": status})
}

func (p *place) send(method, at string, v map[string]any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, p.url+at, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: got %d %s", method, at, resp.StatusCode, text)
	}
	return err
}

// churn gives pods other addresses until it is stopped, and says how often.
func (p *place) churn(b *testing.B, s size, stop <-chan struct{}) int {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		addr := fmt.Sprintf("10.200.%d.%d", n>>8&255, n&255)
		i := n % s.pods
		err := p.send(http.MethodPatch, fmt.Sprintf("/api/v1/namespaces/ns%d/pods/p%d/status", i%s.namespaces, i), map[string]any{"status": map[string]any{"podIP": addr, "podIPs": []any{map[string]any{"ip": addr}}}})
		if err != nil {
			b.Error(err)
			return n
		}
	}
}
