package main

import (
	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/config/memory"
	"istio.io/istio/pilot/pkg/model"
	core "istio.io/istio/pilot/pkg/networking/core/v1alpha3"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/spiffe"
	"istio.io/pkg/log"
	"postern.dev/postern/translator/contract"
)

func silence() {
	for _, scope := range log.Scopes() {
		scope.SetOutputLevel(log.NoneLevel)
	}
}

// newEnvironment is istiod's view of the cluster.
func newEnvironment(w *contract.World, m *meshconfig.MeshConfig, _ chan struct{}) (*model.Environment, error) {
	spiffe.SetTrustDomain(m.TrustDomain)
	store := memory.NewSyncController(memory.MakeSkipValidation(collections.PilotGatewayAPI))
	fill(store, w)
	env := model.NewEnvironment()
	env.Watcher = mesh.NewFixedWatcher(m)
	env.NetworksWatcher = mesh.NewFixedNetworksWatcher(nil)
	env.ServiceDiscovery = newRegistry(w, m, env.EndpointIndex)
	env.ConfigStore = store
	env.Init()
	return env, env.InitNetworksManager(&core.FakeXdsUpdater{})
}

func newPush(env *model.Environment) (*model.PushContext, error) {
	return env.PushContext, env.PushContext.InitContext(env, nil, nil)
}

type generator = core.ConfigGeneratorImpl

func newGenerator() *generator { return core.NewConfigGenerator(&model.DisabledCache{}) }

// fallbackKeys are what istiod puts in while it cannot fetch keys.
func fallbackKeys(jwksURI string) string { return model.CreateFakeJwks(jwksURI) }
