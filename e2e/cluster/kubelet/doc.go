// Package kubelet stands for the kubelet on a machine without containers: it registers a node, and runs its
// pods as programs of this machine. virtual-kubelet's node package does the part that speaks to the API server
// (node, lease, pod sync, the HTTP API that kubectl exec, logs and port-forward use); this package runs pods.
//
// A pod is a network namespace of its own, on a bridge, held open by a process that does nothing. A container is a
// program in that network namespace, in a PID and a mount namespace of its own, whose root is an overlay of this
// machine's: what it writes is gone with it. An image is looked up by name (Images), never fetched.
//
// As the kubelet does it: environment and the downward API, volumes (emptyDir, hostPath, ConfigMap, Secret, projected
// with ServiceAccount tokens, kept up to date), init containers and sidecars among them, probes, restarts,
// hooks, termination, status, logs, exec with a terminal, port-forward.
// Not done: resource limits, image pulls, security beyond user and group, ephemeral containers, eviction.
package kubelet
