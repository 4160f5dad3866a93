//go:build e2e

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faults takes parts away while calls go on. Whatever is away, nobody gets in who has no right to: three callers
// without one try from the first fault to the last.
func faults(t *testing.T) {
	watch := begin(map[string]func() answer{
		"nobody": func() answer {
			return fromOutside(t, modelHost, modelPath, input, "Content-Type", "application/json")
		},
		"a forged name": func() answer {
			return fromOutside(t, "orders.example.com", "/v1x", "", "kubeflow-userid", "admin@example.com")
		},
		"a browser": func() answer { return fromOutside(t, "localhost", "/", "", "Accept", "text/html") },
	})
	defer func() {
		for caller, statuses := range watch.end() {
			t.Logf("%s, through all faults: %s", caller, count(statuses))
			for status := range statuses {
				if status >= 200 && status < 300 {
					t.Errorf("%s got %d", caller, status)
				}
			}
			if caller == "nobody" && statuses[401] < 50 {
				t.Errorf("only %d calls were made", statuses[401])
			}
		}
	}()
	for _, fault := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"one posternd is killed", oneKilled},
		{"posternd is rolled", rolled},
		{"no posternd", noPosternd},
		{"istiod restarts", istiodRestarts},
		{"Dex stops", dexStops},
		{"the API server stops", apiServerStops},
		{"a tenant's bad objects", badObjects},
		{"a tenant takes posternd's name", stolenName},
		{"the route metadata's filter goes", filterGoes},
	} {
		if !t.Run(fault.name, fault.do) {
			t.Fatalf("the faults after %q were not tried", fault.name)
		}
	}
}

// load is calls that go on, each as fast as it is answered.
type load struct {
	mu     sync.Mutex
	got    map[string]map[int]int
	others map[string]string // an answer of each kind that is not 200, for a failure's message
	stop   chan struct{}
	all    sync.WaitGroup
}

func begin(calls map[string]func() answer) *load {
	l := &load{got: map[string]map[int]int{}, others: map[string]string{}, stop: make(chan struct{})}
	for name, call := range calls {
		l.got[name] = map[int]int{}
		l.all.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(25 * time.Millisecond):
				}
				a := call()
				l.mu.Lock()
				l.got[name][a.status]++
				if a.status != 200 {
					l.others[fmt.Sprint(name, " ", a.status)] = a.body
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *load) end() map[string]map[int]int {
	close(l.stop)
	l.all.Wait()
	return l.got
}

func count(statuses map[int]int) string {
	var out []string
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		out = append(out, fmt.Sprintf("%d x %d", statuses[status], status))
	}
	return strings.Join(out, ", ")
}

// ofCI calls the model with the token of kserve-test/ci, as long as the test does something else.
func ofCI(t *testing.T, do func(), allowed ...int) map[int]int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(script.dir, "ci.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(strings.TrimSpace(string(text)), ": ")
	l := begin(map[string]func() answer{"ci": func() answer {
		return fromOutside(t, modelHost, modelPath, input, "Content-Type", "application/json", "Authorization", token)
	}})
	do()
	got := l.end()["ci"]
	t.Logf("the caller with a token: %s", count(got))
	if got[200] == 0 {
		t.Errorf("no call was answered: %v", l.others)
	}
	for status := range got {
		if !slices.Contains(allowed, status) {
			t.Errorf("a caller who may got %d: %v", status, l.others)
		}
	}
	return got
}

// remark is a line of the transcript for what no command of the reader's does.
func remark(text string) { script.blocks[script.order[len(script.order)-1]] += "# " + text + "\n" }

// processes are those of a program in this cluster.
func processes(t *testing.T, program string) []int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(stateDir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	top := strings.TrimSpace(string(text))
	parent := func(pid string) string {
		status, _ := os.ReadFile(filepath.Join("/proc", pid, "status"))
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "PPid:"); ok {
				return strings.TrimSpace(rest)
			}
		}
		return "0"
	}
	var out []int
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		exe, err := os.Readlink(filepath.Join(p, "exe"))
		if err != nil || filepath.Base(exe) != program {
			continue
		}
		for pid := filepath.Base(p); pid != "0" && pid != "1"; pid = parent(pid) {
			if pid == top {
				n, err := strconv.Atoi(filepath.Base(p))
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, n)
				break
			}
		}
	}
	return out
}

