// Package story holds the manifests of the document's story: one system in four
// states. A state is the directory common and its own; what the document changes
// is in the states' own, everything else in common.
//
// The objects are those of Kubeflow 1.4 (kubeflow/manifests v1.4.0) with upstream
// Knative's gateway, as far as the story meets them: names, hosts, ports and
// settings are the release's own, kustomize's labels are left out.
package story

import "embed"

// FS holds the manifests, the trained model under models, and under translated what
// Istio makes of each state (make translations writes it anew). A copy of the
// folders on disk loads as well: postern up -f common -f 4-postern.
//
//go:embed common/*.yaml 1-login-everywhere/*.yaml 2-envoyfilter-attempt/*.yaml 3-path-exempt/*.yaml 4-postern/*.yaml
//go:embed models/sklearn translated/*.json
var FS embed.FS

// State is one of the four.
type State struct {
	Name  string
	Title string   // a few words for a table's head
	Dirs  []string // of FS, for manifest.FS
}

// States are the four, in the order of the story. The last is what `postern up`
// serves unless told otherwise.
func States() []State {
	return []State{
		state("1-login-everywhere", "login everywhere"),
		state("2-envoyfilter-attempt", "EnvoyFilter attempt"),
		state("3-path-exempt", "path exempt"),
		state("4-postern", "Postern"),
	}
}

func state(name, title string) State {
	return State{Name: name, Title: title, Dirs: []string{"common", name}}
}
