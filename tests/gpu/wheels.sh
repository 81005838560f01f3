#!/usr/bin/env bash
# Gather into .wheels/ what a GPU machine without a network lacks, for Python 3.12 on x86-64 Linux.
#
#     bash tests/gpu/wheels.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
pip() { "${PYTHON:-python3}" -m pip --quiet --disable-pip-version-check "$@"; }

rm -rf .wheels
# pip matches no platform but those named. The versions are those of constraints.txt.
pip download --no-deps --constraint constraints.txt --dest .wheels --only-binary :all: \
    --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    hydra-core omegaconf pydantic pydantic-core annotated-types typing-inspection typing-extensions \
    rich markdown-it-py mdurl pygments \
    wandb click cwevals platformdirs protobuf xxhash googleapis-common-protos opentelemetry-api opentelemetry-sdk \
    opentelemetry-proto opentelemetry-semantic-conventions opentelemetry-exporter-otlp-common \
    opentelemetry-exporter-otlp-proto-common opentelemetry-exporter-otlp-proto-http \
    opentelemetry-exporter-http-transport distro sniffio
pip wheel --no-deps --constraint constraints.txt --wheel-dir .wheels antlr4-python3-runtime # it has no wheel of its own
ls .wheels
