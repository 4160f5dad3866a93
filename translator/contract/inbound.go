package contract

import (
	"encoding/json"
	"fmt"
	"strings"
)

// inboundListener is Istio's name of the listener to which all connections to a workload with a sidecar are redirected.
const inboundListener = "virtualInbound"

// inboundOnly leaves of a sidecar's configuration what concerns requests to its workload: the inbound listener, which holds its routes
// itself, and the clusters that it may lead to.
func inboundOnly(c ProxyConfig) (ProxyConfig, error) {
	out := ProxyConfig{Name: c.Name, Listeners: []json.RawMessage{}, Routes: []json.RawMessage{}, Clusters: []json.RawMessage{}}
	err := each(c.Listeners, func(name string, raw json.RawMessage) {
		if name == inboundListener {
			out.Listeners = append(out.Listeners, raw)
		}
	})
	if err != nil {
		return out, err
	}
	if len(out.Listeners) != 1 {
		return out, fmt.Errorf("proxy %s: got %d listeners %s, want 1", c.Name, len(out.Listeners), inboundListener)
	}
	return out, each(c.Clusters, func(name string, raw json.RawMessage) {
		if strings.HasPrefix(name, "inbound|") || strings.HasPrefix(name, "InboundPassthroughCluster") || name == "BlackHoleCluster" {
			out.Clusters = append(out.Clusters, raw)
		}
	})
}

func each(list []json.RawMessage, do func(name string, raw json.RawMessage)) error {
	for _, raw := range list {
		var r struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		do(r.Name, raw)
	}
	return nil
}
