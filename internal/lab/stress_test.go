package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/manifest"
)

// Under traffic, manifests are put in force whole: a call is judged by the rules
// before or after, never by none. With -race this also looks for shared state.
func TestReloadUnderTraffic(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, story.FS); err != nil {
		t.Fatal(err)
	}
	c := storyConfig(t)
	c.Load = func() (*manifest.Set, error) {
		return manifest.Files([]string{filepath.Join(dir, "common"), filepath.Join(dir, "4-postern")}, nil)
	}
	s := start(t, c)
	file := filepath.Join(dir, "4-postern", "access.yaml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var counts [4]atomic.Int64
	var wg sync.WaitGroup
	outside := s.Doors()[0].URL
	for i, tt := range []struct {
		c    call
		want string
	}{
		{call{pod: "default/myapp-pod", method: "POST", url: iris + "/v1/models/sklearn-iris:predict", body: instances}, "200 401"},
		{call{method: "POST", url: outside + "/v1/models/sklearn-iris:predict", host: "sklearn-iris.kserve-test.example.com", body: instances}, "401"},
		{call{pod: "default/myapp-pod", url: "http://orders-api.backend.svc.cluster.local/"}, "200"},
		{call{url: outside + "/", header: http.Header{"Kubeflow-Userid": {"admin@example.com"}}}, "302"},
	} {
		wg.Go(func() {
			for !stop.Load() {
				status, body, _ := s.do(t, tt.c)
				if counts[i].Add(1); !strings.Contains(tt.want, fmt.Sprint(status)) {
					t.Errorf("%s: got %d %s, want %s", tt.c.url, status, body, tt.want)
					return
				}
			}
		})
	}
	for i := range 12 {
		text := string(good)
		if i%2 == 0 {
			text = strings.Replace(text, "name: postern:pods", "name: postern:pods:elsewhere", 1)
		}
		write(t, file, text)
		if err := s.Reload(context.Background()); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	for i := range counts {
		if counts[i].Load() == 0 {
			t.Errorf("caller %d made no call", i)
		}
	}
}

// endless is a body of which a part comes and then nothing.
type endless struct {
	sent atomic.Int64
	ctx  context.Context
}

func (e *endless) Read(p []byte) (int, error) {
	if e.sent.Load() > 1<<20 {
		<-e.ctx.Done()
		return 0, e.ctx.Err()
	}
	e.sent.Add(int64(len(p)))
	clear(p)
	return len(p), nil
}

// Requests that are given up, in their body or before their answer, leave nothing
// behind in the gateway and the pods.
func TestGivenUpRequestsLeaveNothing(t *testing.T) {
	s := start(t, storyConfig(t))
	proxy, err := s.PodProxy("default", "myapp-pod")
	if err != nil {
		t.Fatal(err)
	}
	give := func() {
		for _, withBody := range []bool{true, false} {
			ctx, cancel := context.WithCancel(context.Background())
			body := &endless{ctx: ctx}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, iris+"/v1/models/sklearn-iris:predict", body)
			if err != nil {
				t.Fatal(err)
			}
			transport := &http.Transport{Proxy: http.ProxyURL(proxy)}
			done := make(chan error, 1)
			go func() {
				resp, err := transport.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				done <- err
			}()
			for withBody && body.sent.Load() <= 1<<20 {
				time.Sleep(time.Millisecond)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			transport.CloseIdleConnections()
		}
	}
	give() // what is made once is made
	before := runtime.NumGoroutine()
	for range 50 {
		give()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		n := runtime.NumGoroutine()
		if n <= before+10 {
			return
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after:\n%.20000s", before, n, buf[:runtime.Stack(buf, true)])
		}
	}
}
