package lab

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/lab/dashboard"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/sklearn"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// ServerAnnotation on an InferenceService names the URL of a model server that
// answers in its predictor's place.
const ServerAnnotation = "postern.dev/model-server"

// modelMaker makes the predictor of an InferenceService. A model that cannot be
// loaded answers 503 with the reason, and is a note of the system: one bad model
// takes nothing else down.
func (s *System) modelMaker(r *running, wl *topology.Workload) (maker, error) {
	name := wl.Labels["serving.kserve.io/inferenceservice"]
	obj, isvc, ok := manifest.Find[*manifest.InferenceService](r.world.Set, wl.Namespace, name)
	if !ok || wl.Labels["component"] != "predictor" {
		return maker{from: []any{"absent", wl.Name}, make: func(context.Context) (*program, error) {
			return &program{handler: dashboard.Absent(wl.Name)}, nil
		}}, nil
	}
	if target := obj.Meta.Annotations[ServerAnnotation]; target != "" {
		return maker{from: []any{"model-server", target}, make: func(context.Context) (*program, error) {
			h, err := serving.Proxy(target, s.config.Log)
			if err != nil {
				return nil, obj.Errorf("metadata.annotations["+ServerAnnotation+"]", "%v", err)
			}
			return &program{handler: h}, nil
		}}, nil
	}
	framework, spec := isvc.Spec.Predictor.Framework()
	uri := ""
	if spec != nil && spec.StorageURI != nil {
		uri = *spec.StorageURI
	}
	model, version, err := s.loadModel(framework, uri)
	if err != nil {
		r.notes = append(r.notes, obj.Errorf("spec.predictor", "%v: the model answers 503", err).Error())
	}
	errText := ""
	if err != nil {
		errText = err.Error()
	}
	return maker{from: []any{"model", name, framework, uri, version, errText}, make: func(context.Context) (*program, error) {
		c := serving.Config{Name: name, Loaded: err, Log: s.config.Log}
		if err == nil {
			c.Model = model
		}
		return &program{handler: serving.New(c)}, nil
	}}, nil
}

// loadModel reads a model; version changes when its file does.
func (s *System) loadModel(framework, uri string) (model *sklearn.Model, version string, err error) {
	if framework != "sklearn" {
		return nil, "", serving.NoRuntime(framework)
	}
	if uri == "" {
		return nil, "", fmt.Errorf("storageUri: required")
	}
	f, err := s.config.Storage.Open(uri)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if model, err = sklearn.Read(f, s.config.Storage.MaxSize); err != nil {
		return nil, "", fmt.Errorf("%s: %w", uri, err)
	}
	return model, fmt.Sprintf("%d %s", info.Size(), info.ModTime()), nil
}

// BundledModels copies an embedded folder of models to a temporary one, since
// storage URIs map to folders; remove deletes it.
func BundledModels(fsys fs.FS, dir, uriPrefix string) (m serving.Mapping, remove func(), err error) {
	sub, err := fs.Sub(fsys, dir)
	if err != nil {
		return m, nil, err
	}
	tmp, err := os.MkdirTemp("", "postern-models-")
	if err != nil {
		return m, nil, err
	}
	remove = func() { _ = os.RemoveAll(tmp) }
	target := filepath.Join(tmp, "models")
	if err := os.CopyFS(target, sub); err != nil {
		remove()
		return m, nil, err
	}
	return serving.Mapping{Prefix: uriPrefix, Dir: target}, remove, nil
}

// dashboardConfig lists, for a person, the models this person may call.
func (s *System) dashboardConfig() dashboard.Config {
	return dashboard.Config{
		UserHeader: "kubeflow-userid",
		LogoutPath: "/authservice/logout",
		Gateway:    func() string { return s.doors[0].URL },
		Models:     s.modelsOf,
	}
}

func (s *System) modelsOf(user string) []dashboard.Model {
	r := s.current.Load()
	person := access.Caller{User: user, Groups: []string{access.AuthenticatedGroup}, Proven: true, Kind: access.Person}
	var rules *access.Rules
	if r.snapshot != nil {
		rules = r.snapshot.Rules
	}
	var out []dashboard.Model
	for o := range manifest.Of[*manifest.InferenceService](r.world.Set) {
		res := access.Resource{Group: "serving.kserve.io", Resource: "inferenceservices", Namespace: o.Meta.Namespace, Name: o.Meta.Name}
		if rules != nil && !rules.May(person, access.Predict, res).Allowed {
			continue
		}
		m := dashboard.Model{Name: o.Meta.Name, Namespace: o.Meta.Namespace,
			InClusterURL: "http://" + o.Meta.Name + "." + o.Meta.Namespace + ".svc.cluster.local"}
		if pod := s.callerPod(r, rules, res); pod != nil {
			m.Commands = append(m.Commands, dashboard.Command{Label: "from pod " + pod.String(), Line: s.execLine(pod, m)})
		}
		if m.ExternalHost = externalHost(r.world, o.Meta.Namespace, o.Meta.Name); m.ExternalHost != "" {
			m.Commands = append(m.Commands, dashboard.Command{Label: "from outside, as you (asks for your session's cookie)", Line: s.outsideLine(m)})
		}
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Namespace+"/"+out[i].Name < out[j].Namespace+"/"+out[j].Name
	})
	return out
}

// externalHost is the name by which a model is called from outside the cluster:
// the host of its VirtualService that is not the cluster's own.
func externalHost(w *world.World, namespace, name string) string {
	_, vs, ok := manifest.Find[*networking.VirtualService](w.Set, namespace, name)
	if !ok {
		return ""
	}
	for _, h := range vs.Hosts {
		if !strings.HasSuffix(h, ".svc.cluster.local") && !strings.HasSuffix(h, ".svc") && strings.Count(h, ".") > 1 {
			return h
		}
	}
	return ""
}

// example is a body for any model that takes rows of four numbers.
const example = `'{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}'`

// outsideLine asks for the cookie: a secret on a command line is in everybody's
// process list and in the shell's history.
func (s *System) outsideLine(m dashboard.Model) string {
	return fmt.Sprintf(`read -rs SESSION && curl -s %s/v1/models/%s:predict -H 'Host: %s' -H 'Content-Type: application/json' -H @<(printf 'Cookie: authservice_session=%%s' "$SESSION") -d %s`,
		s.doors[0].URL, m.Name, m.ExternalHost, example)
}

// callerPod is a pod a person would type in, that may call the model.
func (s *System) callerPod(r *running, rules *access.Rules, res access.Resource) *topology.Pod {
	for _, p := range r.world.Topology.Pods() {
		if p.Workload == nil || p.Workload.Kind != "Pod" || len(portsOf(p)) > 0 {
			continue
		}
		c := access.Caller{User: "postern:pod:" + p.Namespace + ":" + p.ServiceAccount, Groups: []string{"postern:pods", "postern:pods:" + p.Namespace}, Kind: access.Pod}
		if rules == nil || rules.May(c, access.Predict+"-unproven", res).Allowed {
			return p
		}
	}
	return nil
}

func (s *System) execLine(pod *topology.Pod, m dashboard.Model) string {
	ns := ""
	if pod.Namespace != "default" {
		ns = "-n " + pod.Namespace + " "
	}
	self := s.config.Self
	if self == "" {
		self = "postern"
	}
	return strings.Join([]string{self, "exec", ns + pod.Name, "--", "curl", "-s", m.InClusterURL + "/v1/models/" + m.Name + ":predict",
		"-d", example}, " ")
}
