#!/bin/sh
# Sets up the Python environments the serving tests compare with, in <repository>/.tools:
#   sklearn   the real scikit-learn
#   mlserver  MLServer and its scikit-learn runtime
#   openai    OpenAI's Python client, which calls models through the gateway (e2e/kubeflow)
#   kserve    KServe's Python server and client; its sklearnserver comes from the Go module (it is not on PyPI)
# Runs again at no cost: an environment whose requirements file has not changed is left alone.
# PYTHON names the interpreter (default python3.11, else python3).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=$root/.tools
kserve_module=github.com/kserve/kserve@v0.20.0

python=${PYTHON:-}
if [ -z "$python" ]; then
    if python3.11 -c '' 2>/dev/null; then python=python3.11; else python=python3; fi
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# environment NAME: builds .tools/NAME from requirements/NAME.txt unless its stamp says it is that already.
environment() {
    requirements=$here/requirements/$1.txt
    want="python $version $(cksum <"$requirements")"
    if [ "$(cat "$tools/$1/stamp" 2>/dev/null || true)" = "$want" ]; then return; fi
    echo "setting up .tools/$1 (Python $version) ..." >&2
    rm -rf "${tools:?}/$1"
    mkdir -p "$tools"
    "$python" -m venv "$tools/$1"
    "$tools/$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements"
    echo "$want" >"$tools/$1/stamp"
}

# kserve_source: the folder of the Go module, noted in .tools/kserve/source. Run outside the repository so that no go.mod or go.sum is touched.
kserve_source() {
    noted=$(cat "$tools/kserve/source" 2>/dev/null || true)
    if [ -n "$noted" ] && [ -f "$noted/python/sklearnserver/sklearnserver/model.py" ]; then return; fi
    scratch=$(mktemp -d)
    dir=$(cd "$scratch" && go mod download -json "$kserve_module" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
    rmdir "$scratch"
    if [ ! -f "$dir/python/sklearnserver/sklearnserver/model.py" ]; then
        echo "setup.sh: $kserve_module has no python/sklearnserver (looked in '$dir')" >&2
        exit 1
    fi
    echo "$dir" >"$tools/kserve/source"
}

environment sklearn
environment mlserver
environment openai
environment kserve
kserve_source
