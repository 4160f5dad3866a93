package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	warmUp = 300 * time.Millisecond
	body   = `{"instances": [[6.8,  2.8,  4.8,  1.4], [6.0,  3.4,  4.5,  1.6]], "padding": 0}`
	// maxRequests bounds a window besides its length.
	maxRequests = 2_000_000
)

// window is one turn of a variant.
type window struct {
	PerSecond  float64 `json:"requestsPerSecond"`
	P50        float64 `json:"p50Milliseconds"`
	P99        float64 `json:"p99Milliseconds"`
	Authorizer float64 `json:"authorizerMicroseconds"` // CPU per check, 0 without one
	Envoy      float64 `json:"envoyMicroseconds"`      // CPU per request
	Requests   int     `json:"requests"`
	Resident   float64 `json:"authorizerMegabytes"` // memory at the end, 0 without one
}

// measure lets a variant have its turn. A request that fails ends the benchmark.
func (b *bench) measure(ctx context.Context, v *variant) (window, error) {
	if err := b.prepare(v); err != nil {
		return window{}, err
	}
	if _, err := b.load(ctx, v, warmUp); err != nil {
		return window{}, err
	}
	before, err := b.times(v)
	if err != nil {
		return window{}, err
	}
	begin := time.Now()
	took, err := b.load(ctx, v, b.settings.window)
	if err != nil {
		return window{}, err
	}
	elapsed := time.Since(begin)
	after, err := b.times(v)
	if err != nil {
		return window{}, err
	}
	if len(took) == 0 {
		return window{}, errors.New("no request was answered")
	}
	slices.Sort(took)
	n := float64(len(took))
	micro := func(i int) float64 { return float64((after[i] - before[i]).Microseconds()) / n }
	milli := func(q float64) float64 { return float64(took[int(q*(n-1))].Microseconds()) / 1000 }
	resident := 0.0
	if v.asks != nil {
		resident = v.asks.resident()
	}
	return window{Resident: resident, PerSecond: n / elapsed.Seconds(), P50: milli(0.5), P99: milli(0.99), Authorizer: micro(0), Envoy: micro(1), Requests: len(took)}, nil
}

// times are the CPU times of the authorizer and of Envoy.
func (b *bench) times(v *variant) (out [2]time.Duration, err error) {
	if v.asks != nil {
		if out[0], err = v.asks.cpu(); err != nil {
			return out, err
		}
	}
	out[1], err = b.envoy.cpu()
	return out, err
}

// size is the length of a credential's header in every variant: what is none is
// padding.
const size = 1024

// more are headers that Chromium adds to a page's call.
const more = "Sec-Ch-Ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nSec-Ch-Ua-Mobile: ?0\r\nSec-Ch-Ua-Platform: \"Linux\"\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,ko;q=0.8\r\nCache-Control: no-cache\r\nPragma: no-cache\r\nPriority: u=1, i\r\n" +
	"Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\nDnt: 1\r\nReferer: http://kubeflow.bench.test/_/jupyter/?ns=team\r\n" +
	"X-Requested-With: XMLHttpRequest\r\nX-Xsrf-Token: 3f6c1d2a9b8e4f70a1b2c3d4e5f60718\r\n"

// prepare writes a variant's requests in bytes. Passports live for a minute, longer
// than a turn; what is made once is kept.
func (b *bench) prepare(v *variant) error {
	if v.requests != nil && v.shows != oldPassport && v.shows != newPassports {
		return nil
	}
	shown, err := b.shown(v.shows)
	if err != nil {
		return err
	}
	host, path, agent := modelHost, modelPath, "bench"
	if v.page {
		host, path = pageHost, "/jupyter/api/namespaces/team/notebooks"
	}
	extra := ""
	if v.browser {
		agent, extra = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36", more
	}
	v.requests = v.requests[:0]
	for _, header := range shown {
		padding := strings.Repeat("p", max(0, size-len(header)))
		v.requests = append(v.requests, fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\nContent-Type: application/json\r\n%s%sX-Padding: %s\r\nContent-Length: %d\r\n\r\n%s",
			path, host, agent, extra, header, padding, len(body), body))
	}
	return nil
}

// load sends for a while and gives how long each answer took.
func (b *bench) load(ctx context.Context, v *variant, length time.Duration) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var mu sync.Mutex
	var all []time.Duration
	var errs []error
	var wg sync.WaitGroup
	var every time.Duration // between two requests of a connection
	if b.settings.rate > 0 {
		every = time.Second * time.Duration(b.settings.connections) / time.Duration(b.settings.rate)
	}
	for i := range b.settings.connections {
		wg.Go(func() {
			first := time.Now().Add(every * time.Duration(i) / time.Duration(b.settings.connections))
			took, err := oneConnection(ctx, v, maxRequests/b.settings.connections, first, every)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil {
				errs = append(errs, err)
				cancel()
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// oneConnection sends one request after the other; paced, when every is not zero,
// from a time on that the request is counted from even if the one before is late.
func oneConnection(ctx context.Context, v *variant, most int, first time.Time, every time.Duration) ([]time.Duration, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(v.from)}}
	c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", v.port))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r := bufio.NewReader(c)
	var took []time.Duration
	for i := range most {
		begin := time.Now()
		if due := first.Add(every * time.Duration(i)); every > 0 {
			time.Sleep(time.Until(due))
			begin = due
		}
		if ctx.Err() != nil {
			break
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return took, err
		}
		request := v.requests[(atomic.AddInt64(&v.next, 1)-1)%int64(len(v.requests))]
		if _, err := c.Write(request); err != nil {
			return took, err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return took, err
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return took, fmt.Errorf("got %s %s (%v)", resp.Status, text, err)
		}
		took = append(took, time.Since(begin))
	}
	return took, nil
}
