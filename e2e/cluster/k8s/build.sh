#!/bin/sh
# build.sh PROGRAM...: builds Kubernetes' own programs and etcd from their modules
# (go.mod beside this file) into .tools/cluster of the checkout, or $CLUSTER_TOOLS.
# What is there already and of this go.mod is left alone.
#
# Without an argument: etcd kube-apiserver, what the tests of internal/cluster need.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${CLUSTER_TOOLS:-$here/../../../.tools/cluster}
[ $# -gt 0 ] || set -- etcd kube-apiserver
mkdir -p "$out"
cd "$here"

kubernetes=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${kubernetes#v1.}
minor=${minor%%.*}
# As the release is built (hack/lib/version.sh): Knative refuses an API server that
# says v0.0.0-master+$Format:%H$.
flags="-s -w"
for at in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	flags="$flags -X $at.gitVersion=$kubernetes -X $at.gitMajor=1 -X $at.gitMinor=$minor -X $at.gitTreeState=clean -X $at.gitCommit=modules"
done

of=$(cat go.mod go.sum build.sh | sha256sum | cut -c 1-16)
for program in "$@"; do
	case $program in
	etcd) package=go.etcd.io/etcd/server/v3 ;;
	kube-apiserver | kube-controller-manager | kube-scheduler | kube-proxy | kubectl) package=k8s.io/kubernetes/cmd/$program ;;
	*)
		echo "build.sh: got $program, want etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy or kubectl" >&2
		exit 2
		;;
	esac
	if [ -x "$out/$program" ] && [ "$(cat "$out/$program.of" 2>/dev/null)" = "$of" ]; then
		continue
	fi
	echo "building $program (minutes when nothing is cached)" >&2
	CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$out/$program.new" "$package"
	mv "$out/$program.new" "$out/$program"
	echo "$of" >"$out/$program.of"
done
