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
	request, err := b.requestOf(ctx, v)
	if err != nil {
		return window{}, err
	}
	if _, err := b.load(ctx, v, request, warmUp); err != nil {
		return window{}, err
	}
	before, err := b.times(v)
	if err != nil {
		return window{}, err
	}
	begin := time.Now()
	took, err := b.load(ctx, v, request, b.settings.window)
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

// requestOf is the request in bytes.
func (b *bench) requestOf(ctx context.Context, v *variant) ([]byte, error) {
	var header string
	switch v.shows {
	case passport:
		text, err := b.passport(ctx)
		if err != nil {
			return nil, err
		}
		header = "X-Postern-Passport: " + text + "\r\n"
	case apiKey:
		header = "Authorization: Bearer " + b.shown.key + "\r\n"
	case token:
		header = "Authorization: Bearer " + b.shown.token + "\r\n"
	}
	padding := strings.Repeat("p", max(0, size-len(header)))
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Type: application/json\r\n%sX-Padding: %s\r\nContent-Length: %d\r\n\r\n%s",
		modelPath, modelHost, header, padding, len(body), body), nil
}

// passport asks posternd for one, as a pod that calls the model gets it. It lives
// for a minute, longer than a turn.
func (b *bench) passport(ctx context.Context) (string, error) {
	for _, v := range b.variants {
		if v.asks == nil || v.shows != nothing || !strings.HasPrefix(v.Name, "posternd") {
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", v.port, modelPath), strings.NewReader(body))
		if err != nil {
			return "", err
		}
		req.Host = modelHost
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if token := resp.Header.Get("X-Passport"); resp.StatusCode == http.StatusOK && token != "" {
			return token, nil
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return "", errors.Join(fmt.Errorf("posternd gives no passport: %s %s", resp.Status, text), err)
	}
	return "", errors.New("no variant asks posternd")
}

// load sends for a while and gives how long each answer took.
func (b *bench) load(ctx context.Context, v *variant, request []byte, length time.Duration) ([]time.Duration, error) {
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
			took, err := oneConnection(ctx, v, request, maxRequests/b.settings.connections, first, every)
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
func oneConnection(ctx context.Context, v *variant, request []byte, most int, first time.Time, every time.Duration) ([]time.Duration, error) {
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
