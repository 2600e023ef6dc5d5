"""Damaged configuration files: only `ConfigError`, with the file and a line, and at once."""

import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.fuzz.findings import Findings
from repertory.config.file import read_file
from repertory.domain.errors import ConfigError

__all__ = ["Yamls", "check_yamls", "damaged_yaml"]

SLOW_S = 1.0
_CLI_EVERY = 50
_CLI_S = 30.0
_GOOD = """\
models:
  ant:
    path: ant.gguf
    aliases: [gpt-4o-mini, code]
    pin: true
  bee:
    path: bee.gguf
    context: 256
    ttl: 30m
    priority: batch
  cat: {path: cat.gguf, preload: true}
favour: balanced
memory: 600MiB
host: 127.0.0.1
port: 7373
exact: false
state_dir: state
host_memory: 16MiB
saved_kv_disk: 64MiB
devices:
  - {id: cpu0, cores: [0], memory: 250MiB}
  - {id: cpu1, cores: [1], memory: 250MiB}
"""
_WORDS = (
    *("null", "~", "true", "yes", "-1", "0", "1e999", ".nan", "-.inf", "0x1F", "0o17", "1_000"),
    *("9" * 5000, "2026-01-01", "12:30:45", "''", '""', '"\\0"', '"\\ud800"', "'", '"', "[", "{"),
    *("[]", "{}", "[[[[]]]]", "{a: {b: c}}", "!!python/object:os.system x", "!!binary aGk="),
    *("!x y", "&a b", "*nobody", "<<: *a", "? x", "- - -", "|", ">", "---", "...", "%YAML 9.9"),
    *("*a", "@", "`", "é"),
    *("\x07", "\ufeff", "\u2028", "~nobody/x", "../../etc/passwd", "/dev/zero", "/", "."),
    *("a" * 300, "-5MiB", "1e400GiB", "99999999999999999999GiB", "1 fortnight", "NaNs", "ant"),
)  # fmt: skip
_KEYS = (
    *("models", "path", "aliases", "pin", "context", "ttl", "priority", "favour", "memory", "host"),
    *(
        "port",
        "exact",
        "state_dir",
        "host_memory",
        "saved_kv_disk",
        "devices",
        "id",
        "cores",
        "preload",
        "modles",
    ),
    *("<<", "1", "null", "[a]", "{a: b}", "", "é", "? [x]"),
)


def damaged_yaml(seed: int, number: int) -> tuple[str, bytes]:
    """(name of the damage, the file)."""
    luck = Random(f"{seed}/yaml/{number}")
    name = tuple(_WAYS)[number % len(_WAYS)]
    return name, _WAYS[name](luck)


def _value(luck: Random) -> bytes:
    """Other values behind one to three keys."""
    text = _GOOD
    for _ in range(luck.choice((1, 2, 3))):
        places = list(re.finditer(r"(?<=: )[^\n{,}]+", text))
        at = luck.choice(places)
        text = text[: at.start()] + luck.choice(_WORDS) + text[at.end() :]
    return text.encode("utf-8", "surrogatepass")


def _key(luck: Random) -> bytes:
    places = list(re.finditer(r"[a-z_]+(?=:)", _GOOD))
    at = luck.choice(places)
    return (_GOOD[: at.start()] + luck.choice(_KEYS) + _GOOD[at.end() :]).encode()


def _lines(luck: Random) -> bytes:
    """Lines gone, doubled, swapped or indented otherwise."""
    lines = _GOOD.splitlines(keepends=True)
    for _ in range(luck.choice((1, 1, 3))):
        at = luck.randrange(len(lines))
        way = luck.randrange(5)
        if way == 0 and len(lines) > 1:
            del lines[at]
        elif way == 1:
            lines.insert(luck.randrange(len(lines)), lines[at])
        elif way == 2:
            lines[at] = luck.choice(("\t", " ", "   ", "- ")) + lines[at]
        elif way == 3:
            lines[at] = lines[at].lstrip()
        else:
            luck.shuffle(lines)
    return "".join(lines).encode()


def _bytes(luck: Random) -> bytes:
    found = bytearray(_GOOD.encode())
    for _ in range(luck.choice((1, 3, 20))):
        found[luck.randrange(len(found))] = luck.randrange(256)
    return bytes(found)


def _cut(luck: Random) -> bytes:
    raw = _GOOD.encode()
    return raw[: luck.randrange(len(raw))]