func ready(t *testing.T) {
	t.Helper()
	eventually(t, "two posternd are ready", 2*time.Minute, func() error {
		out, err := tryKubectl("get", "deployment", "posternd", "-n", "postern-system", "-o", "jsonpath={.status.readyReplicas}/{.status.replicas}")
		if err == nil && out != "2/2" {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
}

func oneKilled(t *testing.T) {
	chapter(t, "one posternd is killed")
	ready(t)
	before := processes(t, "posternd")
	if len(before) != 2 {
		t.Fatalf("got %d processes of posternd, want 2", len(before))
	}
	ofCI(t, func() {
		time.Sleep(time.Second)
		if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		ready(t)
	}, 200, 503)
	remark("kill -9 of one posternd's process, under load: a caller with a token gets 200, or 503 in the moment between; nobody else gets in")
	sh(t, "kubectl rollout status deployment/posternd -n postern-system", "successfully rolled out")
}

func rolled(t *testing.T) {
	chapter(t, "posternd is rolled")
	ofCI(t, func() {
		sh(t, "kubectl rollout restart deployment/posternd -n postern-system", "restarted")
		sh(t, "kubectl rollout status deployment/posternd -n postern-system", "successfully rolled out")
		eventually(t, "the old ones are gone", 2*time.Minute, func() error {
			out, err := tryKubectl("get", "pods", "-n", "postern-system", "-o", "name")
			if err == nil && len(strings.Fields(out)) != 2 {
				err = fmt.Errorf("got %s", out)
			}
			return err
		})
	}, 200)
	remark("meanwhile, under load: every call of a caller with a token got 200")
}

func noPosternd(t *testing.T) {
	chapter(t, "no posternd")
	sh(t, "kubectl scale deployment/posternd -n postern-system --replicas=0", "scaled")
	shWant(t, "kubectl get pods -n postern-system", "No resources found")
	forged := outside + "http://" + gatewayShown + "/v1x -H 'Host: orders.example.com' -H 'kubeflow-userid: admin@example.com'"
	for _, call := range []string{as(outCall, "ci.txt"), outCall, podCall, forged, as(browser, "person.txt")} {
		shWant(t, call, "503")
	}
	sh(t, "kubectl scale deployment/posternd -n postern-system --replicas=2", "scaled")
	sh(t, "kubectl rollout status deployment/posternd -n postern-system", "successfully rolled out")
	shWant(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	shWant(t, outCall, "credential_required", "401")
	shWant(t, podCall, `"predictions":[1,1]`, "200")
}

func istiodRestarts(t *testing.T) {
	chapter(t, "istiod restarts")
	ofCI(t, func() {
		sh(t, "kubectl rollout restart deployment/istiod -n istio-system", "restarted")
		sh(t, "kubectl rollout status deployment/istiod -n istio-system", "successfully rolled out")
		time.Sleep(3 * time.Second)
	}, 200)
	remark("meanwhile, under load: every call of a caller with a token got 200")
	sh(t, outCall, "credential_required", "401")
}

func dexStops(t *testing.T) {
	chapter(t, "dex stops")
	sh(t, "kubectl scale deployment/dex -n auth --replicas=0", "scaled")
	shWant(t, "kubectl get pods -n auth", "No resources found")
	sh(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	sh(t, podCall, `"predictions":[1,1]`, "200")
	sh(t, as(browser, "person.txt"), `"kubeflow-userid":"user@example.com"`, "200")
	sh(t, browser, "302 ", "/dex/auth")
	shWant(t, outside+"http://"+gatewayShown+"/dex/healthz", "no healthy upstream", "503")
	sh(t, "kubectl scale deployment/dex -n auth --replicas=1", "scaled")
	sh(t, "kubectl rollout status deployment/dex -n auth", "successfully rolled out")

	chapter(t, "the login stops")
	sh(t, "kubectl scale deployment/authservice -n istio-system --replicas=0", "scaled")
	shWant(t, "kubectl get pods -n istio-system -l app=authservice", "No resources found")
	shWant(t, browser, "503")
	shWant(t, as(browser, "person.txt"), "503")
	sh(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	sh(t, "kubectl scale deployment/authservice -n istio-system --replicas=1", "scaled")
	sh(t, "kubectl rollout status deployment/authservice -n istio-system", "successfully rolled out")
	shWant(t, browser, "302 ", "/dex/auth")
}

// apiServerStops: it hears and says nothing, as on a machine that hangs. kubectl exec needs it too, so the pod's calls
// are made by a loop that was begun before.
func apiServerStops(t *testing.T) {
	chapter(t, "the api server stops")
	server := processes(t, "kube-apiserver")
	if len(server) != 1 {
		t.Fatalf("got %d processes of kube-apiserver", len(server))
	}
	sh(t, `kubectl exec myapp-pod -- sh -c 'rm -f calls.txt done; until [ -e done ]; do curl -s -w " %{http_code}" `+modelURL+
		` -H "Content-Type: application/json" -d @./iris-input.json | tr -d "\n" >> calls.txt; echo >> calls.txt; sleep 0.5; done' > /dev/null 2>&1 &`)
	eventually(t, "the loop in the pod", time.Minute, func() error {
		out, err := tryKubectl("exec", "myapp-pod", "--", "cat", "calls.txt")
		if err == nil && !strings.Contains(out, "200") {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
	ofCI(t, func() {
		if err := syscall.Kill(server[0], syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Kill(server[0], syscall.SIGCONT) }()
		remark("kill -STOP of kube-apiserver's process, for 20 seconds")
		time.Sleep(2 * time.Second)
		sh(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
		sh(t, outCall, "credential_required", "401")
		sh(t, browser, "302 ", "/dex/auth")
		time.Sleep(18 * time.Second)
		sh(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	}, 200)
	remark("kill -CONT of it")
	shWant(t, podCall, `"predictions":[1,1]`, "200")
	time.Sleep(2 * time.Second) // for the loop to get an answer more
	sh(t, "kubectl exec myapp-pod -- touch done")
	// Each of the two posternd has its own clock: around the tenth second, and again at the end, the answers alternate.
	sh(t, "kubectl exec myapp-pod -- sh -c 'head -n 1 calls.txt; grep -m 1 503 calls.txt; tail -n 1 calls.txt'", "pods_stale")
	refused := 0
	lines := strings.Split(strings.TrimSpace(kubectl(t, "exec", "myapp-pod", "--", "cat", "calls.txt")), "\n")
	for i, line := range lines {
		switch {
		case strings.HasSuffix(line, " 200"):
		case strings.HasSuffix(line, " 503") && strings.Contains(line, `"pods_stale"`) && i > 0 && i < len(lines)-1:
			refused++
		default:
			t.Errorf("answer %d of %d to the pod: %s", i+1, len(lines), line)
		}
	}
	if refused < 5 {
		t.Errorf("the pod was refused %d times of %d, want it for seconds", refused, len(lines))
	}
}

const claim = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: claim, namespace: team-b}
spec:
  gateways: [kubeflow/kubeflow-gateway]
  hosts: [sklearn-iris.kserve-test.example.com]
  http: [{route: [{destination: {host: fraud-predictor-00001.team-b.svc.cluster.local}}]}]
`

func badObjects(t *testing.T) {
	chapter(t, "anothers host")
	const hosts = "hosts: [sklearn-iris.kserve-test.example.com]"
	for name, text := range map[string]string{"claim.yaml": claim, "hostless.yaml": strings.Replace(claim, hosts, "hosts: []", 1), "mistyped.yaml": strings.Replace(claim, hosts, "hosts: sklearn-iris", 1)} {
		if err := os.WriteFile(filepath.Join(script.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "cat claim.yaml")
	sh(t, "kubectl create role tenant -n team-b --verb=get,create,patch,delete --resource=virtualservices.networking.istio.io", "created")
	sh(t, "kubectl create rolebinding tenant -n team-b --role=tenant --serviceaccount=team-b:ci", "created")
	sh(t, "kubectl apply -f claim.yaml --as=system:serviceaccount:team-b:ci", "created")
	shWant(t, as(outCall, "ci.txt"), "ambiguous_host")
	sh(t, as(outCall, "team-b.txt"), "ambiguous_host")
	sh(t, podCall, `"predictions":[1,1]`, "200")
	sh(t, as(fraudCall, "team-b.txt"), `"predictions":[1,1]`, "200")
	sh(t, "kubectl delete -f claim.yaml", "deleted")
	shWant(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")

	chapter(t, "an invalid object")
	sh(t, "kubectl apply -f mistyped.yaml --as=system:serviceaccount:team-b:ci", "rror")
	sh(t, "kubectl apply -f hostless.yaml --as=system:serviceaccount:team-b:ci", "created")
	time.Sleep(2 * time.Second) // for nothing to change
	sh(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	sh(t, outCall, "credential_required", "401")
	sh(t, "kubectl delete -f hostless.yaml", "deleted")
	sh(t, "kubectl delete role,rolebinding tenant -n team-b", "deleted")
}

// stolenName: a tenant's ServiceEntry of posternd's name, which leads to an address of the tenant's choice, changes
// neither where the gateways ask nor anybody's answer.
func stolenName(t *testing.T) {
	asked := func() string {
		t.Helper()
		var out []string
		for line := range strings.Lines(kubectl(t, "exec", "-n", "istio-system", "deploy/istio-ingressgateway", "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "clusters")) {
			if strings.Contains(line, "posternd") && strings.HasSuffix(strings.TrimSpace(line), "::healthy") {
				out = append(out, line)
			}
		}
		slices.Sort(out)
		return strings.Join(out, "")
	}
	before := asked()
	if !strings.Contains(before, "|9000||posternd.postern-system.svc.cluster.local::10.") {
		t.Fatalf("the gateway asks at\n%s", before)
	}
	file := filepath.Join(t.TempDir(), "stolen.yaml")
	if err := os.WriteFile(file, []byte(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: posternd, namespace: team-b}
spec:
  hosts: [posternd.postern-system.svc.cluster.local]
  ports: [{number: 9000, name: grpc, protocol: GRPC}]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints: [{address: 10.244.255.254}]
`), 0o644); err != nil {
		t.Fatal(err)
	}
	ofCI(t, func() {
		kubectl(t, "apply", "-f", file)
		for range 10 { // for nothing to change
			time.Sleep(time.Second)
			if got := fromOutside(t, modelHost, modelPath, input, "Content-Type", "application/json"); got.status != 401 {
				t.Fatalf("nobody: got %d %.300s, want 401", got.status, got.body)
			}
		}
		if after := asked(); after != before {
			t.Errorf("the gateway asks at\n%s\nbefore it asked at\n%s", after, before)
		}
	}, 200)
	kubectl(t, "delete", "-f", file)
}

// filterGoes: with routing: metadata each check must name the VirtualService that Envoy chose.
func filterGoes(t *testing.T) {
	chapter(t, "route metadata")
	sh(t, "kubectl apply -f deploy/oauth2-proxy/gateway.yaml", "envoyfilter.networking.istio.io/postern-ingressgateway created")
	sh(t, `KUBE_EDITOR="sed -i 's/routing: derived/routing: metadata/'" kubectl edit configmap posternd -n postern-system`, "edited")
	// A connection that was open before the filter came is without it until Envoy has drained it, the gateway's own
	// to its second door among them. Until then it is refused.
	ofCI(t, func() {
		sh(t, "kubectl rollout restart deployment/posternd -n postern-system", "restarted")
		sh(t, "kubectl rollout status deployment/posternd -n postern-system", "successfully rolled out")
		shWant(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	}, 200, 503)
	sh(t, "kubectl delete envoyfilter postern-ingressgateway -n istio-system", "deleted")
	shWant(t, as(outCall, "ci.txt"), "no_route_metadata")
	shWant(t, podCall, "no_route_metadata")
	shWant(t, outCall, "no_route_metadata")
	shWant(t, browser, "no_route_metadata")
	sh(t, "kubectl apply -f deploy/oauth2-proxy/gateway.yaml", "envoyfilter.networking.istio.io/postern-ingressgateway created")
	shWant(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	shWant(t, browser, "302 ", "/dex/auth")

	sh(t, `KUBE_EDITOR="sed -i 's/routing: metadata/routing: derived/'" kubectl edit configmap posternd -n postern-system`, "edited")
	sh(t, "kubectl rollout restart deployment/posternd -n postern-system", "restarted")
	sh(t, "kubectl rollout status deployment/posternd -n postern-system", "successfully rolled out")
	sh(t, "kubectl delete envoyfilters -n istio-system postern-ingressgateway postern-cluster-local-gateway", "deleted")
	shWant(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
}
