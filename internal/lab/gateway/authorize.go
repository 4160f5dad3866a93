package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"postern.dev/postern/internal/envoy"
)

// maxAuthorizerBody bounds what is read of an authorizer's answer.
const maxAuthorizerBody = 1 << 20

// authorizers asks the ext_authz services of one configuration.
type authorizers struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	client *http.Client

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

func newAuthorizers(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *authorizers {
	return &authorizers{dial: dial, conns: map[string]*grpc.ClientConn{}, client: &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (a *authorizers) close() {
	a.client.CloseIdleConnections()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.conns = map[string]*grpc.ClientConn{}
}

func (a *authorizers) ask(ctx context.Context, c envoy.Check) envoy.Answer {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	if c.GRPC != nil {
		return a.askGRPC(ctx, c)
	}
	return a.askHTTP(ctx, c)
}

func (a *authorizers) askGRPC(ctx context.Context, c envoy.Check) envoy.Answer {
	conn, err := a.conn(c.Cluster)
	if err != nil {
		return envoy.Answer{Err: err}
	}
	resp, err := authv3.NewAuthorizationClient(conn).Check(ctx, c.GRPC)
	return envoy.Answer{GRPC: resp, Err: err}
}

func (a *authorizers) conn(cluster string) (*grpc.ClientConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.conns[cluster]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+hostOf(cluster)+":0",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return a.dial(ctx, "tcp", addr) }))
	if err != nil {
		return nil, err
	}
	a.conns[cluster] = c
	return c, nil
}

func (a *authorizers) askHTTP(ctx context.Context, c envoy.Check) envoy.Answer {
	target, err := targetURL("http", hostOf(c.Cluster), c.HTTP.Path)
	if err != nil {
		return envoy.Answer{Err: err}
	}
	req := (&http.Request{Method: c.HTTP.Method, URL: target, Host: c.HTTP.Authority, Header: toHTTP(c.HTTP.Headers), Body: http.NoBody}).WithContext(ctx)
	resp, err := a.client.Do(req)
	if err != nil {
		return envoy.Answer{Err: err}
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := io.Copy(&body, io.LimitReader(resp.Body, maxAuthorizerBody+1)); err != nil {
		return envoy.Answer{Err: err}
	}
	if body.Len() > maxAuthorizerBody {
		return envoy.Answer{Err: fmt.Errorf("the authorizer's answer is larger than %d bytes", maxAuthorizerBody)}
	}
	answer := envoy.Answer{Status: resp.StatusCode, Body: body.String()}
	for name, values := range resp.Header {
		for _, v := range values {
			answer.Headers.Add(strings.ToLower(name), v)
		}
	}
	return answer
}
