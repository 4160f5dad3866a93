#!/bin/sh
# Tests the contract and every line, each with its toolchain.
set -eu
cd "$(dirname "$0")"
export CGO_ENABLED=0 GOWORK=off
for dir in contract istio-*; do
	toolchain=$(sed -n 's/^\/\/ toolchain //p' "$dir/go.mod")
	echo "$dir ${toolchain:-$(go version)}"
	(cd "$dir" && GOTOOLCHAIN=${toolchain:-$(go env GOTOOLCHAIN)} go test -count=1 ./...)
done
