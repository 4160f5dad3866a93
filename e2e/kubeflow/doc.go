// Package kubeflow shows Postern in five releases of Kubeflow: the release's own
// objects with those of package deploy, translated by the release's own Istio line, in
// real Envoys; posternd as processes; Dex; and the login that is there: oauth2-proxy as
// a process with Kubeflow's own flags, or authservice's stand-in.
package kubeflow
