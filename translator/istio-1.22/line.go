package main

import (
	corev1 "k8s.io/api/core/v1"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/config/memory"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pilot/pkg/serviceregistry/kube"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/spiffe"
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
	store := memory.NewSyncController(memory.MakeSkipValidation(collections.PilotGatewayAPI()))
	fill(store, w)
	env := model.NewEnvironment()
	updater := model.NewEndpointIndexUpdater(env.EndpointIndex)
	env.Watcher = mesh.NewFixedWatcher(m)
	env.NetworksWatcher = mesh.NewFixedNetworksWatcher(nil)
	env.ServiceDiscovery = newRegistry(w, m, updater)
	env.ConfigStore = store
	env.Init()
	return env, env.InitNetworksManager(updater)
}

func newPush(env *model.Environment) (*model.PushContext, error) {
	push := model.NewPushContext()
	if err := push.InitContext(env, nil, nil); err != nil {
		return nil, err
	}
	env.SetPushContext(push)
	return push, nil
}

type generator = core.ConfigGeneratorImpl

func newGenerator() *generator { return core.NewConfigGenerator(&model.DisabledCache{}) }

// fallbackKeys are what istiod puts in while it cannot fetch keys: private members and all.
func fallbackKeys(string) string { return model.FakeJwks }

func newService(_ *contract.World, s corev1.Service, _ *meshconfig.MeshConfig) *model.Service {
	return kube.ConvertService(s, domainSuffix, clusterID)
}

func newEndpoint(address string) *model.IstioEndpoint {
	return &model.IstioEndpoint{Address: address}
}
