package main

import (
	"testing"

	"sigs.k8s.io/yaml"

	"postern.dev/postern/translator/contract/contracttest"
)

func TestContract(t *testing.T) { contracttest.Suite(t, line, yaml.YAMLToJSON) }

func TestGoldens(t *testing.T) {
	contracttest.CompareGoldens(t, line, yaml.YAMLToJSON, "v1.8.1-shared", "1.17.5")
	contracttest.CompareGoldens(t, line, yaml.YAMLToJSON, "v1.8.1-shared-blogfix", "1.17.5")
}

func TestFacts(t *testing.T) {
	contracttest.CompareFacts(t, line, yaml.YAMLToJSON, contracttest.Facts{
		DeprecatedNames: true,
		RetryCodes:      "503",
		NetworkAuthn:    "io.istio.network.authn",
		AllowedHeaders:  "authorizationRequest",
		ShadowPrefix:    "istio_ext_authz_",
		ShadowPolicy:    "istio-ext-authz",
		SecondProvider:  "everything",
		Principal:       "istio_authn",
		ConfigVersion:   "v1alpha3",
		Placeholder:     "RXJyb3",
	})
}
