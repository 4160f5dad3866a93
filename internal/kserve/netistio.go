package kserve

import (
	"encoding/json"
	"errors"
	"fmt"

	"postern.dev/postern/internal/manifest"
)

// KnativeIngress is an Ingress of networking.internal.knative.dev as Knative wrote it.
type KnativeIngress struct {
	Source *manifest.Object // for namespace, name and messages; its Value is not read
	Spec   json.RawMessage
	Labels map[string]string
}

// NetIstio is what net-istio writes for a live Ingress, from the settings in s (ConfigMaps config-istio
// and config-network): VirtualServices NAME-ingress and NAME-mesh, and the host of the local gateway's Service. An
// Ingress that says more than this package derives (traffic split between revisions, rules by header) is an error.
func NetIstio(in KnativeIngress, s *manifest.Set) (objects []*manifest.Object, localService string, err error) {
	c := &config{}
	if err := c.istio(s); err != nil {
		return nil, "", err
	}
	if err := network(s); err != nil {
		return nil, "", err
	}
	ing := &ingress{namespace: in.Source.Meta.Namespace, name: in.Source.Meta.Name}
	if err := json.Unmarshal(in.Spec, ing); err != nil {
		return nil, "", fmt.Errorf("Ingress %s/%s: %w", ing.namespace, ing.name, err)
	}
	for i, r := range ing.Rules {
		for _, p := range r.HTTP.Paths {
			if len(p.Splits) != 1 {
				return nil, "", in.Source.Errorf(fmt.Sprintf("spec.rules[%d]", i), "got %d destinations, only one is supported yet", len(p.Splits))
			}
			if p.Path != "" || len(p.Headers) > 0 || len(p.AppendHeaders) > 0 || p.RewriteHost != "" {
				return nil, "", in.Source.Errorf(fmt.Sprintf("spec.rules[%d]", i), "a path, headers or a rewritten host are not supported yet")
			}
		}
	}
	m := &maker{source: in.Source}
	m.netIstio(ing, in.Labels, c)
	return m.objects, c.localService, errors.Join(m.errs...)
}
