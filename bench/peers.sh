#!/usr/bin/env bash
# Builds llama-server, the peer of `make bench-serve`, from the very source that our engine is
# built from: the distribution of llama-cpp-python that requirements.lock names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly PYTHON=$PWD/.venv/bin/python
readonly OUT=$PWD/build/peers
version=$(sed -n 's/^llama-cpp-python==\([0-9.]*\).*/\1/p' requirements.lock)
readonly version
readonly SERVER=$OUT/llama-server-$version

if [[ -x $SERVER/bin/llama-server ]]; then
    echo "llama-server of llama-cpp-python $version is built: $SERVER/bin/llama-server"
    exit 0
fi
mkdir -p "$OUT"
echo "Building llama-server of llama-cpp-python $version: some 6 minutes on two cores, once."
if ! compgen -G "$OUT/llama_cpp_python-$version.tar.gz" > /dev/null; then
    "$PYTHON" -m pip download --quiet --no-deps --no-binary llama-cpp-python \
        --dest "$OUT" "llama-cpp-python==$version"
fi
tools=$OUT/tools
if ! command -v cmake > /dev/null; then
    "$PYTHON" -m pip install --quiet --target "$tools" cmake
    export PYTHONPATH=$tools PATH=$tools/bin:$PATH
fi
source=$OUT/source-$version
rm -rf "$source"
mkdir -p "$source"
tar -xzf "$OUT/llama_cpp_python-$version.tar.gz" --strip-components=1 -C "$source"
# As our engine is built (Makefile): a release build for this very processor.
cmake -S "$source/vendor/llama.cpp" -B "$source/build" -DCMAKE_BUILD_TYPE=Release \
    -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_CURL=OFF > "$OUT/configure.log"
cmake --build "$source/build" --target llama-server --parallel "${JOBS:-2}" > "$OUT/build.log"
mkdir -p "$SERVER/bin"
cp "$source/build/bin/llama-server" "$SERVER/bin/"
rm -rf "$source"
"$SERVER/bin/llama-server" --version 2>&1 | head -2
echo "built: $SERVER/bin/llama-server"
