//go:build e2e

package kubeflow

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"postern.dev/postern/internal/topology"
)

// seen is a request as a pod got it.
type seen struct {
	workload string // "namespace/name"
	method   string
	target   string
	host     string
	header   http.Header
}

// backends are the servers of this process that stand behind the gateways.
type backends struct {
	mu   sync.Mutex
	seen []seen
	// read counts bytes of bodies that have arrived, by path.
	read map[string]int64
	// gone is told of requests that their client gave up.
	gone chan string
}

// last are the headers of the newest request to a workload, nil without one.
func (b *backends) last(workload string) http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.seen) - 1; i >= 0; i-- {
		if strings.HasPrefix(b.seen[i].workload, workload) {
			return b.seen[i].header
		}
	}
	return nil
}

// count is how many requests a workload got.
func (b *backends) count(workload string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, s := range b.seen {
		if strings.HasPrefix(s.workload, workload) {
			n++
		}
	}
	return n
}

func (b *backends) arrived(path string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read[path]
}

// serve listens on the addresses of the pods that this process stands for.
func (c *cluster) serve(o options) {
	c.t.Helper()
	c.backends.read, c.backends.gone = map[string]int64{}, make(chan string, 10)
	for _, wl := range c.world.Topology.Workloads() {
		if len(wl.Pods) == 0 || !elsewhere(wl) || wl.Namespace == "postern-system" || wl.Namespace == "oauth2-proxy" {
			continue
		}
		handler := c.backends.handler(wl)
		for name, h := range o.serve {
			if strings.HasPrefix(wl.Namespace+"/"+wl.Name, name) {
				handler = h
			}
		}
		for _, pod := range wl.Pods {
			for _, container := range pod.Containers {
				for _, p := range container.Ports {
					c.listen(fmt.Sprintf("%s:%d", pod.Addr, p.ContainerPort), handler)
				}
			}
		}
	}
}

func (c *cluster) listen(addr string, h http.Handler) {
	c.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	c.atEnd(func() { _ = s.Close() })
}

// handler tells how it was called, and does what models do: it streams, takes
// uploads, speaks gRPC and websockets.
func (b *backends) handler(wl *topology.Workload) http.Handler {
	name := wl.Namespace + "/" + wl.Name
	rpc := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for {
			m := new(emptypb.Empty) // what it does not know it keeps: an echo
			if err := s.RecvMsg(m); err != nil {
				if err == io.EOF {
					return nil
				}
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	ws := websocket.Handler(func(conn *websocket.Conn) { _, _ = io.Copy(conn, conn) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.seen = append(b.seen, seen{name, r.Method, r.RequestURI, r.Host, r.Header.Clone()})
		b.mu.Unlock()
		switch {
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			rpc.ServeHTTP(w, r)
		case r.URL.Path == "/ws":
			ws.ServeHTTP(w, r)
		case r.URL.Path == "/upload":
			b.upload(w, r)
		case r.URL.Path == "/stream":
			b.stream(w, r)
		case strings.HasSuffix(r.URL.Path, "/chat/completions"):
			complete(w, r)
		default:
			tell(w, name, r)
		}
	})
}

// tell answers with what arrived.
func tell(w http.ResponseWriter, name string, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Backend", name)
	_ = json.NewEncoder(w).Encode(map[string]any{"backend": name, "method": r.Method, "target": r.RequestURI, "host": r.Host, "header": r.Header, "body": string(body)})
}

// upload counts a body as it arrives.
func (b *backends) upload(w http.ResponseWriter, r *http.Request) {
	buf := make([]byte, 64<<10)
	var total int64
	for {
		n, err := r.Body.Read(buf)
		total += int64(n)
		b.mu.Lock()
		b.read[r.URL.RawQuery] = total
		b.mu.Unlock()
		if err != nil {
			break
		}
	}
	fmt.Fprint(w, total)
}

// events are what a whole stream has: it lasts longer than the 2 s that the gateway
// waits for posternd.
const events = 60

// stream sends an event every 50 ms until the client goes.
func (b *backends) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range events {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
			break
		}
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			b.gone <- r.URL.RawQuery
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// complete answers as an OpenAI-compatible server does, for what its client reads.
func complete(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model  string
		Stream bool
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !in.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"1","object":"chat.completion","created":1,"model":%q,"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"side door"}}]}`, in.Model)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, word := range []string{"side", " ", "door"} {
		fmt.Fprintf(w, "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":%q,\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", in.Model, word)
		w.(http.Flusher).Flush()
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}
