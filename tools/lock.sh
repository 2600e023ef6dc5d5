#!/usr/bin/env bash
# Writes requirements.lock anew from pyproject.toml.  Needs uv; UV names it.
set -euo pipefail

cd "$(dirname "$0")/.."
exec "${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --no-header \
    --generate-hashes --no-emit-index-url --no-emit-find-links --extra dev \
    pyproject.toml -o requirements.lock
