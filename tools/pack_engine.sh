#!/usr/bin/env bash
# Makes the engine pack for tools/gpu_check.sh: the engine library's source, trimmed to what CUDA
# and the CPU need, and the Python packages that a bare machine may lack.  Needs pip and a registry.
# See docs/gpu.md.
set -euo pipefail

VERSION=0.3.36   # the release that pyproject.toml pins
# What the low-level module and our engine rooms import; numpy is large, hence --numpy.
PACKAGES=(diskcache gguf jinja2 markupsafe msgspec pyyaml typing_extensions)

usage() {
    cat <<'TEXT'
usage: tools/pack_engine.sh OUT.tar.gz [--python VERSION]... [--numpy] [--sdist FILE]

  --python VERSION  pack wheels for this Python, e.g. 3.12 (repeatable; default: 3.11 3.12 3.13)
  --numpy           pack numpy as well: 17 MB for each Python, so name one Python
  --sdist FILE      use this source distribution instead of downloading it
TEXT
}

die() {
    echo "pack_engine: $1" >&2
    exit 1
}

target=""
sdist=""
pythons=()
packages=("${PACKAGES[@]}")
while [ $# -gt 0 ]; do
    case "$1" in
        --python) pythons+=("${2:?--python wants a version}"); shift 2 ;;
        --sdist) sdist="${2:?--sdist wants a file}"; shift 2 ;;
        --numpy) packages+=("numpy>=2.4"); shift ;;
        --help | -h) usage; exit 0 ;;
        --*) usage >&2; die "unknown option $1" ;;
        *) [ -z "$target" ] || die "one target only, not also $1"; target="$1"; shift ;;
    esac
done
[ -n "$target" ] || { usage >&2; die "name the file to write"; }
case "$target" in *.tar.gz) ;; *) die "the pack is a .tar.gz, so name it so" ;; esac
[ ${#pythons[@]} -gt 0 ] || pythons=(3.11 3.12 3.13)

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if [ -z "$sdist" ]; then
    python3 -m pip download --quiet --no-binary :all: --no-deps --dest "$work" \
        "llama-cpp-python==$VERSION"
    sdist="$work/llama_cpp_python-$VERSION.tar.gz"
fi
[ -f "$sdist" ] || die "there is no $sdist"

mkdir "$work/wheels"
for python in "${pythons[@]}"; do
    python3 -m pip download --quiet --only-binary :all: --no-deps --dest "$work/wheels" \
        --implementation cp --python-version "$python" \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "${packages[@]}"
done
PYTHONPATH="$here" python3 -m gpucheck.trim "$sdist" "$target" --wheels "$work/wheels"
