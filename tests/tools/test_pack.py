"""What a GPU machine is given: the engine's source without what it does not need, and packages."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from gpucheck import trim, wheels
from gpucheck.cublas import package_folder

LLAMA = "vendor/llama.cpp"
NEEDED = (
    "LICENSE.md",
    "llama_cpp/llama_cpp.py",
    f"{LLAMA}/CMakeLists.txt",
    f"{LLAMA}/cmake/build-info.cmake",
    f"{LLAMA}/include/llama.h",
    f"{LLAMA}/src/models/llama.cpp",
    f"{LLAMA}/vendor/nlohmann/json.hpp",
    f"{LLAMA}/ggml/CMakeLists.txt",
    f"{LLAMA}/ggml/include/ggml-vulkan.h",
    f"{LLAMA}/ggml/src/ggml.c",
    f"{LLAMA}/ggml/src/ggml-cpu/arch/x86/repack.cpp",
    f"{LLAMA}/ggml/src/ggml-cuda/template-instances/mmq-instance-q4_0.cu",
)
NOT_NEEDED = (
    "docs/index.md",
    "llama_cpp/server/app.py",
    f"{LLAMA}/docs/build.md",
    f"{LLAMA}/examples/simple/simple.cpp",
    f"{LLAMA}/models/ggml-vocab-aquila.gguf",
    f"{LLAMA}/tests/test-opt.cpp",
    f"{LLAMA}/tools/server/server.cpp",
    f"{LLAMA}/vendor/cpp-httplib/httplib.h",
    f"{LLAMA}/ggml/src/ggml-vulkan/vulkan-shaders/add.comp",
    f"{LLAMA}/ggml/src/ggml-metal/ggml-metal.metal",
)


def source_distribution(folder: Path) -> Path:
    path = folder / "engine-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (*NOT_NEEDED, *NEEDED):
            entry = tarfile.TarInfo(f"engine-1.0/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    return path


def test_the_pack_holds_what_cuda_and_the_cpu_need_and_the_wheels(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    target = tmp_path / "pack.tar.gz"
    size = trim.pack(source_distribution(tmp_path), target, [wheel])
    assert size == target.stat().st_size
    with tarfile.open(target) as packed:
        names = packed.getnames()
        assert sorted(names) == sorted(
            [*(f"engine/{name}" for name in NEEDED), f"engine/wheels/{wheel.name}"]
        )
        assert all(member.mtime > 0 for member in packed.getmembers())
        content = packed.extractfile(f"engine/{NEEDED[0]}")
        assert content is not None
        assert content.read() == NEEDED[0].encode()


def test_equal_inputs_give_equal_packs(tmp_path: Path) -> None:
    sdist = source_distribution(tmp_path)
    first, second = tmp_path / "first.tar.gz", tmp_path / "second.tar.gz"
    trim.pack(sdist, first)
    trim.pack(sdist, second)
    assert first.read_bytes() == second.read_bytes()


def test_a_pack_that_is_too_big_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trim.LIMIT_BYTES == 40_000_000
    monkeypatch.setattr(trim, "LIMIT_BYTES", 10)
    with pytest.raises(trim.TooBig, match="the limit is 10"):
        trim.pack(source_distribution(tmp_path), tmp_path / "pack.tar.gz")
    assert not (tmp_path / "pack.tar.gz").exists()


def test_a_wheel_is_taken_only_if_it_is_for_this_python() -> None:
    for_311 = Path("msgspec-0.22.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    for_312 = Path("msgspec-0.22.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    for_arm = Path("msgspec-0.22.0-cp312-cp312-manylinux_2_17_aarch64.whl")
    for_all = Path("jinja2-3.1.6-py3-none-any.whl")
    found = [for_311, for_312, for_arm, for_all]
    assert wheels.fitting("msgspec", found, (3, 12), "x86_64") == for_312
    assert wheels.fitting("msgspec", found, (3, 12), "aarch64") == for_arm
    assert wheels.fitting("msgspec", found, (3, 13), "x86_64") is None
    assert wheels.fitting("jinja2", found, (3, 13), "x86_64") == for_all


def test_packages_are_unpacked_and_those_without_a_wheel_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "jinja2-3.1.6-py3-none-any.whl", "w") as archive:
        archive.writestr("jinja2/__init__.py", "found = True")
    target = tmp_path / "site"
    assert wheels.unpack(["jinja2", "numpy"], tmp_path, target) == ["numpy"]
    assert (target / "jinja2" / "__init__.py").read_text() == "found = True"


def test_nothing_is_missing_where_the_project_is_installed() -> None:
    assert wheels.missing() == []


def test_cublas_is_found_in_nvidias_packages_only_with_its_header(tmp_path: Path) -> None:
    (tmp_path / "cuda_nvrtc" / "lib").mkdir(parents=True)
    (tmp_path / "cu13" / "lib").mkdir(parents=True)
    (tmp_path / "cu13" / "lib" / "libcublas.so.13").touch()
    assert package_folder([tmp_path]) is None
    (tmp_path / "cu13" / "include").mkdir()
    (tmp_path / "cu13" / "include" / "cublas_v2.h").touch()
    assert package_folder([tmp_path]) == tmp_path / "cu13"
