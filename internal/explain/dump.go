package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// maxDump bounds a config_dump: a gateway with thousands of models has some
// tens of MiB.
const maxDump = 256 << 20

// Dump is a gateway's config_dump. Its name is for errors: the file's.
type Dump struct {
	Name   string
	Reader io.Reader
}

// FromDump explains calls at live gateways: Envoy's /config_dump of each, which is
// also what `istioctl proxy-config all -o json` prints. The manifests may be nil;
// with them objects have file and line, and the walk goes on behind the gateways:
// sidecars are translated by the first dump's own Istio line, where o has one.
func FromDump(dumps []Dump, set *manifest.Set, o translate.Options) (*System, error) {
	parsed := make([]*dump, len(dumps))
	for i, d := range dumps {
		var err error
		if parsed[i], err = readDump(d.Reader); err != nil {
			return nil, fmt.Errorf("%s: %w", dumps[i].Name, err)
		}
	}
	if len(parsed) == 0 {
		return nil, errors.New("got no config_dump, want one of each gateway that is asked about")
	}
	s := &System{dump: true, alone: set == nil}
	var err error
	if set == nil {
		if set, err = manifest.New(); err != nil {
			return nil, err
		}
	}
	if s.world, err = world.Read(set, world.Options{}); err != nil {
		return nil, err
	}
	if o.Version = parsed[0].istio; o.Version != "" {
		if err := s.world.TranslateSidecars(world.Options{Translate: o}); err != nil {
			return nil, err
		}
	}
	s.world.Istio = orElse(parsed[0].istio, "unknown")
	for i, d := range parsed {
		g, err := d.gateway(s.world, s.alone)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dumps[i].Name, err)
		}
		if slices.ContainsFunc(s.world.Gateways, func(other *world.Gateway) bool { return other.Workload == g.Workload }) {
			return nil, fmt.Errorf("%s: is of %s, as one before it: want one of each gateway", dumps[i].Name, g.Workload)
		}
		s.world.Gateways = append(s.world.Gateways, g)
		s.world.Notes = append(s.world.Notes, d.notes...)
		for _, f := range g.Proxy.Findings() {
			s.world.Notes = append(s.world.Notes, strings.TrimPrefix(f.Object+": "+f.Text, ": "))
		}
	}
	s.withoutEffect = s.world.WithoutEffect()
	s.posternd, err = findPosternd(s.world)
	return s, err
}

func readDump(r io.Reader) (*dump, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDump+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxDump {
		return nil, fmt.Errorf("larger than %d MiB", maxDump>>20)
	}
	return parseDump(data)
}

// dump is the part of a config_dump that explain reads.
type dump struct {
	node      string // "router~10.1.2.3~istio-ingressgateway-7d9-x2.istio-system~istio-system.svc.cluster.local"
	labels    map[string]string
	istio     string
	listeners []json.RawMessage
	routes    []json.RawMessage
	clusters  []json.RawMessage
	notes     []string
}

// section is any of the dump's messages (envoy.admin.v3), read by field.
type section struct {
	Type      string `json:"@type"`
	Bootstrap struct {
		Node struct {
			ID       string
			Metadata struct {
				Version string            `json:"ISTIO_VERSION"`
				Labels  map[string]string `json:"LABELS"`
			}
		}
	}
	StaticListeners []struct{ Listener json.RawMessage } `json:"static_listeners"`
	Listeners       []struct {
		Name       string
		Active     struct{ Listener json.RawMessage } `json:"active_state"`
		ErrorState *struct{ Details string }          `json:"error_state"`
	} `json:"dynamic_listeners"`
	StaticRoutes []struct {
		Config json.RawMessage `json:"route_config"`
	} `json:"static_route_configs"`
	Routes []struct {
		Config json.RawMessage `json:"route_config"`
	} `json:"dynamic_route_configs"`
	StaticClusters []struct{ Cluster json.RawMessage } `json:"static_clusters"`
	Clusters       []struct{ Cluster json.RawMessage } `json:"dynamic_active_clusters"`
}

