#!/bin/sh
# build.sh [PROGRAM...]: builds the programs of the cluster (the list beside this file; all without an argument)
# into .tools/cluster of the checkout. What is there already, of the same version, is left alone.
#
# Each is built in its module's own folder of the module cache, so with the versions its authors released it with.
# No -trimpath: the translators of the same Istio have compiled many of the same packages (one Go build cache).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../.tools/cluster
mkdir -p "$out"
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-mod=readonly -buildvcs=false"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# modfile DIR: the module's own go.mod and go.sum, with one change: Istio 1.28.2 names a go-control-plane that the
# public proxy does not serve, though nothing of it is linked (as in translator/istio-1.28/go.mod).
modfile() {
	cp "$1/go.mod" "$1/go.sum" "$scratch/"
	chmod u+w "$scratch/go.mod" "$scratch/go.sum"
	case $1 in *istio.io/istio@*)
		go mod edit -replace "$plane@v0.13.5-0.20251013182109-58535202ab44=$plane@$served" "$scratch/go.mod"
		cat >>"$scratch/go.sum" <<-END
			$plane $served h1:cgrdbhUg/raiR95a8TyfdwIV2oMg8kUe42+8cQsRD80=
			$plane $served/go.mod h1:Kf4hNGzgvzKhoKdlSXD+IZtG55h9r2SOpO1kRKLI03o=
		END
		;;
	*dexidp/dex@*) # its go.mod names a folder that is not in the module
		go mod edit -dropreplace github.com/dexidp/dex/api/v2 "$scratch/go.mod"
		cat >>"$scratch/go.sum" <<-END
			github.com/dexidp/dex/api/v2 v2.4.0 h1:gNba7n6BKVp8X4Jp24cxYn5rIIGhM6kDOXcZoL6tr9A=
			github.com/dexidp/dex/api/v2 v2.4.0/go.mod h1:/p550ADvFFh7K95VmhUD+jgm15VdaNnab9td8DHOpyI=
		END
		;;
	esac
}
plane=github.com/envoyproxy/go-control-plane
served=v0.13.5-0.20250415164843-6e146b543742

# build PROGRAM PACKAGE MODULE SUM
build() {
	of="$3 $2 $(go env GOVERSION)"
	if [ -x "$out/$1" ] && [ "$(cat "$out/$1.of" 2>/dev/null)" = "$of" ]; then return; fi
	got=$(cd / && GONOSUMDB="${3%@*}" go mod download -json "$3")
	dir=$(echo "$got" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
	sum=$(echo "$got" | sed -n 's/^[[:space:]]*"Sum": "\(.*\)",*$/\1/p')
	if [ "$sum" != "$4" ]; then
		echo "build.sh: $3 has the checksum $sum, want $4" >&2
		exit 1
	fi
	start=$(date +%s)
	echo "building $1 of $3 (minutes when nothing is cached) ..." >&2
	modfile "$dir"
	(cd "$dir" && go build -modfile "$scratch/go.mod" -ldflags "-s -w" -o "$out/$1.new" "./$2")
	mv "$out/$1.new" "$out/$1"
	echo "$of" >"$out/$1.of"
	echo "built $1 in $(($(date +%s) - start)) s" >&2
}

wanted=" $* "
rows=$(grep -v '^#' "$here/programs")
for name; do
	echo "$rows" | grep -q "^$name " || { echo "build.sh: got $name, want one of" $(echo "$rows" | cut -d ' ' -f 1) >&2; exit 2; }
done
echo "$rows" | while read -r program package module sum; do
	case $wanted in "  " | *" $program "*) build "$program" "$package" "$module" "$sum" ;; esac
done
