"""Model files: made, described, digested, discovered; and files that lie."""

import contextlib
import os
import time
import tracemalloc
from pathlib import Path
from struct import pack

import gguf
import pytest
from gguf_bytes import F32_TENSOR, Q4_0_TENSOR, Gguf, Scalar, array, scalar, small_model, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repertory.domain.errors import ConfigError, LoadFailed
from repertory.engines.contract import ModelDescription
from repertory.engines.gguf.facts import buffers_bytes
from repertory.engines.gguf.files import describe_file, digest_file, discover, stamp_files
from repertory.engines.gguf.header import FORMATS, read_header
from repertory.engines.gguf.make import make_model

AVX2 = frozenset({"avx2"})
MIB = 2**20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    paths = {weights: folder / f"{weights}.gguf" for weights in ("f16", "q8_0", "q4_0")}
    make_model(paths["f16"], size="tiny", weights="f16")
    make_model(paths["q8_0"], size="tiny", weights="q8_0")
    make_model(paths["q4_0"], size="tiny", weights="q4_0", arch="qwen3", context_tokens=512)
    return paths


def write(path: Path, content: bytes | Gguf) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.build())
    return path


# Making.


def test_equal_recipes_give_equal_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_model(tmp_path / name, size="tiny", weights="q4_0", seed=seed, name="same")
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != other


def test_progress_counts_to_the_total_and_memory_is_that_of_one_tensor(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    tracemalloc.start()
    written = make_model(
        tmp_path / "m", size="50m", weights="q8_0", progress=lambda *at: heard.append(at)
    )
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert heard == sorted(heard)
    assert heard[-1] == (written, written)
    biggest_bytes = 32000 * 512 * 34 // 32
    assert peak_bytes < 4 * biggest_bytes < written + MIB * 10


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = write(tmp_path / "m.gguf", b"before")

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_model(target, size="tiny", progress=stop)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("m.gguf", b"before")
    ]


@pytest.mark.parametrize(
    "wish",
    [{"size": "7b"}, {"arch": "gpt2"}, {"weights": "q5"}, {"context_tokens": 0}, {"seed": -1}],
)
def test_an_impossible_wish_names_what_is_possible(tmp_path: Path, wish: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wish))):
        make_model(tmp_path / "m", **wish)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", ["f16", "q8_0", "q4_0"])
