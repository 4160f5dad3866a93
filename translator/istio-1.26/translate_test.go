package main

import (
	"testing"

	"sigs.k8s.io/yaml"

	"postern.dev/postern/translator/contract/contracttest"
)

func TestContract(t *testing.T) { contracttest.Suite(t, line, yaml.YAMLToJSON) }

func TestGoldens(t *testing.T) {
	contracttest.CompareGoldens(t, line, yaml.YAMLToJSON, "v1.10.2", "1.26.1")
}

func TestFacts(t *testing.T) {
	contracttest.CompareFacts(t, line, yaml.YAMLToJSON, contracttest.Facts{
		Proxy100Continue: "true",
		AllowedHeaders:   "ExtAuthz",
		ShadowPrefix:     "istio_ext_authz_",
		ShadowPolicy:     "istio-ext-authz",
		SecondProvider:   "what their rules match",
		Principal:        "envoy.filters.http.jwt_authn",
		ClearRouteCache:  "true",
		ConfigVersion:    "v1",
		DirectResponse:   "1048576",
		Placeholder:      "vqS7RN",
	})
}