func parseDump(data []byte) (*dump, error) {
	var file struct{ Configs []section }
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&file); err != nil {
		return nil, fmt.Errorf("not a config_dump: %w", err)
	}
	if len(file.Configs) == 0 {
		return nil, errors.New(`not a config_dump: got no "configs" (curl ADMIN/config_dump, or istioctl proxy-config all POD -o json)`)
	}
	d := &dump{}
	for _, c := range file.Configs {
		if n := c.Bootstrap.Node; n.ID != "" {
			d.node, d.istio, d.labels = n.ID, n.Metadata.Version, n.Metadata.Labels
		}
		for _, l := range c.StaticListeners {
			d.listeners = append(d.listeners, l.Listener)
		}
		for _, l := range c.Listeners {
			if l.ErrorState != nil {
				d.notes = append(d.notes, fmt.Sprintf("listener %s: Envoy refused its last update and goes on with the one before: %s", l.Name, l.ErrorState.Details))
			}
			if l.Active.Listener == nil {
				d.notes = append(d.notes, fmt.Sprintf("listener %s is not in force (warming, draining or refused)", l.Name))
				continue
			}
			d.listeners = append(d.listeners, l.Active.Listener)
		}
		for _, r := range append(c.StaticRoutes, c.Routes...) {
			d.routes = append(d.routes, r.Config)
		}
		for _, l := range append(c.StaticClusters, c.Clusters...) {
			d.clusters = append(d.clusters, l.Cluster)
		}
	}
	if len(d.listeners) == 0 {
		return nil, errors.New("the config_dump holds no listener that is in force")
	}
	return d, nil
}

// gateway compiles the dump, and finds which workload it is of.
func (d *dump) gateway(w *world.World, alone bool) (*world.Gateway, error) {
	listeners, err := untyped(d.listeners)
	if err != nil {
		return nil, err
	}
	routes, err := untyped(named(d.routes))
	if err != nil {
		return nil, err
	}
	clusters, err := untyped(d.clusters)
	if err != nil {
		return nil, err
	}
	g := &world.Gateway{}
	if g.Resources, err = envoy.ParseResources(listeners, routes, clusters); err != nil {
		return nil, err
	}
	g.Resources.RewriteHosts() // its Envoy took them, so it is one that takes that
	if g.Proxy, err = envoy.Compile(g.Resources); err != nil {
		return nil, err
	}
	g.Workload, err = d.workload(w, alone)
	return g, err
}

// named leaves out the route configurations that a listener holds inline and
// nobody names.
func named(routes []json.RawMessage) []json.RawMessage {
	var out []json.RawMessage
	for _, r := range routes {
		var head struct{ Name string }
		if json.Unmarshal(r, &head) == nil && head.Name != "" {
			out = append(out, r)
		}
	}
	return out
}

// untyped takes the "@type" off: the reader knows what it reads.
func untyped(in []json.RawMessage) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, len(in))
	for i, raw := range in {
		var v map[string]json.RawMessage
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("config_dump: %w", err)
		}
		delete(v, "@type")
		var err error
		if out[i], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// workload finds the gateway of the manifests that the dump is of: by the node's
// name, else the only one.
func (d *dump) workload(w *world.World, alone bool) (*topology.Workload, error) {
	pod, namespace, addr := "gateway", "unknown", netip.MustParseAddr("192.0.2.1")
	if parts := strings.Split(d.node, "~"); len(parts) == 4 {
		if pod, namespace, _ = strings.Cut(parts[2], "."); parts[1] != "" {
			if a, err := netip.ParseAddr(parts[1]); err == nil {
				addr = a
			}
		}
	}
	if alone {
		wl := &topology.Workload{Kind: "proxy", Namespace: namespace, Name: pod, Labels: d.labels}
		wl.Pods = []*topology.Pod{{Namespace: namespace, Name: pod, Addr: addr, Labels: d.labels, Running: true, Ready: true, Workload: wl}}
		return wl, nil
	}
	gateways, err := w.Topology.GatewayWorkloads()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, wl := range gateways {
		if len(wl.Pods) == 0 {
			continue
		}
		if wl.Namespace == namespace && (pod == wl.Name || strings.HasPrefix(pod, wl.Name+"-")) || len(gateways) == 1 {
			return wl, nil
		}
		names = append(names, wl.String())
	}
	return nil, fmt.Errorf("the config_dump is of node %q, which is no gateway of the manifests (%s)", d.node, strings.Join(names, ", "))
}
