//go:build e2e

package kubeflow

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/websocket"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

// oldAndNew are the two kinds of gateways: one workload for both doors with
// authservice, and one for each with oauth2-proxy.
func oldAndNew(t *testing.T, f func(t *testing.T, release string)) {
	for _, r := range releases() {
		if r == "v1.8.1-shared" || r == "26.03" {
			t.Run(r, func(t *testing.T) { f(t, r) })
		}
	}
}

// rpc is a model whose port is named h2c, as Knative wants it for gRPC.
const (
	rpcModel = "http://rpc.kserve-test.svc.cluster.local"
	rpcOut   = "rpc.kserve-test.example.com"
)

const infer = "/inference.GRPCInferenceService/ModelInfer"

// message is any message that carries a text.
func message(text string) *emptypb.Empty {
	m := &emptypb.Empty{}
	m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), text))
	return m
}

// rpc is a gRPC connection along a call's way, for a host.
func (c *cluster) rpc(k call, host string) *grpc.ClientConn {
	c.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+host, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(host),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, _, err := c.dial(ctx, k)
			return conn, err
		}))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestGRPC: KServe's V2 over gRPC, one rule with REST; refusals are gRPC's own.
func TestGRPC(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		inside, outside := call{from: "default/myapp-pod", url: rpcModel}, call{host: rpcOut}
		for _, tt := range []struct {
			name string
			conn *grpc.ClientConn
			key  string
			want codes.Code
		}{
			{"a pod", c.rpc(inside, "rpc.kserve-test.svc.cluster.local"), "", codes.OK},
			{"outside with a key, both hops", c.rpc(outside, rpcOut), "kserve-test/robot", codes.OK},
			{"outside with nothing", c.rpc(outside, rpcOut), "", codes.Unauthenticated},
			{"another tenant's key", c.rpc(outside, rpcOut), "team-b/robot", codes.PermissionDenied},
			{"a pod at another tenant's model", c.rpc(inside, "fraud.team-b.svc.cluster.local"), "", codes.Unauthenticated},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if tt.key != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.keys[tt.key])
			}
			out := &emptypb.Empty{}
			err := tt.conn.Invoke(ctx, infer, message("iris"), out)
			if status.Code(err) != tt.want {
				t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
			}
			if err == nil && string(out.ProtoReflect().GetUnknown()) != string(message("iris").ProtoReflect().GetUnknown()) {
				t.Errorf("%s: the answer is not the model's", tt.name)
			}
			cancel()
		}
		c.bidirectional(c.rpc(outside, rpcOut))
	})
}

// bidirectional sends a message only after the answer to the one before.
func (c *cluster) bidirectional(conn *grpc.ClientConn) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-api-key", c.keys["kserve-test/robot"])
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/inference.GRPCInferenceService/ModelStreamInfer")
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range 5 {
		if err := s.SendMsg(message(fmt.Sprint(i))); err != nil {
			c.t.Fatal(err)
		}
		if err := s.RecvMsg(&emptypb.Empty{}); err != nil {
			c.t.Fatalf("message %d: %v", i, err)
		}
	}
	_ = s.CloseSend()
	if err := s.RecvMsg(&emptypb.Empty{}); err != io.EOF {
		c.t.Errorf("the end: got %v", err)
	}
}

