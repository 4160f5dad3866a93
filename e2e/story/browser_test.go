//go:build e2e

package story

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/demo"
)

// browser is a headless Chromium of its own, with nobody's profile.
func browser(t *testing.T) context.Context {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			program = p
			break
		}
	}
	if program == "" {
		t.Fatal("no chromium in PATH (run make tools)")
	}
	options := append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...)
	options = append(options, chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1000, 900),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() { cancel(); cancelAllocator() })
	// The first call starts the browser, which lives as long as its context.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// TestBrowser logs in through Dex's own page, sees the dashboard, runs the curl
// line it shows, and logs out: first in our gateway, then in a real Envoy.
func TestBrowser(t *testing.T) {
	for name, envoy := range map[string]string{"ours": "", "envoy": tool(t, "envoy/bin/envoy")} {
		t.Run(name, func(t *testing.T) { login(t, browser(t), envoy) })
	}
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for i, step := range steps {
		if err := chromedp.Do(limited, step); err != nil {
			at, _ := chromedp.Run(ctx, chromedp.Location())
			page, _ := chromedp.Run(ctx, chromedp.OuterHTML(`html`))
			t.Fatalf("step %d: %v; the browser is at %s: %s", i, err, at, page)
		}
	}
}

// until waits for an expression to be true, through the redirects of a login.
func until(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			at, _ := chromedp.Run(ctx, chromedp.Location())
			t.Fatalf("%s is not true at %s: %v", expression, at, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func get[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func login(t *testing.T, ctx context.Context, envoy string) {
	states := story.States()
	c := config(t, states[len(states)-1], envoy)
	c.Ports = map[string]int{"kubeflow/kubeflow-gateway": 0, "knative-serving/knative-local-gateway": 0}
	c.Self = "postern"
	system, err := lab.Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := system.Close(closing); err != nil {
			t.Error(err)
		}
	}()
	gateway := system.Doors()[0].URL

	do(t, ctx, chromedp.Navigate(gateway+"/"), chromedp.WaitVisible(`input[name="login"]`))
	at := get(t, ctx, chromedp.Location())
	do(t, ctx,
		chromedp.SendKeys(`input[name="login"]`, demo.User),
		chromedp.SendKeys(`input[name="password"]`, demo.Password),
		chromedp.Submit(`input[name="password"]`),
	)
	until(t, ctx, `document.querySelector("h1") !== null`)
	page := get(t, ctx, chromedp.Text(`body`))
	if !strings.HasPrefix(at, gateway+"/dex/auth/local") {
		t.Errorf("the login page was at %s, want Dex's", at)
	}
	for _, want := range []string{demo.User, "sklearn-iris", "postern exec myapp-pod -- curl"} {
		if !strings.Contains(page, want) {
			t.Errorf("the dashboard does not say %q: %s", want, page)
		}
	}
	if strings.Contains(page, "fraud") {
		t.Error("the dashboard lists another tenant's model")
	}
	if dir := os.Getenv("POSTERN_SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "dashboard.png"), get(t, ctx, chromedp.FullScreenshot(100)), 0o644); err != nil {
			t.Error(err)
		}
	}
	do(t, ctx, chromedp.Click(`form button`))
	until(t, ctx, `document.querySelector("input[name=login]") !== null`)
	do(t, ctx, chromedp.Navigate(gateway+"/"))
	until(t, ctx, `document.querySelector("input[name=login]") !== null`)
	at = get(t, ctx, chromedp.Location())
	if !strings.Contains(at, "/dex/auth") {
		t.Errorf("after logging out the dashboard is at %s, want Dex's login", at)
	}
}
