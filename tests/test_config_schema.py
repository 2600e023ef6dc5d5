"""The JSON schema says what the parser does: both come from one table."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from repertory.config import schema_text
from repertory.config.file import parse_file
from repertory.config.keys import FILE
from repertory.domain.errors import ConfigError

DOCS = Path(__file__).parents[1] / "docs"
SCHEMA = json.loads(schema_text())
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_committed_schema_is_the_one_of_the_code() -> None:
    """`repertory config schema > docs/repertory.schema.json` writes it anew."""
    assert (DOCS / "repertory.schema.json").read_text() == schema_text()


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_is_explained_and_stands_in_the_example() -> None:
    example = (DOCS / "repertory.example.yaml").read_text()
    models = SCHEMA["properties"]["models"]["additionalProperties"]
    devices = SCHEMA["properties"]["devices"]["anyOf"][1]["items"]
    for table in (SCHEMA, models, devices):
        for key, its in table["properties"].items():
            assert its["description"].endswith("."), key
            assert re.search(rf"\b{key}:", example), key


def example_in(folder: Path) -> str:
    """The example, with its model files made."""
    text = (DOCS / "repertory.example.yaml").read_text()
    for path in re.findall(r"path: (\S+)", text):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    return text


def test_the_example_is_a_configuration_and_names_the_schema(tmp_path: Path) -> None:
    text = example_in(tmp_path)
    VALIDATOR.validate(yaml.safe_load(text))
    config = parse_file(text, "example.yaml", tmp_path)
    assert [model.name for model in config.models] == ["coder", "writer", "helper"]
    assert config.memory_bytes == 12 * 2**30
    modeline = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert modeline
    assert (DOCS / modeline[1]).exists()


def test_the_commented_parts_of_the_example_work_too(tmp_path: Path) -> None:
    text = example_in(tmp_path).replace("devices: auto\n", "")
    text = re.sub(
        r"^# (state_dir|host_memory|saved_kv_disk|rpc|devices:$|  - )",
        r"\1",
        text,
        flags=re.MULTILINE,
    )
    VALIDATOR.validate(yaml.safe_load(text))
    config = parse_file(text, "example.yaml", tmp_path)
    assert [device.cores for device in config.devices or ()] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert config.state_dir == tmp_path / "state"
    assert config.host_memory_bytes == 2 * 2**30
    assert config.saved_kv_disk_bytes == 20 * 2**30
    assert config.rpc == ("192.168.1.20:50052",)


def test_defaults_of_the_schema_are_accepted_by_the_parser(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    defaults = {key.name: key.default for key in FILE.keys if key.default is not None}
    document = {"models": {"x": {"path": "x.gguf"}}, **defaults}
    VALIDATOR.validate(document)
    parse_file(yaml.safe_dump(document), "x.yaml", tmp_path)


# Documents near to right ones: now and then a value is wrong, in its own way or in any.

WORDS = st.text("abcXYZ019.-_/ ~é", max_size=12)
NOISE = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**40), st.floats(0.25, 9.75), WORDS
).filter(lambda value: not (isinstance(value, float) and value.is_integer()))


def mostly(right: st.SearchStrategy[Any], *wrong: st.SearchStrategy[Any]) -> Any:
    others = st.one_of(NOISE, *wrong)
    return st.integers(0, 24).flatmap(lambda luck: others if luck == 17 else right)


def matching(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(rf"\A{pattern}\Z", fullmatch=True)


SIZES = mostly(
    matching("[1-9][0-9]{0,2}([.][0-9]{1,2})? ?([KkMGT]i?B|B)"),
    matching("[0-9]{1,3}([.][0-9]{1,2})? ?([kmgt]i?b|b)"),
)
DURATIONS = mostly(
    st.one_of(
        matching("([0-9]{1,3}([.][0-9])? ?(ms|s|m|h|d|H|MS)){1,3}"),
        st.sampled_from(["never", "-1", -1, 0, "0", "300", 300, 1.5]),
    ),
    st.sampled_from([10**12, -5, "1h 30m", "5 weeks"]),
)
ID = matching("[a-z][a-z0-9._:/-]{2,12}")
TRUTHS = mostly(st.booleans())
ENDPOINTS = mostly(
    matching("[a-z0-9.]{1,9}:[0-9]{1,5}"), st.sampled_from(["gpu:", "gpu", ":1", "a b:1"])
)


def mapping(required: dict[str, Any], optional: dict[str, Any]) -> Any:
    known = st.fixed_dictionaries(required, optional=optional)
    strays = st.dictionaries(st.sampled_from(["modles", "pth", "7", "<"]), NOISE, min_size=1)
    return mostly(
        known,
        st.builds(lambda one, stray: one | stray, known, strays),
        st.fixed_dictionaries({}, optional=required | optional),
    )


MODELS = mapping(
    {"path": mostly(st.just("x.gguf"))},
    {
        "aliases": mostly(st.lists(mostly(ID), max_size=3)),
        "pin": TRUTHS,
        "preload": TRUTHS,
        "context": mostly(st.integers(1, 9000), st.integers(-1, 1)),
        "ttl": DURATIONS,
        "priority": mostly(st.sampled_from(["interactive", "batch"]), st.just("Batch")),
    },
)
DEVICES = mapping(
    {"id": mostly(ID)},
    {"cores": mostly(st.lists(st.integers(0, 4095), min_size=1, max_size=3)), "memory": SIZES},
)
DOCUMENTS = mapping(
    {"models": mostly(st.dictionaries(ID, MODELS, min_size=1, max_size=2))},
    {
        "devices": mostly(st.one_of(st.just("auto"), st.lists(DEVICES, min_size=1, max_size=2))),
        "memory": SIZES,
        "host_memory": SIZES,
        "saved_kv_disk": SIZES,
        "rpc": mostly(st.lists(ENDPOINTS, max_size=2)),
        "favour": mostly(st.sampled_from(["latency", "balanced", "throughput"])),
        "host": mostly(ID),
        "port": mostly(st.integers(0, 65535), st.integers(-1, 70000)),
        "state_dir": mostly(ID),
        "exact": TRUTHS,
    },
)

BEYOND_A_SCHEMA = re.compile(
    r"already taken at|is not there: |no such user|'0*\.\d+ ?[kmgt]?i?b'", re.IGNORECASE
)
"""Names that may be used once only, files that are there, fractions below a byte."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "x.gguf").touch()
    return folder


@given(document=DOCUMENTS)
@settings(deadline=None, max_examples=300)
def test_parser_and_schema_agree_on_any_document(folder: Path, document: object) -> None:
    """But for what no schema can express."""
    is_valid = VALIDATOR.is_valid(document)
    try:
        parse_file(yaml.safe_dump(document), "x.yaml", folder)
    except ConfigError as error:
        complaints = str(error).splitlines()
        beyond = [one for one in complaints if BEYOND_A_SCHEMA.search(one)]
        assert not is_valid or complaints == beyond, (document, complaints)
    else:
        assert is_valid, list(VALIDATOR.iter_errors(document))
