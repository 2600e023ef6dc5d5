#!/usr/bin/env bash
# GPU check: builds the engine library for this machine's GPU, makes random models of real sizes and
# measures loading, computing, unloading, offloading, preempting.  No network.  Each call works for a bounded time and
# exits 75 while more is left to do: call it again.  See docs/gpu.md.
set -euo pipefail

AGAIN=75   # sysexits.h: a temporary failure, try again

usage() {
    cat <<'TEXT'
usage: tools/gpu_check.sh --source DIR --out DIR [options]

  --source DIR      the unpacked `engine/` folder that tools/pack_engine.sh made
  --out DIR         keeps the build, the models (about 47 GB) and the results between calls
  --stage NAME      build, models, check or all (default: all)
  --budget-s N      end after about N seconds, and exit 75 if more is left (default: 520)
  --models LIST     of 8b-q4_0, 14b-q4_0, 32b-q4_0, 8b-f16, tiny, small (default: the first four);
                    each is interrupted for the first of them, and the first for each
  --items LIST      of ladder, layers, worker, link, resume, offload, preempt (default: all)
  --arch N          the GPU's compute capability without its point (default: asked of nvidia-smi)
  --jobs N          compile so many files at a time (default: one for each core)
  --cpu             build without CUDA and measure the CPU: a rehearsal without a GPU
  --rpc HOST:PORT   measure the device of this RPC server: a rehearsal in which layers really move;
                    wants a --library with RPC
  --library DIR     measure this built library instead of building (then --source may be left out:
                    Python must find a llama_cpp of the same version)
  --python PROGRAM  Python 3.11 or later (default: python3)

exit status: 0 all done, 75 call again, 1 failed (the reason is the last line)
TEXT
}

die() {
    echo "gpu_check: $1" >&2
    exit 1
}

say() {
    echo "[$SECONDS s] $1"
}

left_s() {
    echo $((budget_s - SECONDS))
}

source_dir="" out="" stage=all budget_s=520 models="8b-q4_0,14b-q4_0,32b-q4_0,8b-f16"
items="" arch="" jobs="" device=cuda rpc="" library="" python=python3

parse() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --cpu) device=cpu; shift; continue ;;
            --help | -h) usage; exit 0 ;;
        esac
        [ $# -ge 2 ] || { usage >&2; die "$1 is no option, or lacks its value"; }
        case "$1" in
            --source) source_dir="$2" ;;
            --out) out="$2" ;;
            --stage) stage="$2" ;;
            --budget-s) budget_s="$2" ;;
            --models) models="$2" ;;
            --items) items="$2" ;;
            --rpc) rpc="$2" device=rpc ;;
            --arch) arch="$2" ;;
            --jobs) jobs="$2" ;;
            --library) library="$2" ;;
            --python) python="$2" ;;
            *) usage >&2; die "unknown option $1" ;;
        esac
        shift 2
    done
}

check_options() {
    [ -n "$out" ] || { usage >&2; die "--out is missing"; }
    [ -n "$source_dir" ] || [ -n "$library" ] || { usage >&2; die "--source is missing"; }
    case "$stage" in build | models | check | all) ;; *) die "no stage $stage" ;; esac
    [[ "$budget_s" =~ ^[1-9][0-9]*$ ]] || die "--budget-s wants whole seconds, not $budget_s"
    [[ "$arch" =~ ^([0-9]+a?)?$ ]] || die "--arch wants a number such as 90, not $arch"
    [[ "$jobs" =~ ^([1-9][0-9]*)?$ ]] || die "--jobs wants a number, not $jobs"
    [ "$device" != rpc ] || [ -n "$library" ] || die "--rpc wants a --library that has it"
    if [ -n "$source_dir" ]; then
        [ -f "$source_dir/vendor/llama.cpp/CMakeLists.txt" ] ||
            die "$source_dir is no engine folder; tools/pack_engine.sh makes one"
        source_dir="$(cd "$source_dir" && pwd)"
    fi
    if [ -n "$library" ]; then
        [ -f "$library/libllama.so" ] || die "there is no libllama.so in $library"
        library="$(cd "$library" && pwd)"
    fi
    mkdir -p "$out"
    out="$(cd "$out" && pwd)"
}

check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is missing or older than 3.11; name another with --python"
    # Packages that this Python has are used; only what it lacks comes from the pack's wheels.
    export PYTHONPATH="$here:$here/../src${source_dir:+:$source_dir}${PYTHONPATH:+:$PYTHONPATH}"
    "$python" -m gpucheck.wheels --wheels "${source_dir:-$out}/wheels" --target "$out/site" ||
        die "Python packages are missing"
    export PYTHONPATH="$PYTHONPATH:$out/site"
}

find_arch() {
    [ -z "$arch" ] || return 0
    command -v nvidia-smi > /dev/null ||
        die "nvidia-smi is not here to tell the GPU's architecture; name it with --arch"
    arch="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')"
    [[ "$arch" =~ ^[0-9]+$ ]] || die "nvidia-smi told no compute capability; name it with --arch"
}

