package authorizer

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec for everything but Check
	"google.golang.org/grpc/mem"
)

// Numbers of the gRPC server. What they are worth: BENCHMARKS.md.
const (
	maxCheck = 1 << 20 // bytes of a check; Envoy's headers end at 60 KiB unless told otherwise
	workers  = 16      // goroutines whose stacks have grown already; more checks in flight than that get new ones
	window   = 1 << 20 // of flow control, fixed: no pings to measure it
	buffer   = 64 << 10
)

// NewServer is a gRPC server that answers Envoy's checks (envoy.service.auth.v3).
// Whoever reaches it could claim any address: who may connect is the caller's to
// decide, by the listener and by more options (credentials).
//
// It is grpc-go's server. Only messages of the one method Check are read and
// written by a codec of our own, which takes from a check the few fields that
// Decide needs (readCheck) and writes the answer without making objects of it
// (appendResponse); that halves what a check costs. Server is the same with the
// generated code, and what the codec is tested against.
func NewServer(a *Authorizer, more ...grpc.ServerOption) *grpc.Server {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.MaxRecvMsgSize(maxCheck),
		grpc.NumStreamWorkers(workers),
		grpc.SharedWriteBuffer(true),
		grpc.ReadBufferSize(buffer), grpc.WriteBufferSize(buffer),
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
	}
	s := grpc.NewServer(append(options, more...)...)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: auth.Authorization_ServiceDesc.ServiceName,
		HandlerType: (*checker)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: answerCheck}},
		Metadata:    auth.Authorization_ServiceDesc.Metadata,
	}, wireServer{a})
	return s
}

// checker is what answerCheck needs of the service.
type checker interface {
	check(context.Context, *wireCheck) Verdict
}

type wireServer struct{ a *Authorizer }

// check never fails as a call: a refusal says why, an error would leave only the
// gateway's statusOnError.
func (s wireServer) check(ctx context.Context, in *wireCheck) (v Verdict) {
	defer func() {
		if recover() != nil { // Decide recovers by itself; this is for what is around it
			v = Verdict{Reason: Internal}
		}
	}()
	if in.err == nil {
		return s.a.Decide(ctx, in.request)
	}
	v = s.a.refuse(Request{}, http.StatusServiceUnavailable, MalformedCheck, "the gateway's check cannot be read")
	v.cause = in.err
	s.a.record(ctx, Request{}, v, 0)
	return v
}

func answerCheck(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := new(wireCheck)
	if err := decode(in); err != nil {
		return nil, err
	}
	return wireAnswer(appendResponse(make([]byte, 0, 1024), srv.(checker).check(ctx, in))), nil
}

// wireCheck is a check as read from its bytes.
type wireCheck struct {
	request Request
	err     error
}

// wireAnswer is a CheckResponse as bytes.
type wireAnswer []byte

// codec reads and writes wireCheck and wireAnswer, and leaves every other type to
// the codec there was.
type codec struct{ rest encoding.CodecV2 }

func (codec) Name() string { return "proto" }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(wireAnswer); ok {
		if len(b) == 0 {
			return nil, errors.New("authorizer: an empty answer would be a yes")
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.rest.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*wireCheck)
	if !ok {
		return c.rest.Unmarshal(data, v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	in.request, in.err = readCheck(b.ReadOnlyData())
	if in.err != nil {
		in.err = fmt.Errorf("reading the check: %w", in.err)
	}
	return nil
}
