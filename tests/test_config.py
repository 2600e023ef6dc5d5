"""The operator's configuration: every wish understood, every mistake named with its place."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.config import Environment, Flags, Found, read_environment, serve_config
from repertory.config.file import FileConfig, parse_file
from repertory.config.memory import (
    CgroupReading,
    MemoryReading,
    default_budget,
    read_cgroups,
    read_memory,
)
from repertory.config.units import duration_s, size_bytes
from repertory.domain.errors import ConfigError
from repertory.domain.settings import Favour
from repertory.live.options import DeviceChoice, ModelChoice, ServeConfig

MIB = 2**20
GIB = 2**30
READING = MemoryReading(own_bytes=64 * MIB, available_bytes=16 * GIB, total_bytes=80 * GIB)
NOWHERE = Environment(None, None, None, Path("/state/repertory"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("coder.gguf", "writer.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    return tmp_path


WHOLE = """\
models:
  coder:  {path: coder.gguf, aliases: [gpt-4o-mini], pin: true, preload: yes}
  writer: {path: ./writer.gguf, context: 16384, ttl: 30m, priority: batch}
devices:
  - {id: gpu0, memory: 22GiB}
  - {id: cpu0, cores: [0, 1], memory: 8GiB}
memory: 12GiB
host_memory: 2500MB
saved_kv_disk: 20GiB
favour: throughput
host: 0.0.0.0
port: 9000
state_dir: state
exact: true
"""


def test_everything_is_read(folder: Path) -> None:
    config = parse_file(WHOLE, "repertory.yaml", folder)
    assert config == FileConfig(
        models=(
            ModelChoice("coder", folder / "coder.gguf", ("gpt-4o-mini",), True, True),
            ModelChoice(
                "writer", folder / "writer.gguf", context_tokens=16384, ttl_s=1800.0, weight=0.1
            ),
        ),
        devices=(DeviceChoice("gpu0", 22 * GIB, ()), DeviceChoice("cpu0", 8 * GIB, (0, 1))),
        memory_bytes=12 * GIB,
        host_memory_bytes=2_500_000_000,
        saved_kv_disk_bytes=20 * GIB,
        favour=Favour.THROUGHPUT,
        host="0.0.0.0",
        port=9000,
        state_dir=folder / "state",
        is_exact=True,
    )


def test_little_is_needed(folder: Path) -> None:
    text = "models: {coder: {path: coder.gguf, ttl: never, aliases: null}}\ndevices: auto\n"
    assert parse_file(text, "x.yaml", folder) == FileConfig(
        models=(ModelChoice("coder", folder / "coder.gguf"),)
    )


@pytest.mark.parametrize("written", ["never", "-1"])
def test_a_ttl_may_be_never(folder: Path, written: str) -> None:
    text = f"models: {{coder: {{path: coder.gguf, ttl: {written}}}}}"
    assert parse_file(text, "x.yaml", folder).models[0].ttl_s is None


def test_paths_may_start_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    text = "models: {coder: {path: ~/coder.gguf}}"
    config = parse_file(text, "x.yaml", Path("/elsewhere"))
    assert config.models[0].path == folder / "coder.gguf"


CODER = "models: {coder: {path: coder.gguf}}\n"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", ":1", "empty"),
        ("devices: auto", "", "needs 'models'"),
        ("models: [", ":1:10", "not valid YAML"),
        ("models: \x07", ":1", "not valid YAML"),
        ("[" * 5000, ":1:33", "nested too deeply"),
        ("- models", ":1:1", "must be a mapping, not a list"),
        (CODER + "modles: {}", ":2:1", "did you mean 'models'?"),
        (CODER + "xyzzy: 1", ":2:1", "known are models"),
        (CODER + CODER, ":2:1", "twice, first at x.yaml:1:1"),
        ("models: {}", ":1:9", "at least one"),
        ("models: {a b: {path: coder.gguf}}", ":1:10", "no name for a model"),
        ("models:\n  coder:\n", ":2:9", "must be a mapping, not nothing"),
        ("models: {coder: {pin: true}}", ":1:17", "needs 'path', the model's file"),
        ("models: {coder: {path: nobody.gguf}}", ":1:24", "is not there"),
        ("models: {coder: {path: 7}}", ":1:24", 'text, not a whole number; write "7" in quotes'),
        ("models: {coder: {path: coder.gguf, pinn: true}}", ":1:36", "did you mean 'pin'?"),
        ("models: {coder: {path: coder.gguf, pin: 1}}", ":1:41", "true or false, not '1'"),
        ("models: {coder: {path: coder.gguf, context: 0}}", ":1:45", "whole number from 1"),
        ("models: {coder: {path: coder.gguf, context: 8k}}", ":1:45", "not '8k'"),
        ("models: {coder: {path: coder.gguf, ttl: soon}}", ":1:41", "such as 30m, 5s or never"),
        ("models: {coder: {path: coder.gguf, priority: bach}}", ":1:46", "did you mean 'batch'?"),
        ("models: {coder: {path: coder.gguf, aliases: a}}", ":1:45", "must be a list, not text"),
        ("models: {coder: {path: coder.gguf, aliases: [4]}}", ":1:46", "in quotes"),
        (
            "models: {coder: {path: coder.gguf, aliases: [coder]}}",
            ":1:46",
            "already taken at x.yaml:1:10",
        ),
        (
            "models:\n  coder: {path: coder.gguf, aliases: [x]}\n"
            "  writer: {path: writer.gguf, aliases: [x]}",
            ":3:41",
            "taken at x.yaml:2:39",
        ),
        (
            "models: {coder: {path: coder.gguf}, coder: {path: coder.gguf}}",
            ":1:37",
            "twice, first at x.yaml:1:10",
        ),
        (CODER + "memory: 8", ":2:9", "a size such as 8GiB"),
        (CODER + "memory: 0B", ":2:9", "a size"),
        (CODER + "favour: speed", ":2:9", "latency, balanced, throughput"),
        (CODER + "port: 70000", ":2:7", "from 0 to 65535"),
        (CODER + "exact: maybe", ":2:8", "true or false"),
        (CODER + "devices: []", ":2:10", "at least one"),
        (CODER + "devices: all", ":2:10", "must be a list, not text"),
        (CODER + "devices: [{memory: 1GiB}]", ":2:11", "needs 'id'"),
        (CODER + "devices: [{id: a}, {id: a}]", ":2:25", "already taken at x.yaml:2:16"),
        (CODER + "devices: [{id: a, cores: [0, 0]}]", ":2:30", "already taken"),
        (CODER + "devices: [{id: a, cores: []}]", ":2:26", "at least one core"),
        (CODER + "<<: *nobody", ":2:5", "not valid YAML"),
        (CODER + "? [a]\n: b", ":2:3", "no text"),
        ("models: {<<: {coder: {path: coder.gguf}}}", ":1:10", "write its keys out"),
        (CODER + "host: ''", ":2:7", "is empty"),
        (CODER + "state_dir: ''", ":2:12", "is empty"),
        ("models: {coder: {path: coder.gguf, ttl: .inf}}", ":1:41", "such as 30m"),
    ],
)
def test_mistakes_are_named_with_their_place(
    folder: Path, text: str, place: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_file(text, "x.yaml", folder)
    assert str(caught.value).startswith(f"x.yaml{place}:")
    assert words in str(caught.value)


@given(st.text(alphabet="models: {}[]&*<>!|-\n'\"coder.gguf path,0~?#%@`\t") | st.text())
@settings(deadline=None)
def test_any_text_is_an_error_of_the_operators_where_no_file_is_there(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml"):
        parse_file(text, "x.yaml", Path("/nowhere"))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * GIB),
        ("500MB", 500_000_000),
        ("1.5 GiB", GIB * 3 // 2),
        ("2tib", 2 * 2**40),
        ("9kB", 9000),
        ("12B", 12),
        ("8", None),
        ("8G", None),
        ("GiB", None),
        ("-1GiB", None),
        ("1e9B", None),
        ("9" * 400 + "TiB", None),
        ("", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800.0),
        ("5s", 5.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        ("300", 300.0),
        ("0", 0.0),
        ("", None),
        ("m", None),
        ("5 weeks", None),
        ("-5s", None),
        ("9" * 400, None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


def nothing(_: Path) -> Found:
    return Found((), ("mmproj.gguf: is a projector",))


def test_a_folder_alone_is_a_configuration(folder: Path) -> None:
    models = (ModelChoice("coder", folder / "coder.gguf"),)
    config = serve_config(folder, Flags(), NOWHERE, READING, lambda _: Found(models, ()))
    assert config == ServeConfig(
        models=models,
        folders=(folder,),
        devices=None,
        memory_bytes=16 * GIB + 64 * MIB - GIB,
        memory_story="15.1 GiB = 64.0 MiB own + 16.0 GiB available - 1.0 GiB margin",
        host_memory_bytes=None,
        favour=Favour.BALANCED,
        host="127.0.0.1",
        port=7373,
        state_dir=Path("/state/repertory"),
        is_exact=False,
    )


def test_one_model_alone_too(folder: Path) -> None:
    config = serve_config(folder / "coder.gguf", Flags(), NOWHERE, READING, nothing)
    assert config.models == (ModelChoice("coder", folder / "coder.gguf"),)
    assert config.folders == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".", "no GGUF model in here"),
        (".", "mmproj.gguf: is a projector"),
        ("nobody", "no such file or folder"),
        ("notes.txt", "neither a folder"),
    ],
)
def test_a_source_without_models_is_refused(folder: Path, name: str, words: str) -> None:
    (folder / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=words):
        serve_config(folder / name, Flags(), NOWHERE, READING, nothing)


def test_a_file_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "x.yaml").write_bytes(b"# one\na: \xff")
    with pytest.raises(ConfigError, match=r"x\.yaml:2: not valid UTF-8 \(byte 9\)"):
        serve_config(folder / "x.yaml", Flags(), NOWHERE, READING, nothing)


def test_flags_win_over_the_environment_over_the_file_over_defaults(folder: Path) -> None:
    (folder / "x.yaml").write_text(WHOLE)
    state = Environment("::1", 0, Path("/env"), Path("/default"))
    flags = Flags("localhost", 1, 13 * GIB, Path("/flag"), False)

    def asked(flags: Flags, environment: Environment) -> tuple[object, ...]:
        config = serve_config(folder / "x.yaml", flags, environment, READING, nothing)
        return config.host, config.port, config.state_dir, config.memory_bytes, config.is_exact

    assert asked(flags, state) == ("localhost", 1, Path("/flag"), 13 * GIB, False)
    assert asked(Flags(), state) == ("::1", 0, Path("/env"), 12 * GIB, True)
    assert asked(Flags(), NOWHERE) == ("0.0.0.0", 9000, folder / "state", 12 * GIB, True)


def test_core_sets_and_host_memory_must_fit_into_the_memory(folder: Path) -> None:
    (folder / "x.yaml").write_text(WHOLE.replace("memory: 12GiB", "memory: 10GiB"))
    with pytest.raises(ConfigError) as caught:
        serve_config(folder / "x.yaml", Flags(), NOWHERE, READING, nothing)
    assert "x.yaml:5:3: cpu0 8.0 GiB + host_memory 2.3 GiB = 10.3 GiB" in str(caught.value)


def test_a_disk_for_saved_kv_needs_memory_to_go_through(folder: Path) -> None:
    (folder / "x.yaml").write_text("saved_kv_disk: 1GiB\nmemory: 1GiB\n" + CODER)
    with pytest.raises(ConfigError) as caught:
        serve_config(folder / "x.yaml", Flags(), NOWHERE, READING, nothing)
    assert "x.yaml:1:" in str(caught.value)
    assert "give 'host_memory'" in str(caught.value)
    (folder / "x.yaml").write_text("saved_kv_disk: 1GiB\nhost_memory: 64MiB\n" + CODER)
    config = serve_config(folder / "x.yaml", Flags(), NOWHERE, READING, nothing)
    assert config.saved_kv_disk_bytes == GIB


def test_the_environment_is_read_once() -> None:
    environment = read_environment(
        {"REPERTORY_PORT": "8001", "REPERTORY_HOST": "", "XDG_STATE_HOME": "/x"}
    )
    assert environment == Environment(None, 8001, None, Path("/x/repertory"))
    with pytest.raises(ConfigError, match="REPERTORY_PORT"):
        read_environment({"REPERTORY_PORT": "many"})


def test_a_given_memory_that_is_not_there_is_said(folder: Path) -> None:
    flags = Flags(memory_bytes=64 * GIB)
    config = serve_config(folder / "coder.gguf", flags, NOWHERE, READING, nothing)
    assert config.memory_bytes == 64 * GIB
    assert config.memory_story.startswith("64.0 GiB (given); only 15.1 GiB = 64.0 MiB own")


def test_more_memory_than_the_machine_has_is_refused_with_the_arithmetic(folder: Path) -> None:
    (folder / "x.yaml").write_text(CODER + "memory: 81GiB")
    with pytest.raises(ConfigError) as caught:
        serve_config(folder / "x.yaml", Flags(), NOWHERE, READING, nothing)
    assert str(caught.value) == (
        f"{folder}/x.yaml:2:9: 'memory' 81.0 GiB is more than there is, 80.0 GiB of this machine; "
        "give less, or leave it out to take what is free at the start"
    )
    tight = MemoryReading(MIB, 16 * GIB, 80 * GIB, (CgroupReading("/a", 8 * GIB, GIB, 0),))
    flags = Flags(memory_bytes=9 * GIB)
    with pytest.raises(ConfigError, match=r"--memory 9\.0 GiB .* 8\.0 GiB for the container /a"):
        serve_config(folder / "coder.gguf", flags, NOWHERE, tight, nothing)


def test_everything_that_is_wrong_is_said_at_once(folder: Path) -> None:
    text = """\
