package kserve

import (
	"errors"
	"strings"

	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
)

// routerContainer is the name KServe's router has in a graph's pod: Knative's own
// for a container that is not named.
const routerContainer = "user-container"

// deriveGraphs makes the objects of the InferenceGraphs. c is nil when no
// InferenceService needed the settings yet.
func deriveGraphs(s *manifest.Set, c *config, routes bool) ([]*manifest.Object, error) {
	var out []*manifest.Object
	var errs []error
	for o, graph := range manifest.Of[*manifest.InferenceGraph](s) {
		if c == nil {
			var err error
			if c, err = newConfig(s, o); err != nil {
				return nil, err
			}
		}
		if strings.EqualFold(graph.Annotations[stopAnnotation], "true") {
			continue
		}
		objects, err := deriveGraph(&maker{source: o, routes: routes}, graph, c)
		out, errs = append(out, objects...), append(errs, err)
	}
	return out, errors.Join(errs...)
}

func deriveGraph(m *maker, graph *manifest.InferenceGraph, c *config) ([]*manifest.Object, error) {
	o := m.source
	if o.Unread != nil {
		return nil, o.Unread
	}
	spec := &manifest.Component{MinReplicas: graph.Spec.MinReplicas}
	spec.Containers = []corev1.Container{{Name: routerContainer, Image: c.routerImage}}
	spec.ServiceAccountName = graph.Spec.ServiceAccountName
	comp := component{name: graph.Name, spec: spec}
	if err := errors.Join(serverless(o, graph.Status, c), short(o, comp)); err != nil {
		return nil, err
	}
	m.component(comp, c, c.domain(graph.Labels))
	return m.objects, errors.Join(m.errs...)
}