def _coded(luck: Random) -> bytes:
    return _GOOD.encode(luck.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500")))


def _deep(luck: Random) -> bytes:
    depth = luck.choice((10, 100, 1000, 5000))
    opening, closing = luck.choice((("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")))
    inner = opening * depth + "x" + closing * depth
    return luck.choice((inner, f"models: {inner}\n", f"models: {{ant: {inner}}}\n")).encode()


def _aliased(luck: Random) -> bytes:
    """Nodes that stand in many places at once, or in themselves."""
    width, levels = luck.choice(((9, 9), (2, 40), (100, 4), (10_000, 1)))
    lines = ["a0: &a0 {path: ant.gguf}"]
    for level in range(1, levels + 1):
        places = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{places}]")
    last = f"*a{levels}"
    endings = (
        f"models: {{ant: {last}}}",
        f"models: {{ant: {{path: ant.gguf, aliases: {last}}}}}",
        f"devices: {last}",
        "models: &m {ant: *m}",
        "models: {ant: &x [*x]}",
        "&k models: *k",
        "models: {ant: {path: ant.gguf, aliases: &l [*l, *l]}}",
    )
    lines.append(luck.choice(endings))
    return ("\n".join(lines) + "\n").encode()


def _many(luck: Random) -> bytes:
    count = luck.choice((100, 1000))
    path = luck.choice(("ant.gguf", "nowhere.gguf", ""))
    same = luck.random() < 0.3
    entries = (f"  m{0 if same else n}: {{path: {path!r}}}\n" for n in range(count))
    return ("models:\n" + "".join(entries)).encode()


def _other(luck: Random) -> bytes:
    return luck.choice(
        (
            *(b"", b"\n", b"# nothing\n", b"---\n---\n", b"--- a\n--- b\n", b"5", b"[]", b"{}"),
            *(b"models", b"\0", luck.randbytes(300), b"\t", b"models:\n", b"<xml/>"),
            *(b'{"models": {}}', b"%TAG ! x\n---\n", b"\xff\xfe"),
        )
    )


_WAYS: dict[str, Callable[[Random], bytes]] = {
    "value": _value,
    "key": _key,
    "lines": _lines,
    "bytes": _bytes,
    "cut": _cut,
    "coded": _coded,
    "deep": _deep,
    "aliased": _aliased,
    "many": _many,
    "other": _other,
}


@dataclass
class Yamls:
    """What came of all files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


def check_yamls(
    seed: int,
    numbers: Sequence[int],
    folder: Path,
    findings: Findings,
    slow_s: float = SLOW_S,
) -> Yamls:
    """`folder` holds the models that the good file names."""
    found = Yamls()
    for number in numbers:
        name, raw = damaged_yaml(seed, number)
        path = folder / f"yaml-{number}-{name}.yaml"
        path.write_bytes(raw)
        began_s = time.perf_counter()
        outcome = _read(path)
        took_s = time.perf_counter() - began_s
        found.slowest_s = max(found.slowest_s, took_s)
        if took_s > slow_s:
            findings.of_file(path.stem, f"read in {took_s:.1f} s")
        if outcome.startswith("!"):
            findings.of_file(path.stem, outcome[1:])
        if number % _CLI_EVERY == 0:
            said = _by_hand(path)
            if said:
                findings.of_file(path.stem, said)
        found.outcomes["found wanting" if outcome.startswith("!") else outcome] += 1
    return found


def _read(path: Path) -> str:
    """The outcome in a word or two; with `!`, what is wrong about it."""
    try:
        read_file(path)
    except ConfigError as error:
        placed = re.compile(rf"{re.escape(str(path))}:\d+(:\d+)?: ")
        nowhere = [line for line in str(error).split("\n") if not placed.match(line)]
        return f"!a complaint without a place: {nowhere[0]!r}" if nowhere else "refused"
    except Exception:  # noqa: BLE001  any other is what is looked for
        return f"!{traceback.format_exc()[-1500:]}"
    return "accepted"


def _by_hand(path: Path) -> str:
    """As a person checks it: 0 or 2, and no traceback; empty if that is so."""
    command = [sys.executable, "-m", "repertory", "config", "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_CLI_S, check=False)
    if done.returncode in (0, 2) and "Traceback" not in done.stderr:
        return ""
    return f"`repertory config check` ends with {done.returncode}: {done.stderr[-500:]}"