// TestLargeBody: 100 MB go through both hops while the client still sends: the model
// has the first of them before the last have left, so nothing keeps them.
func TestLargeBody(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		const size, first = 100 << 20, 8 << 20
		for i, k := range []call{
			{host: llmOut, path: "/upload?out", header: headers("x-api-key: " + c.keys["kserve-test/robot"])},
			{from: "default/myapp-pod", url: llm + "/upload?in"},
		} {
			query := []string{"out", "in"}[i]
			r, w := io.Pipe()
			go func() {
				block := make([]byte, 1<<20)
				for sent := 0; sent < size; sent += len(block) {
					if sent == first {
						for range 200 { // until the model has had it
							if c.backends.arrived(query) >= first/2 {
								break
							}
							time.Sleep(50 * time.Millisecond)
						}
						if got := c.backends.arrived(query); got < first/2 {
							_ = w.CloseWithError(fmt.Errorf("the model had %d bytes when %d were sent: somebody keeps them", got, first))
							return
						}
					}
					if _, err := w.Write(block); err != nil {
						return
					}
				}
				_ = w.Close()
			}()
			host := map[string]string{"out": llmOut, "in": "llm.kserve-test.svc.cluster.local"}[query]
			req, err := k.request(host)
			if err != nil {
				t.Fatal(err)
			}
			req.Method, req.Body, req.ContentLength = http.MethodPost, r, size
			resp, err := c.client(k).Do(req)
			if err != nil {
				t.Errorf("%s: %v", query, err)
				continue
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || string(body) != fmt.Sprint(size) {
				t.Errorf("%s: got %d %s, want all %d bytes at the model", query, resp.StatusCode, body, size)
			}
		}
	})
}

// TestStream: events arrive one by one, past the 2 s that the gateway waits for
// posternd and with no traffic of their own to posternd; a client that gives up is
// known to the model.
func TestStream(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		k := call{host: llmOut, path: "/stream?whole", header: headers("x-api-key: " + c.keys["kserve-test/robot"])}
		c.readStream(k, events)
		before := len(c.decisions())
		gone := k
		gone.path = "/stream?gone"
		c.readStream(gone, 3)
		for q := ""; q != "gone"; { // the first one's client leaves too, after the last event
			select {
			case q = <-c.backends.gone:
			case <-time.After(10 * time.Second):
				t.Fatal("the model never learnt that its client gave up")
			}
		}
		if n := len(c.decisions()) - before; n > 2 {
			t.Errorf("a stream of one call made %d checks, want one at each hop", n)
		}
	})
}

// readStream reads n events and gives up.
func (c *cluster) readStream(k call, n int) {
	c.t.Helper()
	req, err := k.request(k.host)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	resp, err := c.client(k).Do(req.WithContext(ctx))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	var first, last time.Time
	got := 0
	for got < n && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: ") {
			if last = time.Now(); got == 0 {
				first = last
			}
			got++
		}
	}
	if got != n {
		c.t.Errorf("%s: got %d events, want %d (%v)", k.path, got, n, lines.Err())
	}
	// The model needs (n-1)*50 ms to send them: buffered, they would come at once.
	if n > 10 && last.Sub(first) < time.Duration(n-1)*25*time.Millisecond {
		c.t.Errorf("%s: %d events came within %s: somebody keeps them", k.path, n, last.Sub(first))
	}
}

// TestWebsocket: the upgrade is judged once, and both sides talk.
func TestWebsocket(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		for _, tt := range []struct {
			name, host, key string
			k               call
			ok              bool
		}{
			{"a pod at the predictor", "llm-predictor.kserve-test.svc.cluster.local", "", call{from: "default/myapp-pod", url: llm}, true},
			{"a pod at an application", "orders-api.backend.svc.cluster.local", "", call{from: "default/myapp-pod", url: llm}, true},
			{"outside at an application, with a key", "orders.example.com", "kserve-test/robot", call{}, true},
			{"outside at an application, with nothing", "orders.example.com", "", call{}, false},
			{"a pod at another tenant's", "fraud-predictor.team-b.svc.cluster.local", "", call{from: "default/myapp-pod", url: llm}, false},
		} {
			ws, err := c.upgrade(tt.k, tt.host, tt.key)
			if (err == nil) != tt.ok {
				t.Errorf("%s: got %v, want it to be let in: %v", tt.name, err, tt.ok)
			}
			if err != nil {
				continue
			}
			for _, text := range []string{"one", "two"} {
				var got string
				if err := websocket.Message.Send(ws, text); err != nil {
					t.Fatal(err)
				}
				if err := websocket.Message.Receive(ws, &got); err != nil || got != text {
					t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, text)
				}
			}
			ws.Close()
		}
	})
}

