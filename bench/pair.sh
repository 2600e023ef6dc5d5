#!/usr/bin/env bash
# Builds the slow half of the asymmetric pair: our engine's library with a CPU part for the baseline
# instruction set.  Beside it an RPC device of the native library, one core each, computes 3 to 11
# times as fast: layers on a device then pay as they do on a GPU, on a machine that has none.
# Only libggml-cpu differs (some 20 seconds); the rest of the folder is links to the engine's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly PYTHON=${PYTHON:-$PWD/.venv/bin/python}
readonly OUT=$PWD/build/peers
version=$(sed -n 's/^llama-cpp-python==\([0-9.]*\).*/\1/p' requirements.lock)
readonly version
readonly PAIR=$OUT/baseline-$version

if [[ -e $PAIR/libggml-cpu.so ]]; then
    echo "the baseline library of llama-cpp-python $version is built: $PAIR"
    exit 0
fi
mkdir -p "$OUT"
if ! compgen -G "$OUT/llama_cpp_python-$version.tar.gz" > /dev/null; then
    "$PYTHON" -m pip download --quiet --no-deps --no-binary llama-cpp-python \
        --dest "$OUT" "llama-cpp-python==$version"
fi
tools=$OUT/tools
if ! command -v cmake > /dev/null; then
    [[ -d $tools ]] || "$PYTHON" -m pip install --quiet --target "$tools" cmake
    export PYTHONPATH=$tools PATH=$tools/bin:$PATH
fi
source=$OUT/source-pair-$version
rm -rf "$source"
mkdir -p "$source"
tar -xzf "$OUT/llama_cpp_python-$version.tar.gz" --strip-components=1 -C "$source"
cmake -S "$source/vendor/llama.cpp" -B "$source/build" -DCMAKE_BUILD_TYPE=Release \
    -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF -DGGML_SSE42=OFF -DGGML_AVX=OFF -DGGML_AVX2=OFF \
    -DGGML_BMI2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF -DGGML_AVX_VNNI=OFF -DGGML_AVX512=OFF \
    -DGGML_LLAMAFILE=OFF -DGGML_CPU_REPACK=OFF -DGGML_RPC=ON -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_COMMON=OFF \
    -DLLAMA_CURL=OFF > "$OUT/configure-pair.log"
cmake --build "$source/build" --target ggml-cpu --parallel "${JOBS:-2}" > "$OUT/build-pair.log"
native=$("$PYTHON" -c 'import llama_cpp, pathlib; print(pathlib.Path(llama_cpp.__file__).parent / "lib")')
mkdir -p "$PAIR"
for library in "$native"/*; do
    ln -sf "$library" "$PAIR/"
done
rm -f "$PAIR"/libggml-cpu*
built=$(find "$source/build" -name 'libggml-cpu.so*' -not -type l | head -1)
for name in "$native"/libggml-cpu*; do
    cp "$built" "$PAIR/$(basename "$name")"
done
rm -rf "$source"
echo "built: $PAIR"