def test_the_stock_reader_sees_the_same_file(made: dict[str, Path], weights: str) -> None:
    stock = gguf.GGUFReader(made[weights])
    ours = read_header(made[weights])
    assert [(t.name, t.size_bytes, t.shape) for t in ours.tensors] == [
        (t.name, t.n_bytes, tuple(t.shape.tolist())) for t in stock.tensors
    ]
    assert ours.header_bytes == stock.data_offset
    keys = set(stock.fields) - {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    assert keys == set(ours.values) | set(ours.lengths)
    for key, value in ours.values.items():
        field = stock.get_field(key)
        assert field is not None
        assert (list(value) if isinstance(value, tuple) else value) == field.contents()


def test_weights_keep_the_scale_of_what_goes_through_them(made: dict[str, Path]) -> None:
    for path in made.values():
        for tensor in gguf.GGUFReader(path).tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if len(tensor.shape) == 1:
                assert (values == 1).all()
                continue
            wanted = {"token_embd.weight": 1.0, "output.weight": 3 * 128**-0.5}.get(
                tensor.name, float(tensor.shape[0]) ** -0.5
            )
            assert values.std() == pytest.approx(wanted, rel=0.05), tensor.name
            assert abs(values.mean()) < 0.05 * wanted, tensor.name


def test_our_table_of_formats_is_the_package_s() -> None:
    theirs = {
        kind.value: (kind.name.lower(), *gguf.GGML_QUANT_SIZES[kind])
        for kind in gguf.GGMLQuantizationType
    }
    newer_than_the_package = {42}
    assert {k: v for k, v in FORMATS.items() if k not in newer_than_the_package} == theirs


# Describing.


def _bytes_of(path: Path, prefix: str) -> int:
    tensors = read_header(path).tensors
    return sum(one.size_bytes for one in tensors if one.name.startswith(prefix))


def test_describe_a_made_model(made: dict[str, Path]) -> None:
    facts = describe_file(made["q4_0"], features=AVX2)
    assert facts == ModelDescription(
        digest=digest_file(made["q4_0"]),
        architecture="qwen3",
        weights_bytes=sum(tensor.size_bytes for tensor in read_header(made["q4_0"]).tensors),
        repacked_bytes=sum(
            tensor.size_bytes
            for tensor in read_header(made["q4_0"]).tensors
            if tensor.format == "q4_0" and tensor.name != "token_embd.weight"
        ),
        layers=2,
        kv_bytes_per_token=2 * 2 * (32 + 32) * 2,
        trained_context_tokens=512,
        vocabulary_tokens=1024,
        buffers_bytes=facts.buffers_bytes,
        chat_template=facts.chat_template,
        head_bytes=_bytes_of(made["q4_0"], "output"),
        kept_bytes=_bytes_of(made["q4_0"], "token_embd"),
        layers_bytes=_bytes_of(made["q4_0"], "blk."),
    )
    assert facts.chat_template.startswith("{")
    assert facts.repacked_bytes > 0
    assert describe_file(made["q8_0"], features=AVX2).repacked_bytes == 0
    assert describe_file(made["q4_0"], features=frozenset()).repacked_bytes == 0


def test_the_output_matrix_is_repacked_even_where_it_is_the_embedding(tmp_path: Path) -> None:
    model = small_model()
    whole = describe_file(write(tmp_path / "m.gguf", model), features=AVX2)
    assert whole.repacked_bytes == 2304
    model.tensors = [*model.tensors[:3]]
    tied = describe_file(write(tmp_path / "t.gguf", model), features=AVX2)
    assert tied.repacked_bytes == 2304 + 3456


def test_the_matrix_unit_repacks_what_vectors_do_not(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", small_model())
    facts = describe_file(path, features=frozenset({"avx2", "avx512_vnni", "amx_int8"}))
    assert facts.repacked_bytes == (2304 + 4 * 64 * 2) + (6528 + 4 * 96 * 2)
    assert describe_file(path, features=frozenset({"asimd", "asimddp"})).repacked_bytes == (
        2304 + 6528
    )


KV_CASES: list[tuple[dict[str, Scalar | list[int]], int]] = [
    ({}, 2 * 2 * (16 + 16) * 2),
    ({"attention__key_length": 24, "attention__value_length": 8}, 2 * 2 * (24 + 8) * 2),
    ({"attention__head_count_kv": [3, 0]}, 3 * (16 + 16) * 2),
    ({"attention__key_length": 16, "attention__key_length_swa": 20}, 2 * 2 * (20 + 16) * 2),
    ({"attention__key_length": 40, "attention__key_length_mla": 24}, 2 * 2 * 40 * 2),
    ({"full_attention_interval": 2}, 2 * (16 + 16) * 2),
]


@pytest.mark.parametrize(("changes", "kv_bytes"), KV_CASES)
def test_kv_bytes_per_token(
    tmp_path: Path, changes: dict[str, Scalar | list[int]], kv_bytes: int
) -> None:
    facts = describe_file(write(tmp_path / "m.gguf", small_model(**changes)))
    assert facts.kv_bytes_per_token == kv_bytes


def test_kv_heads_are_all_heads_where_the_file_names_none(tmp_path: Path) -> None:
    model = small_model()
    model.keys = {k: v for k, v in model.keys.items() if not k.endswith("head_count_kv")}
    facts = describe_file(write(tmp_path / "m.gguf", model))
    assert facts.kv_bytes_per_token == 2 * 4 * (16 + 16) * 2


def test_the_bos_token_is_told_only_where_the_file_asks_for_it(tmp_path: Path) -> None:
    silent = describe_file(write(tmp_path / "a.gguf", small_model()))
    denied = small_model(tokenizer__ggml__add_bos_token=False)
    wanted = small_model(tokenizer__ggml__add_bos_token=True)
    assert silent.bos_token is None
    assert describe_file(write(tmp_path / "b.gguf", denied)).bos_token is None
    assert describe_file(write(tmp_path / "c.gguf", wanted)).bos_token == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"general__architecture": "nomic-bert"},
        {"pooling_type": 3},
        {"attention__causal": False},
    ],
)
def test_embedding_only(tmp_path: Path, changes: dict[str, Scalar]) -> None:
    assert describe_file(write(tmp_path / "m.gguf", small_model(**changes))).is_embedding_only
    plain = small_model(pooling_type=0, attention__causal=True)
    assert not describe_file(write(tmp_path / "n.gguf", plain)).is_embedding_only


