#!/bin/sh
# Tests the contract and every line, each with its toolchain.
set -eu
cd "$(dirname "$0")"
export CGO_ENABLED=0 GOWORK=off
for dir in contract istio-*; do
	toolchain=$(sed -n 's/^\/\/ toolchain //p' "$dir/go.mod")
	echo "$dir ${toolchain:-$(go version)}"
	# With RESULTS and GOTESTSUM (make test) the events go to a file each.
	if [ -n "${RESULTS:-}" ]; then
		set -- "$GOTESTSUM" --format pkgname --jsonfile "$RESULTS/translator-$dir.json" -- -count=1 ./...
	else
		set -- go test -count=1 ./...
	fi
	(cd "$dir" && GOTOOLCHAIN=${toolchain:-$(go env GOTOOLCHAIN)} "$@")
done
