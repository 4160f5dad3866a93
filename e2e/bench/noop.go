package main

import (
	"context"
	"fmt"
	"net"
	"os"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// noopCommand makes this program the authorizer that allows everything.
const noopCommand = "noop"

// noop is what a plain authorizer is at the least: grpc-go as it comes, the
// generated code, one header set.
type noop struct {
	auth.UnimplementedAuthorizationServer
}

func (noop) Check(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
		Headers: []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "x-postern-caller", Value: "nobody"}}},
	}}}, nil
}

func serveNoop() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "checks at %s\n", l.Addr())
	s := grpc.NewServer()
	auth.RegisterAuthorizationServer(s, noop{})
	if err := s.Serve(l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