@pytest.mark.parametrize(
    ("flash_attention", "sequences", "cells", "measured_mib"),
    [(False, 1, 4096, 78.01 + 0.12), (True, 1, 4096, 64.5 + 0.12), (False, 16, 256, 64.5 + 1.95)],
)
def test_buffers_are_bounded_from_above(
    tmp_path: Path, flash_attention: bool, sequences: int, cells: int, measured_mib: float
) -> None:
    """Measured: compute and output buffer as llama.cpp 0c1e570 logs them, `kv_unified` off."""
    make_model(tmp_path / "m.gguf", size="50m")
    bound_bytes = buffers_bytes(
        read_header(tmp_path / "m.gguf"),
        batch_tokens=512,
        cells=cells,
        flash_attention=flash_attention,
        sequences=sequences,
    )
    assert measured_mib <= bound_bytes / MIB <= 1.3 * measured_mib


@pytest.mark.parametrize("tokens", [32_000, 152_000])
def test_a_big_vocabulary_is_walked_over_quickly(tmp_path: Path, tokens: int) -> None:
    model = small_model(
        tokenizer__ggml__tokens=[f"token{n}" for n in range(tokens)],
        tokenizer__ggml__merges=[f"to ken{n}" for n in range(tokens)],
    )
    path = write(tmp_path / "m.gguf", model)
    tracemalloc.start()
    began_s = time.process_time()
    facts = describe_file(path)
    took_s = time.process_time() - began_s
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert facts.vocabulary_tokens == tokens
    assert took_s < 1.0
    assert peak_bytes < 4 * MIB


