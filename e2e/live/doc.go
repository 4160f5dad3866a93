// Package live tests posternd on a real Kubernetes API server: etcd and
// kube-apiserver as processes on loopback, posternd under its own ClusterRole.
package live
