package kserve

import (
	"encoding/json"
	"sort"
	"strings"
	"text/template"

	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const knativeNamespace = "knative-serving"

// config is what the controllers read from their ConfigMaps.
type config struct {
	mode                string // deploymentMode of InferenceServices that name none
	ingressGateway      string // NAMESPACE/NAME
	localGateway        string
	localGatewayService string             // a host
	knativeLocalService string             // where KServe's VirtualService leads
	ingressDomain       string             // the host of models told apart by path
	pathTemplate        *template.Template // their paths; nil: none
	routerImage         string             // of InferenceGraphs

	publicGateways []string // config-istio, NAMESPACE/NAME, sorted
	localGateways  []string
	localService   string // the host behind the local gateway

	domains []domain
}

// domain is an entry of config-domain.
type domain struct {
	name     string
	selector map[string]string
}

func newConfig(s *manifest.Set, isvc *manifest.Object) (*config, error) {
	c := &config{}
	if err := c.kserve(s, isvc); err != nil {
		return nil, err
	}
	if err := c.istio(s); err != nil {
		return nil, err
	}
	if err := c.domainsOf(s); err != nil {
		return nil, err
	}
	return c, network(s)
}

// kserve reads ConfigMap inferenceservice-config, of whatever namespace.
func (c *config) kserve(s *manifest.Set, isvc *manifest.Object) error {
	var o *manifest.Object
	var cm *corev1.ConfigMap
	for obj, v := range manifest.Of[*corev1.ConfigMap](s) {
		if v.Name != "inferenceservice-config" {
			continue
		}
		if o != nil {
			return obj.Errorf("metadata.namespace", "another one is at %s: which KServe is it?", o.Source)
		}
		o, cm = obj, v
	}
	if o == nil {
		return isvc.Errorf("", "needs ConfigMap inferenceservice-config, as KServe installs it: it names the gateways")
	}
	// https://github.com/kserve/kserve pkg/apis/serving/v1beta1/configmap.go; what is not here decides nothing in serverless mode.
	var ingress struct {
		IngressGateway             string   `json:"ingressGateway"`
		LocalGateway               string   `json:"localGateway"`
		LocalGatewayService        string   `json:"localGatewayService"`
		KnativeLocalGatewayService string   `json:"knativeLocalGatewayService"`
		IngressDomain              string   `json:"ingressDomain"`
		PathTemplate               string   `json:"pathTemplate"`
		DisableIngressCreation     bool     `json:"disableIngressCreation"`
		AdditionalIngressDomains   []string `json:"additionalIngressDomains"`
		DisableIstioVirtualHost    bool     `json:"disableIstioVirtualHost"`
	}
	if err := json.Unmarshal([]byte(cm.Data["ingress"]), &ingress); err != nil {
		return o.Errorf("data.ingress", "%v", err)
	}
	var deploy struct {
		DefaultDeploymentMode string `json:"defaultDeploymentMode"`
	}
	if text, ok := cm.Data["deploy"]; ok {
		if err := json.Unmarshal([]byte(text), &deploy); err != nil {
			return o.Errorf("data.deploy", "%v", err)
		}
	}
	switch {
	case len(ingress.AdditionalIngressDomains) > 0:
		return o.Errorf("data.ingress.additionalIngressDomains", "not supported yet")
	case ingress.DisableIstioVirtualHost:
		return o.Errorf("data.ingress.disableIstioVirtualHost", "true is not supported yet")
	case ingress.DisableIngressCreation:
		return o.Errorf("data.ingress.disableIngressCreation", "true is not supported yet")
	}
	if ingress.PathTemplate != "" {
		var err error
		if c.pathTemplate, err = template.New("pathTemplate").Parse(ingress.PathTemplate); err != nil {
			return o.Errorf("data.ingress.pathTemplate", "%v", err)
		}
		if c.ingressDomain = ingress.IngressDomain; c.ingressDomain == "" {
			return o.Errorf("data.ingress.ingressDomain", "required with a pathTemplate")
		}
	}
	for _, f := range [][2]string{
		{"ingressGateway", ingress.IngressGateway}, {"localGateway", ingress.LocalGateway}, {"localGatewayService", ingress.LocalGatewayService},
	} {
		if f[1] == "" {
			return o.Errorf("data.ingress."+f[0], "required")
		}
	}
	var router struct {
		Image string `json:"image"`
	}
	if text, ok := cm.Data["router"]; ok {
		if err := json.Unmarshal([]byte(text), &router); err != nil {
			return o.Errorf("data.router", "%v", err)
		}
	}
	c.mode, c.routerImage = deploy.DefaultDeploymentMode, router.Image
	c.ingressGateway, c.localGateway, c.localGatewayService = ingress.IngressGateway, ingress.LocalGateway, ingress.LocalGatewayService
	if c.knativeLocalService = ingress.KnativeLocalGatewayService; c.knativeLocalService == "" {
		c.knativeLocalService = c.localGatewayService
	}
	return nil
}

// istio reads ConfigMap config-istio (net-istio pkg/reconciler/ingress/config/istio.go).
func (c *config) istio(s *manifest.Set) error {
	var public, local []istioGateway
	o, cm, ok := manifest.Find[*corev1.ConfigMap](s, knativeNamespace, "config-istio")
	if ok {
		var err error
		if public, err = gatewaysOf(o, cm.Data, "gateway.", "external-gateways"); err != nil {
			return err
		}
		if local, err = gatewaysOf(o, cm.Data, "local-gateway.", "local-gateways"); err != nil {
			return err
		}
	}
	if len(public) == 0 {
		public = []istioGateway{{knativeNamespace, "knative-ingress-gateway", internalHost("istio-ingressgateway", "istio-system"), nil}}
	}
	if len(local) == 0 {
		local = []istioGateway{{knativeNamespace, "knative-local-gateway", internalHost("knative-local-gateway", "istio-system"), nil}}
	}
	if len(local) > 1 {
		return o.Errorf("data", "%d local gateways: Knative takes one, got %s", len(local), strings.Join(names(local), ", "))
	}
	c.publicGateways, c.localGateways, c.localService = names(public), names(local), local[0].Service
	return nil
}

type istioGateway struct {
	Namespace     string         `json:"namespace"`
	Name          string         `json:"name"`
	Service       string         `json:"service"`
	LabelSelector map[string]any `json:"labelSelector"`
}

func names(gateways []istioGateway) []string {
	var out []string
	for _, g := range gateways {
		out = append(out, g.Namespace+"/"+g.Name)
	}
	sort.Strings(out)
	return out
}

// gatewaysOf reads the entries of one prefix, or the list that took its place.
func gatewaysOf(o *manifest.Object, data map[string]string, prefix, list string) ([]istioGateway, error) {
	var out []istioGateway
	if text := strings.TrimSpace(data[list]); text != "" {
		if err := yaml.Unmarshal([]byte(text), &out); err != nil {
			return nil, o.Errorf("data."+list, "%v", err)
		}
		if len(out) == 0 {
			return nil, o.Errorf("data."+list, "empty: mesh-only mode is not supported yet")
		}
	}
	for key, service := range data {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok || name == "" {
			continue
		}
		g := istioGateway{Namespace: knativeNamespace, Name: name, Service: service}
		if ns, n, ok := strings.Cut(name, "."); ok {
			g.Namespace, g.Name = ns, n
		}
		out = append(out, g)
	}
	for _, g := range out {
		if len(g.LabelSelector) > 0 {
			return nil, o.Errorf("data."+list, "gateway %s/%s: labelSelector is not supported yet", g.Namespace, g.Name)
		}
	}
	return out, nil
}

// domainsOf reads ConfigMap config-domain (Knative serving, route/config/domain.go).
func (c *config) domainsOf(s *manifest.Set) error {
	fallback := false
	if o, cm, ok := manifest.Find[*corev1.ConfigMap](s, knativeNamespace, "config-domain"); ok {
		for name, text := range cm.Data {
			if name == "_example" {
				continue
			}
			var entry struct {
				Selector map[string]string `json:"selector"`
			}
			if err := yaml.Unmarshal([]byte(text), &entry); err != nil {
				return o.Errorf("data["+name+"]", "%v", err)
			}
			fallback = fallback || len(entry.Selector) == 0
			c.domains = append(c.domains, domain{name, entry.Selector})
		}
	}
	if !fallback {
		c.domains = append(c.domains, domain{"svc." + clusterDomain, nil})
	}
	// The most specific selector wins, then the alphabet.
	sort.Slice(c.domains, func(i, j int) bool {
		a, b := c.domains[i], c.domains[j]
		if len(a.selector) != len(b.selector) {
			return len(a.selector) > len(b.selector)
		}
		return a.name < b.name
	})
	return nil
}

// domain is the domain of a route with these labels.
func (c *config) domain(labels map[string]string) string {
	if labels[visibilityLabel] == "cluster-local" {
		return "svc." + clusterDomain
	}
next:
	for _, d := range c.domains {
		for k, v := range d.selector {
			if labels[k] != v {
				continue next
			}
		}
		return d.name
	}
	return "svc." + clusterDomain // not reached: the last entry has no selector
}

// network refuses settings of Knative's ConfigMap config-network that change hosts and routes.
func network(s *manifest.Set) error {
	o, cm, ok := manifest.Find[*corev1.ConfigMap](s, knativeNamespace, "config-network")
	if !ok {
		return nil
	}
	for _, setting := range [][2]string{
		{"domain-template", "{{.Name}}.{{.Namespace}}.{{.Domain}}"}, {"ingress-class", "istio.ingress.networking.knative.dev"},
		{"system-internal-tls", "disabled"}, {"cluster-local-domain-tls", "disabled"}, {"external-domain-tls", "disabled"},
	} {
		key, want := setting[0], setting[1]
		for _, k := range []string{key, camel(key)} {
			if v, ok := cm.Data[k]; ok && !strings.EqualFold(strings.TrimSpace(v), want) {
				return o.Errorf("data."+k, "got %q, only %q is supported yet", v, want)
			}
		}
	}
	return nil
}

// camel is the older spelling of a key: domain-template was domainTemplate.
func camel(key string) string {
	parts := strings.Split(key, "-")
	for i, p := range parts[1:] {
		parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
	}
	return strings.Join(parts, "")
}