def test_a_file_of_40_gigabytes_is_described_by_its_head(tmp_path: Path) -> None:
    size = 40 * 10**9 // 256 * 256
    model = small_model()
    model.tensors = [("token_embd.weight", (64, size // 256), F32_TENSOR, 0, size)]
    model.data = False
    path = write(tmp_path / "m.gguf", model)
    os.truncate(path, path.stat().st_size + size)
    began_s = time.process_time()
    assert describe_file(path).weights_bytes == size
    assert time.process_time() - began_s < 1.0


# Lies.


def broken(**fields: object) -> Gguf:
    model = small_model()
    for name, value in fields.items():
        setattr(model, name, value)
    return model


def keyed(raw: bytes) -> bytes:
    """A file with one key, `k`, of the raw type and value."""
    return b"GGUF" + pack("<IQQ", 3, 0, 1) + text("k") + raw


LIES: list[tuple[bytes | Gguf, str]] = [
    (b"", "no GGUF file"),
    (b"GGUF", "no GGUF file"),
    (b"PK\3\4" + bytes(60), "no GGUF file"),
    (broken(version=1), "of version 1"),
    (broken(version=3 << 24), "big-endian"),
    (broken(key_count=2**62), "announces 4611686018427387904 keys"),
    (broken(tensor_count=2**63), "announces 9223372036854775808 tensors"),
    (broken(key_count=60000), "corrupt|unknown|name of"),
    (keyed(pack("<IQ", 8, 2**63)), "cut off or corrupt"),
    (keyed(pack("<IIQ", 9, 8, 2**40)), "announces 1099511627776 texts"),
    (keyed(pack("<IIQ", 9, 8, 2**20)), "cut off or corrupt"),
    (keyed(pack("<IIQ", 9, 10, 2**60)), "cut off or corrupt"),
    (keyed(pack("<IIQ", 9, 9, 2)), "array of the unknown type 9"),
    (keyed(pack("<I", 77)), "unknown type 77"),
    (b"GGUF" + pack("<IQQ", 3, 0, 2) + 2 * (text("k") + scalar(1)), "key k twice"),
    (b"GGUF" + pack("<IQQQ", 3, 0, 1, 0), "name of 0 bytes"),
    (broken(data=False), "is cut off: tensor token_embd.weight"),
    (small_model(general__alignment=24), "no power of two"),
    (small_model(general__alignment="x"), "no power of two"),
    (small_model(block_count=0), "0 layers"),
    (small_model(block_count=2**32), "4294967296 layers"),
    (small_model(block_count="two"), "llama.block_count should be a count"),
    (small_model(attention__head_count=[4]), "should have 2 counts"),
    (small_model(general__architecture=7), "should be a text"),
    (small_model(general__architecture=""), "names no architecture"),
    (small_model(general__architecture="clip"), "projector"),
    (small_model(general__type="mmproj"), "projector"),
    (small_model(general__type="adapter"), "of the type adapter"),
    (small_model(tokenizer__ggml__tokens=[]), "has no tokenizer"),
    (small_model(tokenizer__ggml__add_bos_token=1), "should be true or false"),
    (small_model(split__count=3), "is one of 3 parts"),
    (broken(tensors=()), "a vocabulary only"),
    (broken(tensors=[("x", (64, 4), 4, 0, 0)]), "unknown format 4"),
    (broken(tensors=[("x", (33, 4), Q4_0_TENSOR, 0, 0)]), "rows of 33 values do not fit q4_0"),
    (broken(tensors=[("x", (64,) * 5, F32_TENSOR, 0, 0)]), "5 dimensions"),
    (broken(tensors=[("x" * 64, (64,), F32_TENSOR, 0, 256)]), "name of 64 bytes"),
    (broken(tensors=[("x", (64,), F32_TENSOR, 32, 256)]), "expected at 0"),
    (broken(tensors=[("x", (2**62, 2**62), F32_TENSOR, 0, 0)]), "is cut off"),
    (broken(tensors=2 * [("x", (0,), F32_TENSOR, 0, 0)]), "tensor x twice"),
]


@pytest.mark.parametrize(("content", "reason"), LIES)
def test_a_lie_is_answered_with_the_reason(
    tmp_path: Path, content: bytes | Gguf, reason: str
) -> None:
    path = write(tmp_path / "m.gguf", content)
    tracemalloc.start()
    with pytest.raises(LoadFailed, match=reason) as caught:
        describe_file(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(caught.value).startswith("m.gguf: ")
    assert peak_bytes < 4 * MIB


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = small_model().build()
    header_bytes = read_header(write(tmp_path / "m.gguf", whole)).header_bytes
    for length in (*range(header_bytes), *range(header_bytes, len(whole), 97)):
        with pytest.raises(LoadFailed):
            describe_file(write(tmp_path / "m.gguf", whole[:length]))


def test_an_endless_head_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", keyed(pack("<IQ", 8, 2**33)))
    os.truncate(path, 2**34)
    with pytest.raises(LoadFailed, match="header is longer than 256 MiB"):
        describe_file(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    for name in ("pipe.gguf", "folder.gguf", "absent.gguf"):
        with pytest.raises(LoadFailed, match=name):
            describe_file(tmp_path / name)


INTERESTING = [0, 1, 2, 31, 2**16, 2**31 - 1, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1]
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=4)),
        st.tuples(st.integers(0, 900), st.sampled_from(INTERESTING).map(lambda n: pack("<Q", n))),
    ),
    min_size=1,
    max_size=6,
)
SEED_MODEL = small_model(
    attention__head_count_kv=[2, 1], tokenizer__ggml__tokens=["a", "b"], general__alignment=32
).build()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(mutations=MUTATIONS, cut=st.none() | st.integers(0, 900))
def test_no_bytes_crash_describe_file(
    tmp_path: Path, mutations: list[tuple[int, bytes]], cut: int | None
) -> None:
    content = bytearray(SEED_MODEL)
    for at, new in mutations:
        content[at : at + len(new)] = new
    path = write(tmp_path / "m.gguf", bytes(content[:cut]))
    began_s = time.process_time()
    with contextlib.suppress(LoadFailed):
        assert isinstance(describe_file(path), ModelDescription)
    assert time.process_time() - began_s < 1.0


# Identity.


def test_the_digest_names_the_bytes(tmp_path: Path) -> None:
    content = small_model().build()
    same, other = write(tmp_path / "a.gguf", content), write(tmp_path / "b.gguf", content)
    assert digest_file(same) == digest_file(other) == describe_file(same).digest
    last_changed = content[:-1] + b"x"
    assert digest_file(write(other, last_changed)) != digest_file(same)
    assert digest_file(write(other, content + b"x")) != digest_file(same)
    renamed = small_model(general__name="x").build()
    assert digest_file(write(other, renamed)) != digest_file(same)


def test_the_digest_of_a_big_file_samples_its_begin_and_end(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    make_model(path, size="50m", weights="q4_0")
    before, begin, size = digest_file(path), read_header(path).header_bytes, path.stat().st_size
    for at in (begin, size - 1):
        with open(path, "r+b") as file:
            file.seek(at)
            old = file.read(1)
            file.seek(at)
            file.write(bytes([old[0] ^ 1]))
            file.flush()
            assert digest_file(path) != before
            file.seek(at)
            file.write(old)
    assert digest_file(path) == before


def test_a_stamp_tells_a_replaced_file_from_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", small_model())
    before = stamp_files(path)
    assert stamp_files(path) == before
    os.replace(write(tmp_path / "new", small_model()), path)
    assert stamp_files(path) != before
    path.unlink()
    with pytest.raises(LoadFailed, match=r"m\.gguf"):
        stamp_files(path)


# Folders.


def sharded(folder: Path, stem: str, count: int = 2) -> list[Path]:
    """The small model in parts: the keys in the first, a tensor in each."""
    paths = []
    for number in range(1, count + 1):
        model = small_model(split__count=count)
        if number > 1:
            model.keys = {"split.count": count}
        model.tensors = [(f"blk.{number}.ffn_up.weight", (64, 8), F32_TENSOR, 0, 2048)]
        paths.append(write(folder / f"{stem}-{number:05}-of-{count:05}.gguf", model))
    return paths


def test_shards_are_one_model(tmp_path: Path) -> None:
    first, second = sharded(tmp_path, "m")
    assert describe_file(first) == describe_file(second)
    assert describe_file(first).weights_bytes == 2 * 2048
    assert [stamp.name for stamp in stamp_files(second)] == [first.name, second.name]
    before = digest_file(first)
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    assert digest_file(first) != before


def test_missing_shards_are_named(tmp_path: Path) -> None:
    parts = sharded(tmp_path, "m", 3)
    parts[0].unlink()
    found = discover(tmp_path)
    assert found.models == ()
    assert [one.reason for one in found.excluded] == [
        "m-00002-of-00003.gguf: of its 3 parts, m-00001-of-00003.gguf missing"
    ]
    with pytest.raises(LoadFailed, match="no such part of 3"):
        describe_file(tmp_path / "m-00009-of-00003.gguf")


def test_discover(tmp_path: Path) -> None:
    for folder in ("b", "c/d", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
    model = small_model()
    for name in ("z.gguf", "b/a.gguf", "b/twin.gguf", "c/d/twin.gguf", "b/one.gguf", "b/one.GGUF"):
        write(tmp_path / name, model)
    sharded(tmp_path / "c", "big")
    write(tmp_path / ".hidden" / "no.gguf", model)
    write(tmp_path / "._z.gguf", b"finder")
    write(tmp_path / "readme.txt", b"hello")
    write(tmp_path / "mmproj-z.gguf", model)
    write(tmp_path / "b/vision.gguf", small_model(general__architecture="clip"))
    write(tmp_path / "b/lora.gguf", small_model(general__type="adapter"))
    write(tmp_path / "c/torn.gguf", model.build()[:200])
    os.symlink(tmp_path, tmp_path / "c" / "loop")

    found = discover(tmp_path)
    located = {
        one.name: Path(one.location).relative_to(tmp_path).as_posix() for one in found.models
    }
    assert list(located.items()) == [
        ("a", "b/a.gguf"),
        ("b/one.GGUF", "b/one.GGUF"),
        ("b/one.gguf", "b/one.gguf"),
        ("b/twin", "b/twin.gguf"),
        ("big", "c/big-00001-of-00002.gguf"),
        ("c/d/twin", "c/d/twin.gguf"),
        ("z", "z.gguf"),
    ]
    reasons = {Path(one.location).name: one.reason for one in found.excluded}
    assert list(reasons) == ["lora.gguf", "vision.gguf", "torn.gguf", "mmproj-z.gguf"]
    assert "adapter" in reasons["lora.gguf"]
    assert "projector" in reasons["vision.gguf"]
    assert "projector" in reasons["mmproj-z.gguf"]
    assert "cut off" in reasons["torn.gguf"]
    assert discover(tmp_path) == found


def test_a_file_that_breaks_renames_no_other(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "m.gguf", small_model())
    assert [one.name for one in discover(tmp_path).models] == ["a/m", "b/m"]
    write(tmp_path / "b" / "m.gguf", b"torn")
    assert [one.name for one in discover(tmp_path).models] == ["a/m"]


def test_names_are_unique_whatever_the_files_are_called(tmp_path: Path) -> None:
    files = (
        "x.gguf.gguf",
        "x.GGUF",
        "x.gguf",
        "y/x.gguf",
        "y/x.gguf.gguf",
        "x-00001-of-00001.gguf",
    )
    (tmp_path / "y").mkdir()
    for name in files:
        write(tmp_path / name, small_model())
    names = [one.name for one in discover(tmp_path).models]
    assert len(set(names)) == len(files)


def test_a_folder_that_is_none_is_the_operator_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        discover(tmp_path / "absent")


def test_arrays_of_numbers_too_long_to_matter_are_walked_over(tmp_path: Path) -> None:
    raw = keyed(array(list(range(5000))))
    header = read_header(write(tmp_path / "m.gguf", raw + bytes(-len(raw) % 32)))
    assert header.lengths == {"k": 5000}
    assert header.values == {}
