#!/usr/bin/env bash
# Check and measure attnlab on this machine's GPU: see README.md beside this file.
#
#     bash tests/gpu/run.sh [MINUTES] [--cpu]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH="$PWD/src:$site:$PWD" PYTHONUNBUFFERED=1

if ! "$python" -c 'import hydra' 2>/dev/null; then
    echo "installing .wheels/"
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --root-user-action=ignore --target "$site" .wheels/*.whl
fi
if ! "$python" -c 'import importlib.metadata as m; m.version("attnlab")' 2>/dev/null; then
    mkdir "$site/attnlab-0.dist-info" # a point writes down the version of what is installed
    printf 'Metadata-Version: 2.1\nName: attnlab\nVersion: %s\n' \
        "$("$python" -c 'import attnlab; print(attnlab.__version__)')" >"$site/attnlab-0.dist-info/METADATA"
fi
"$python" -m tests.gpu "$@"
