package authorizer

import (
	"context"
	"net/http"
	"net/netip"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
)

// Server answers Envoy's ext_authz checks by gRPC (envoy.service.auth.v3).
// Whoever reaches it could claim any address: who may connect is the listener's
// to decide.
type Server struct {
	auth.UnimplementedAuthorizationServer
	Authorizer *Authorizer
}

// Check never fails as a call: a refusal says why, an error would leave only
// the gateway's statusOnError.
func (s Server) Check(ctx context.Context, in *auth.CheckRequest) (out *auth.CheckResponse, err error) {
	defer func() {
		if recover() != nil { // Decide recovers by itself; this is for the two adapters around it
			out = Response(Verdict{Reason: Internal})
		}
	}()
	return Response(s.Authorizer.Decide(ctx, RequestOf(in))), nil
}

// RequestOf reads a check. What is missing stays empty, which Decide refuses.
func RequestOf(in *auth.CheckRequest) Request {
	at := in.GetAttributes()
	h := at.GetRequest().GetHttp()
	req := Request{
		Method: h.GetMethod(), Host: h.GetHost(),
		Headers: headersOf(h),
	}
	req.Path, req.Query = h.GetPath(), ""
	if i := strings.IndexByte(req.Path, '?'); i >= 0 {
		req.Path, req.Query = req.Path[:i], req.Path[i:]
	}
	req.Source, _ = addressOf(at.GetSource())
	if _, port := addressOf(at.GetDestination()); port <= 65535 {
		req.Door = uint16(port)
	}
	if meta := at.GetRouteMetadataContext().GetFilterMetadata()["istio"]; meta != nil {
		req.RouteVirtualService = meta.GetFields()["config"].GetStringValue()
	}
	return req
}

func addressOf(p *auth.AttributeContext_Peer) (netip.Addr, uint32) {
	sock := p.GetAddress().GetSocketAddress()
	addr, err := netip.ParseAddr(sock.GetAddress())
	if err != nil {
		return netip.Addr{}, sock.GetPortValue()
	}
	return addr.Unmap(), sock.GetPortValue()
}

// headersOf reads the headers in either of the two forms in which Envoy sends
// them: values of one name joined by commas, or each by itself
// (encode_raw_headers).
func headersOf(h *auth.AttributeContext_HttpRequest) map[string][]string {
	out := make(map[string][]string, len(h.GetHeaders()))
	for name, value := range h.GetHeaders() {
		name = strings.ToLower(name)
		out[name] = append(out[name], value)
	}
	for _, v := range h.GetHeaderMap().GetHeaders() {
		value := v.GetValue()
		if len(v.GetRawValue()) > 0 {
			value = string(v.GetRawValue())
		}
		name := strings.ToLower(v.GetKey())
		out[name] = append(out[name], value)
	}
	return out
}

// Response is the verdict in Envoy's words. Only an allowing verdict makes one
// with status OK, which is also the zero value of Envoy's status.
func Response(v Verdict) *auth.CheckResponse {
	out := &auth.CheckResponse{DynamicMetadata: metadata(v)}
	if v.Allow {
		out.Status = &status.Status{Code: int32(codes.OK)}
		out.HttpResponse = &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers: options(v.Set), HeadersToRemove: v.Remove, ResponseHeadersToAdd: responseOptions(v.Response),
		}}
		return out
	}
	code := v.Status
	if code < 200 || code > 599 {
		code = http.StatusServiceUnavailable
	}
	out.Status = &status.Status{Code: int32(codes.PermissionDenied)}
	if code == http.StatusUnauthorized {
		out.Status.Code = int32(codes.Unauthenticated)
	}
	out.HttpResponse = &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(code)},
		Headers: options(v.Headers),
		Body:    strings.ToValidUTF8(string(v.Body), "\uFFFD"),
	}}
	return out
}

// options: a value must be UTF-8 (a proto string); each takes the place of what is there. In a refusal Envoy keeps
// several of one name (Set-Cookie), but takes only those that overwrite.
func options(list []Header) []*core.HeaderValueOption {
	var out []*core.HeaderValueOption
	for _, h := range list {
		out = append(out, &core.HeaderValueOption{
			Header:       &core.HeaderValue{Key: h.Name, Value: strings.ToValidUTF8(h.Value, "\uFFFD")},
			AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return out
}

// responseOptions change a backend's answer.
func responseOptions(list []Header) []*core.HeaderValueOption {
	out := options(list)
	for i, h := range list {
		out[i].AppendAction = actionOf(h.Name)
	}
	return out
}

// actionOf: of two Vary headers both count, and of two policies the stricter part
// of each; what a backend says must stay.
func actionOf(name string) core.HeaderValueOption_HeaderAppendAction {
	if name == "vary" || name == "content-security-policy" {
		return core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	}
	return core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
}

// metadata is what other filters and the access log may read, below
// envoy.filters.http.ext_authz.
func metadata(v Verdict) *structpb.Struct {
	word := "refuse"
	if v.Allow {
		word = "allow"
	}
	fields := map[string]*structpb.Value{
		"verdict": structpb.NewStringValue(word),
		"reason":  structpb.NewStringValue(v.Reason),
	}
	if v.Caller.User != "" {
		fields["caller"] = structpb.NewStringValue(strings.ToValidUTF8(v.Caller.User, "?"))
	}
	if v.Credential != "" {
		fields["credential"] = structpb.NewStringValue(strings.ToValidUTF8(v.Credential, "?"))
	}
	if !v.Resource.IsZero() {
		fields["resource"] = structpb.NewStringValue(v.Resource.String())
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		"postern": structpb.NewStructValue(&structpb.Struct{Fields: fields}),
	}}
}
