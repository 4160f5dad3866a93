package world

import (
	"context"

	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
)

// Bundle translates manifests with the translator of their own Istio and gives
// the bytes to commit, so that a system of these manifests starts without a
// translator.
func Bundle(ctx context.Context, set *manifest.Set, o translate.Options) ([]byte, error) {
	w, err := Read(set, Options{})
	if err != nil {
		return nil, err
	}
	workloads, err := w.Topology.GatewayWorkloads()
	if err != nil {
		return nil, err
	}
	o.Version = w.istiod()
	in := translationInput(w.Set, workloads)
	out, err := translate.Translate(ctx, in, o)
	if err != nil {
		return nil, err
	}
	w.Istio = out.Istio
	if err := w.rejected(out.Rejected); err != nil {
		return nil, err
	}
	line, err := translate.Line(o.Version)
	if err != nil {
		return nil, err
	}
	return translate.Bundle(line, in, out)
}

// Sidecars translates the inbound side of every sidecar of the manifests, as
// Sidecar would: what translate.BundleAll makes bytes of.
func Sidecars(ctx context.Context, set *manifest.Set, o translate.Options) (line string, pairs []translate.Pair, err error) {
	w, err := Read(set, Options{})
	if err != nil {
		return "", nil, err
	}
	o.Version = w.istiod()
	if line, err = translate.Line(o.Version); err != nil {
		return "", nil, err
	}
	for _, wl := range w.Topology.Workloads() {
		if len(wl.Pods) == 0 || w.Injected(wl.Pods[0]) == "" {
			continue
		}
		in := w.sidecarInput(wl.Pods[0])
		out, err := translate.Translate(ctx, in, o)
		if err != nil {
			return "", nil, err
		}
		pairs = append(pairs, translate.Pair{In: in, Out: out})
	}
	return line, pairs, nil
}