func (c *cluster) upgrade(k call, host, key string) (*websocket.Conn, error) {
	c.t.Helper()
	conn, _, err := c.dial(c.t.Context(), k)
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := websocket.NewConfig("ws://"+host+"/ws", "http://"+host)
	if err != nil {
		c.t.Fatal(err)
	}
	if key != "" {
		config.Header.Set("X-Api-Key", c.keys[key])
	}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		conn.Close()
	}
	return ws, err
}

// TestWebsocketOverTwoHops: with or without Postern none gets through two gateways.
// The second one is reached over HTTP/2 (the Service's port is named http2), where an
// upgrade is a CONNECT, and Istio lets no gateway's listener take one (AllowConnect is
// set for waypoints alone, 1.17 to 1.31).
func TestWebsocketOverTwoHops(t *testing.T) {
	for _, without := range []bool{true, false} {
		c := start(t, "26.03", options{without: without})
		got := c.raw("default/myapp-pod", "GET /ws HTTP/1.1\r\nHost: llm.kserve-test.svc.cluster.local\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Origin: http://llm.kserve-test.svc.cluster.local\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "reset reason: connection termination") {
			t.Errorf("without Postern: %v: got %s: if it gets through, say so where this test is named", without, got)
		}
		c.stop()
	}
}

// checks is an authorizer that keeps what it is asked and allows.
type checks struct {
	authv3.UnimplementedAuthorizationServer
	mu   sync.Mutex
	seen []*authv3.CheckRequest
}

func (c *checks) Check(_ context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, in)
	return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.OK)}}, nil
}

// TestChecks: what a real Envoy's check carries with the layout's filter: the chosen
// VirtualService, the peer, and of a browser's headers those that Postern looks at.
func TestChecks(t *testing.T) {
	for _, release := range releases() {
		if shared(release) {
			continue // Istio 1.17's Envoy knows neither setting
		}
		t.Run(release, func(t *testing.T) {
			asked := &checks{}
			c := start(t, release, options{judge: asked})
			c.call(call{from: "default/myapp-pod", url: llm + "/v1?x", header: headers("user-agent: Mozilla/5.0", "sec-ch-ua-platform: Linux", "accept-encoding: gzip", "referer: http://x", "kubeflow_userid: x", "x-new: y", "authorization: z", "accept: text/html")})
			asked.mu.Lock()
			defer asked.mu.Unlock()
			if len(asked.seen) == 0 {
				t.Fatal("nothing was asked")
			}
			at := asked.seen[0].GetAttributes()
			if got := at.GetSource().GetAddress().GetSocketAddress().GetAddress(); got != c.pod("default/myapp-pod").Addr.String() {
				t.Errorf("source: got %s", got)
			}
			if got := at.GetRouteMetadataContext().GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue(); !strings.HasSuffix(got, "/namespaces/kserve-test/virtual-service/llm") {
				t.Errorf("route: got %q", got)
			}
			h := at.GetRequest().GetHttp().GetHeaders()
			for _, name := range []string{"kubeflow_userid", "x-new", "authorization", "accept", "x-forwarded-proto"} {
				if _, ok := h[name]; !ok {
					t.Errorf("%s is not in the check: %v", name, h)
				}
			}
			for _, name := range []string{"user-agent", "sec-ch-ua-platform", "accept-encoding", "referer", "x-request-id", "x-forwarded-for"} {
				// Istio 1.22 does not know disallowed_headers (Envoy 1.31) and leaves it out of what it merges.
				if _, ok := h[name]; ok != (release == "v1.9.1") {
					t.Errorf("%s: in the check: %v: %v", name, ok, h)
				}
			}
		})
	}
}
