package topology

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrBlackHole and ErrPassthrough are Istio's two clusters that lead to no
// Service: the one drops a request, the other lets it go where it was going.
var (
	ErrBlackHole   = errors.New("BlackHoleCluster: Istio drops the request here")
	ErrPassthrough = errors.New("PassthroughCluster: Istio sends the request to the address it was meant for")
)

// Cluster is the name of an Envoy cluster as Istio writes it
// (istio pkg/config/model.BuildSubsetKey): DIRECTION|PORT|SUBSET|HOST.
type Cluster struct {
	Inbound bool // to a container of the proxy's own pod
	Port    uint32
	Subset  string
	Host    string // empty for an inbound one
}

// ParseCluster reads a cluster's name. It returns ErrBlackHole or
// ErrPassthrough for the clusters of those names.
func ParseCluster(name string) (Cluster, error) {
	switch name {
	case "BlackHoleCluster":
		return Cluster{}, ErrBlackHole
	case "PassthroughCluster", "InboundPassthroughCluster", "InboundPassthroughClusterIpv4", "InboundPassthroughClusterIpv6":
		return Cluster{}, ErrPassthrough
	}
	parts := strings.Split(name, "|")
	if len(parts) != 4 || (parts[0] != "outbound" && parts[0] != "inbound") {
		return Cluster{}, fmt.Errorf("got cluster %q, want outbound|PORT|SUBSET|HOST or inbound|PORT||", name)
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil || port == 0 {
		return Cluster{}, fmt.Errorf("cluster %s: got port %q, want 1 to 65535", name, parts[1])
	}
	return Cluster{Inbound: parts[0] == "inbound", Port: uint32(port), Subset: parts[2], Host: strings.ToLower(parts[3])}, nil
}

// Cluster finds the endpoints of an outbound cluster.
func (w *World) Cluster(name string) ([]Endpoint, error) {
	c, err := ParseCluster(name)
	if err != nil {
		return nil, err
	}
	if c.Inbound {
		return nil, fmt.Errorf("cluster %s: inbound clusters lead to the proxy's own pod", name)
	}
	if c.Subset != "" {
		return nil, fmt.Errorf("cluster %s: subset %s: subsets of DestinationRules are not supported yet", name, c.Subset)
	}
	service, namespace, ok := split(c.Host)
	if !ok {
		return nil, fmt.Errorf("cluster %s: %s is no Service's name", name, c.Host)
	}
	out, err := w.Endpoints(namespace, service, c.Port)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	return out, nil
}