models:
  coder: {path: coder.gguf, pinn: true, ttl: soon, aliases: [a b, 4]}
  writer: {aliases: [coder]}
modles: {}
port: 70000
"""
    with pytest.raises(ConfigError) as caught:
        parse_file(text, "x.yaml", folder)
    places = [line.split(" ")[0] for line in str(caught.value).splitlines()]
    assert places == [
        "x.yaml:2:29:",
        "x.yaml:2:46:",
        "x.yaml:2:62:",
        "x.yaml:2:67:",
        "x.yaml:3:11:",
        "x.yaml:4:1:",
        "x.yaml:5:7:",
    ]


def test_the_tightest_container_counts() -> None:
    cgroups = (
        CgroupReading("/a", 4 * GIB, 3 * GIB, 2 * GIB),
        CgroupReading("/", 100 * GIB, 0, 0),
    )
    budget = default_budget(MemoryReading(MIB, 16 * GIB, 80 * GIB, cgroups))
    assert budget.bytes == MIB + 3 * GIB - 256 * MIB
    assert "min(16.0 GiB available, 3.0 GiB left in the container /a" in budget.story
    assert "256 MiB margin" in budget.story


def test_no_memory_at_all_is_refused_with_the_arithmetic() -> None:
    tight = CgroupReading("/a", GIB, 2 * GIB, 0)
    with pytest.raises(ConfigError, match=r"1\.0 MiB own \+ min\(16\.0 GiB available, 0 B left"):
        default_budget(MemoryReading(MIB, 16 * GIB, 80 * GIB, (tight,)))


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_limits_of_version_2_are_read_up_to_the_root(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    _group(proc / "self", cgroup="0::/user/app\n")
    stat = "anon 5\ninactive_file 300\n"
    _group(root / "user" / "app", memory__max="max\n", memory__current="7\n", memory__stat=stat)
    _group(root / "user", memory__max="1000\n", memory__current="700\n", memory__stat=stat)
    assert read_cgroups(proc, root) == (CgroupReading("/user", 1000, 700, 300),)


def test_limits_of_version_1_are_read_even_where_the_path_is_the_hosts(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    _group(proc / "self", cgroup="4:cpu,memory:/host/path\n3:cpuset:/\n0::/\n")
    files = {
        "memory__limit_in_bytes": "1000\n",
        "memory__usage_in_bytes": "700\n",
        "memory__stat": "cache 1\ntotal_inactive_file 300\n",
    }
    _group(root / "memory", **files)
    assert read_cgroups(proc, root) == (CgroupReading("/memory", 1000, 700, 300),)
    unlimited = {**files, "memory__limit_in_bytes": "9223372036854771712\n"}
    _group(root / "memory", **unlimited)
    assert read_cgroups(proc, root) == ()


def test_a_machine_without_cgroups_has_no_limits(tmp_path: Path) -> None:
    assert read_cgroups(tmp_path, tmp_path) == ()


def test_this_machine_can_be_read() -> None:
    reading = read_memory()
    assert reading.own_bytes > 0
    assert reading.available_bytes > 0
