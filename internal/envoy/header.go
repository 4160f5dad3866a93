package envoy

import "strings"

// headerClass is what the engine knows of a header by its name. But for the
// flags each bit stands for one name.
type headerClass uint64

const (
	// headerJoined: Envoy's header map keeps it as one value, repetitions joined
	// by commas. These are the request headers of envoy/http/header_map.h and
	// those that its filters register; the list was found by sending each header
	// twice to Envoy 1.40.
	headerJoined headerClass = 1 << iota
	// headerHop: of one connection only, taken out whatever it says.
	headerHop
	// headerInternal: a request from outside may not carry it
	// (ConnectionManagerUtility::cleanInternalHeaders).
	headerInternal
	// headerExamined: the connection manager looks at its value.
	headerExamined
	headerForwardedFor
	headerForwardedProto
	headerExternalAddress
	headerRequestID
	headerClientCert
	headerNames // the first of the other names' bits

	headerFlags = headerJoined | headerHop | headerInternal | headerExamined
)

// classOf is a switch because the compiler searches it by length and value,
// without hashing.
func classOf(name string) headerClass {
	switch name {
	case "accept":
		return headerJoined | headerNames<<0
	case "accept-encoding":
		return headerJoined | headerNames<<1
	case "access-control-request-headers":
		return headerJoined | headerNames<<2
	case "access-control-request-method":
		return headerJoined | headerNames<<3
	case "access-control-request-private-network":
		return headerJoined | headerNames<<4
	case "authentication":
		return headerJoined | headerNames<<5
	case "authorization":
		return headerJoined | headerNames<<6
	case "cache-control":
		return headerJoined | headerNames<<7
	case "content-encoding":
		return headerJoined | headerNames<<8
	case "content-type":
		return headerJoined | headerNames<<9
	case "grpc-accept-encoding":
		return headerJoined | headerNames<<10
	case "grpc-timeout":
		return headerJoined | headerNames<<11
	case "if-match":
		return headerJoined | headerNames<<12
	case "if-modified-since":
		return headerJoined | headerNames<<13
	case "if-none-match":
		return headerJoined | headerNames<<14
	case "if-range":
		return headerJoined | headerNames<<15
	case "if-unmodified-since":
		return headerJoined | headerNames<<16
	case "origin":
		return headerJoined | headerNames<<17
	case "pragma":
		return headerJoined | headerNames<<18
	case "proxy-status":
		return headerJoined | headerNames<<19
	case "referer":
		return headerJoined | headerNames<<20
	case "user-agent":
		return headerJoined | headerNames<<21
	case "via":
		return headerJoined | headerNames<<22
	case "x-client-trace-id":
		return headerJoined | headerNames<<23
	case "x-envoy-attempt-count":
		return headerJoined | headerNames<<24
	case "x-forwarded-host":
		return headerJoined | headerNames<<25
	case "x-forwarded-port":
		return headerJoined | headerNames<<26
	case "connection":
		return headerJoined | headerExamined | headerNames<<27
	case "expect":
		return headerJoined | headerExamined | headerNames<<28
	case "te":
		return headerJoined | headerExamined | headerNames<<29
	case "upgrade":
		return headerJoined | headerExamined | headerNames<<30
	case "x-envoy-decorator-operation":
		return headerJoined | headerInternal | headerNames<<31
	case "x-envoy-original-host":
		return headerJoined | headerInternal | headerNames<<32
	case "x-envoy-original-path":
		return headerJoined | headerInternal | headerNames<<33
	case "http2-settings":
		return headerExamined
	case "keep-alive", "proxy-connection", "transfer-encoding":
		return headerHop
	case "x-forwarded-for":
		return headerJoined | headerForwardedFor
	case "x-forwarded-proto":
		return headerJoined | headerForwardedProto
	case "x-envoy-external-address":
		return headerJoined | headerExternalAddress
	case "x-request-id":
		return headerJoined | headerRequestID
	case "x-forwarded-client-cert":
		return headerJoined | headerClientCert
	case "x-envoy-internal", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node",
		"x-envoy-retriable-header-names", "x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-upstream-alt-stat-name",
		"x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-alt-response",
		"x-envoy-expected-rq-timeout-ms", "x-envoy-force-trace", "x-envoy-ip-tags", "x-envoy-original-url", "x-envoy-retriable-status-codes", "x-envoy-hedge-on-per-try-timeout":
		return headerInternal
	}
	return 0
}

// Header is one header field. Names are lower-case inside the engine.
type Header struct{ Name, Value string }

// Headers are header fields in the order of the wire; a name may repeat.
type Headers []Header

// Get joins all values of a name with commas, as Envoy's matchers see them
// (HeaderUtility::getAllOfHeaderAsString); false when there is none.
func (h Headers) Get(name string) (string, bool) {
	value, found := "", false
	for i := range h {
		if f := &h[i]; f.Name == name {
			if found {
				value += "," + f.Value
			} else {
				value, found = f.Value, true
			}
		}
	}
	return value, found
}

func (h Headers) has(name string) bool {
	for i := range h {
		if h[i].Name == name {
			return true
		}
	}
	return false
}

// Set replaces all values of a name by one, in the place of the first.
func (h *Headers) Set(name, value string) {
	for i := range *h {
		if f := &(*h)[i]; f.Name == name {
			f.Value = value
			h.removeFrom(i+1, name)
			return
		}
	}
	*h = append(*h, Header{name, value})
}

// Add appends a field. Of the headers that Envoy's header map keeps as one value
// the values are joined (HeaderMapImpl::appendToHeader).
func (h *Headers) Add(name, value string) {
	if classOf(name)&headerJoined == 0 || !h.join(name, value) {
		*h = append(*h, Header{name, value})
	}
}

// join adds a value to the first field of the name; false when there is none.
func (h Headers) join(name, value string) bool {
	for i := range h {
		if old := &h[i]; old.Name == name {
			if old.Value != "" && value != "" {
				old.Value += ","
			}
			old.Value += value
			return true
		}
	}
	return false
}

// Remove deletes all values of a name.
func (h *Headers) Remove(name string) { h.removeFrom(0, name) }

func (h *Headers) removeFrom(i int, name string) {
	for ; i < len(*h); i++ {
		if (*h)[i].Name == name {
			break
		}
	}
	if i == len(*h) {
		return
	}
	kept := (*h)[:i]
	for _, f := range (*h)[i+1:] {
		if f.Name != name {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// removeNominated removes the headers that Connection names (RFC 9110, 7.6.1;
// Envoy's Utility::sanitizeConnectionHeader), before any filter sees them: what a
// filter adds later, a client cannot take away.
func (h *Headers) removeNominated() {
	connection, _ := h.Get("connection")
	for name := range strings.SplitSeq(strings.ToLower(connection), ",") {
		if name = strings.TrimSpace(name); name != "" && name != "close" && name != "te" {
			h.Remove(name)
		}
	}
}
