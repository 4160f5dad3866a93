#!/bin/sh
# Tests the contract and lines, each with its toolchain: sh translator/test.sh [contract] [istio-1.17] [...], all without a name.
set -eu
cd "$(dirname "$0")"
export CGO_ENABLED=0 GOWORK=off
[ $# -gt 0 ] || set -- contract istio-*
for dir; do
	[ -f "$dir/go.mod" ] || { echo "$0: no line $dir in $(pwd): want contract or one of" istio-* >&2; exit 2; }
done
for dir; do
	toolchain=$(sed -n 's/^\/\/ toolchain //p' "$dir/go.mod")
	echo "$dir ${toolchain:-$(go version)}"
	(
		cd "$dir"
		export GOTOOLCHAIN="${toolchain:-$(go env GOTOOLCHAIN)}"
		# With RESULTS and GOTESTSUM (make test) the events go to a file each.
		if [ -n "${RESULTS:-}" ]; then
			exec "$GOTESTSUM" --format pkgname --jsonfile "$RESULTS/translator-$dir.json" -- -count=1 ./...
		fi
		exec go test -count=1 ./...
	)
done