# Sets `configuration`: what cmake is called with.
configure_for() {
    configuration=(
        -DCMAKE_BUILD_TYPE=Release
        -DBUILD_SHARED_LIBS=ON
        -DGGML_NATIVE=ON
        -DLLAMA_BUILD_COMMON=OFF
        -DLLAMA_BUILD_TESTS=OFF
        -DLLAMA_BUILD_TOOLS=OFF
        -DLLAMA_BUILD_EXAMPLES=OFF
        -DLLAMA_BUILD_SERVER=OFF
        -DLLAMA_BUILD_APP=OFF
    )
    [ "$device" = cuda ] || return 0
    command -v nvcc > /dev/null || die "nvcc is not on the PATH (or rehearse with --cpu)"
    find_arch
    configuration+=(
        -DGGML_CUDA=ON
        -DGGML_CUDA_NO_VMM=ON    # configures without a driver, and is one allocator less
        -DGGML_CUDA_NCCL=OFF     # several GPUs only
        "-DCMAKE_CUDA_ARCHITECTURES=$arch-real"
    )
    toolkit_has_cublas && return 0
    local cublas
    cublas="$("$python" -m gpucheck.cublas)" || die "cuBLAS was not found"
    say "the CUDA toolkit has no cuBLAS; it comes from $cublas"
    configuration+=(
        "-DCUDA_cublas_LIBRARY=$(find "$cublas/lib" -name 'libcublas.so.*' | head -n 1)"
        "-DCMAKE_CUDA_FLAGS=-I$cublas/include"
    )
}

toolkit_has_cublas() {
    printf '#include <cublas_v2.h>\nint main() { return cublasCreate(0); }\n' > "$build/cublas.cu"
    nvcc "$build/cublas.cu" -lcublas -o "$build/cublas" > "$build/cublas.log" 2>&1
}

objects() {
    find "$build" -name '*.o' | wc -l
}

# Configures once, then compiles until done or out of time; what is compiled stays.
build_library() {
    build="$out/build-$device"
    library="$build/bin"
    [ -z "$arch" ] || [ ! -f "$build/configured" ] || grep -q "=$arch-real" "$build/configured" ||
        die "$build is for another architecture: remove it, or name another --out"
    if [ -f "$build/built" ]; then
        say "the library is built"
        return 0
    fi
    for program in cmake c++; do
        command -v "$program" > /dev/null || die "$program is not on the PATH"
    done
    jobs="${jobs:-$(nproc)}"
    mkdir -p "$build"
    if [ ! -f "$build/configured" ]; then
        configure_for
        generator=()
        ! command -v ninja > /dev/null || generator=(-G Ninja)
        cmake -S "$source_dir/vendor/llama.cpp" -B "$build" "${generator[@]}" \
            "${configuration[@]}" > "$build/configure.log" 2>&1 || {
            tail -n 20 "$build/configure.log" >&2
            die "cmake could not configure; $build/configure.log has all of it"
        }
        printf '%s\n' "${configuration[@]}" > "$build/configured"
        say "configured for $device${arch:+, architecture $arch}"
    fi
    local before started status=0
    before="$(objects)"
    started=$SECONDS
    [ "$(left_s)" -gt 0 ] || exit $AGAIN
    say "compiling, $jobs at a time, for at most $(left_s) s"
    timeout --kill-after=10 "$(left_s)" cmake --build "$build" --parallel "$jobs" \
        --target llama > "$build/compile.log" 2>&1 || status=$?
    echo $((SECONDS - started)) >> "$build/seconds"
    if [ $status -eq 124 ] || [ $status -eq 137 ]; then   # told to end; killed as it did not
        say "$(objects) files compiled so far, $before of them before"
        [ "$(objects)" -gt "$before" ] || [ "$started" -gt $((budget_s / 2)) ] ||
            die "no file was compiled in $((SECONDS - started)) s: raise --budget-s"
        exit $AGAIN
    fi
    if [ $status -ne 0 ]; then
        grep -n -m 5 -i 'error' "$build/compile.log" >&2 || tail -n 20 "$build/compile.log" >&2
        die "the build failed; $build/compile.log has all of it"
    fi
    # The loader may not know where the toolkit keeps its runtime.
    sed -n 's/^CUDA_CUDART:[A-Z]*=\(.*\)\/[^/]*$/\1/p' "$build/CMakeCache.txt" > "$build/runtime"
    in_library -c 'import llama_cpp' || die "the library is built but cannot be loaded"
    touch "$build/built"
    say "the library is built"
}

# Runs Python with our library, with the CUDA runtime that it was built with, and with the one GPU
# that nvidia-smi calls 0.
in_library() {
    local path="${LD_LIBRARY_PATH:-}" runtime="$library/../runtime"
    [ ! -s "$runtime" ] || path="$(cat "$runtime")${path:+:$path}"
    CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0 \
        LLAMA_CPP_LIB_PATH="$library" LD_LIBRARY_PATH="$path" "$python" "$@"
}

run_stage() {
    local left status=0
    left="$(left_s)"
    [ "$left" -gt 0 ] || exit $AGAIN
    in_library -m gpucheck "$1" --out "$out" --models "$models" --device "$device" \
        --budget-s "$left" --full-budget-s "$budget_s" --library "$library" \
        ${items:+--items "$items"} ${rpc:+--rpc "$rpc"} || status=$?
    case $status in 0) ;; "$AGAIN") exit $AGAIN ;; *) exit 1 ;; esac
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
parse "$@"
check_options
check_python
if [ -z "$library" ]; then
    case "$stage" in
        build | all) build_library ;;
        *)
            library="$out/build-$device/bin"
            [ -f "$out/build-$device/built" ] || die "nothing is built yet: --stage build first"
            ;;
    esac
fi
case "$stage" in models | all) run_stage models ;; esac
case "$stage" in check | all) run_stage check ;; esac
