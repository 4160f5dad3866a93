package authorizer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

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
	}, &wireServer{a: a})
	return s
}

// checker is what answerCheck needs of the service.
type checker interface {
	answer(ctx context.Context, decode func(any) error) (any, error)
}

// wireServer keeps what a check is read into and its answer written to for the next
// ones: new memory for each is a large part of what a check costs.
type wireServer struct {
	a       *Authorizer
	checks  sync.Pool
	answers answers
}

// check never fails as a call: a refusal says why, an error would leave only the
// gateway's statusOnError.
func (s *wireServer) check(ctx context.Context, in *wireCheck) (v Verdict) {
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
	s.a.record(ctx, Request{}, v, s.a.now(), 0)
	return v
}

func answerCheck(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	return srv.(checker).answer(ctx, decode)
}

func (s *wireServer) answer(ctx context.Context, decode func(any) error) (any, error) {
	in, _ := s.checks.Get().(*wireCheck)
	if in == nil {
		in = new(wireCheck)
	}
	if err := decode(in); err != nil {
		return nil, err
	}
	out := s.answers.Get(0)
	*out = appendResponse(*out, s.check(ctx, in))
	if len(in.scanner.values) <= keptHeaders {
		in.release()
		s.checks.Put(in)
	}
	return wireAnswer{out, &s.answers}, nil
}

// wireCheck is a check as read from its bytes. Its Request's headers are used again
// for another check: whoever keeps them past the answer has a copy (login.ask).
type wireCheck struct {
	scanner scanner
	request Request
	err     error
}

// release lets go of what the check said.
func (c *wireCheck) release() {
	clear(c.scanner.values)
	c.scanner = scanner{values: c.scanner.values[:0], req: Request{Headers: c.scanner.req.Headers}}
	clear(c.scanner.req.Headers)
	c.request, c.err = Request{}, nil
}

// wireAnswer is a CheckResponse as bytes, and where they go when they are sent.
type wireAnswer struct {
	bytes *[]byte
	from  *answers
}

// answers are the buffers of answers, a mem.BufferPool.
type answers struct{ pool sync.Pool }

const (
	keptHeaders = 128
	usualAnswer = 2 << 10 // bytes; grpc-go gives back only what is over 1 KiB
	keptAnswer  = 16 << 10
)

// Get gives an empty buffer.
func (a *answers) Get(int) *[]byte {
	if b, ok := a.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, usualAnswer)
	return &b
}

// Put takes a buffer back; one that has grown large goes.
func (a *answers) Put(b *[]byte) {
	if cap(*b) <= keptAnswer {
		*b = (*b)[:0]
		a.pool.Put(b)
	}
}

// codec reads and writes wireCheck and wireAnswer, and leaves every other type to
// the codec there was.
type codec struct{ rest encoding.CodecV2 }

func (codec) Name() string { return "proto" }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(wireAnswer); ok {
		if len(*b.bytes) == 0 {
			return nil, errors.New("authorizer: an empty answer would be a yes")
		}
		return mem.BufferSlice{mem.NewBuffer(b.bytes, b.from)}, nil
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
	in.request, in.err = in.scanner.read(b.ReadOnlyData())
	if in.err != nil {
		in.err = fmt.Errorf("reading the check: %w", in.err)
	}
	return nil
}
