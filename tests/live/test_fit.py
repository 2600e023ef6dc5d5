"""What cannot come true is said with the arithmetic; what can is never refused."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from repertory.domain.settings import Favour
from repertory.domain.specs import ModelSpec
from repertory.live.fit import Room, pinned_misfit, warnings
from repertory.live.options import DeviceChoice, ServeConfig
from repertory.perf.needs import need_of
from worlds import GIB, MIB, model

ONE = Room({"cpu0": 3 * GIB}, "4,096 MiB - 1,024 MiB for server and worker")


CONFIG = ServeConfig(
    models=(),
    folders=(),
    devices=None,
    memory_bytes=GIB,
    memory_story="",
    host_memory_bytes=None,
    favour=Favour.BALANCED,
    host="127.0.0.1",
    port=0,
    state_dir=Path("state"),
    is_exact=False,
)


def pins(*sizes_mib: int) -> dict[ModelSpec, str]:
    return {
        model(f"m{at}", size * MIB, handle_bytes=10 * MIB): f"x.yaml:{at + 1}:1"
        for at, size in enumerate(sizes_mib)
    }


def test_a_need_is_the_sum_of_its_terms() -> None:
    need = need_of(model("a", GIB, handle_bytes=10 * MIB), 2048)
    assert need.total_bytes == GIB + 10 * MIB + 32 * MIB + 2048 * 32768
    assert need.text() == (
        "a: 1,130 MiB = 1,024 MiB weights + 10 MiB tokenizer + 32 MiB buffers + 64 MiB for a KV "
        "memory of 2048 tokens"
    )


def test_a_pinned_set_that_cannot_fit_is_named_with_every_term() -> None:
    misfit = pinned_misfit(pins(2000, 1500), ONE)
    assert misfit is not None
    assert misfit.splitlines() == [
        "x.yaml:1:1: the pinned models cannot be loaded together:",
        "  m0: 2,106 MiB = 2,000 MiB weights + 10 MiB tokenizer + 32 MiB buffers + 64 MiB for a KV "
        "memory of 2048 tokens",
        "  m1: 1,606 MiB = 1,500 MiB weights + 10 MiB tokenizer + 32 MiB buffers + 64 MiB for a KV "
        "memory of 2048 tokens",
        "  together 3,712 MiB, but models have 3,072 MiB on cpu0 (4,096 MiB - 1,024 MiB for server "
        "and worker)",
        "  to mend it: unpin some of m0, m1, or give 640 MiB more memory, or choose smaller files",
    ]


@pytest.mark.parametrize(
    ("sizes", "rooms", "fits"),
    [
        ((), (1000,), True),
        ((894,), (1000,), True),
        ((895,), (1000,), False),
        ((894, 894), (1000, 1000), True),
        ((894, 894), (2000,), True),
        ((994, 994), (1600, 1600), True),
        ((1494, 894), (1500, 1500), False),
        ((494, 494, 494), (1200, 600), True),
        ((494, 494, 494), (1100, 1100), False),
        ((594, 494, 394, 294), (1200, 1000), True),
        ((594, 494, 394, 294), (1250, 950), False),
    ],
)
def test_several_devices_are_packed(
    sizes: tuple[int, ...], rooms: tuple[int, ...], fits: bool
) -> None:
    """Each model takes 106 MiB more than its weights, and lies on one device as a whole."""
    room = Room({f"cpu{at}": size * MIB for at, size in enumerate(rooms)}, "")
    assert (pinned_misfit(pins(*sizes), room) is None) is fits
    needs = [size + 106 for size in sizes]
    ways = product(range(len(rooms)), repeat=len(sizes))
    assert fits is any(
        all(
            sum(need for need, at in zip(needs, way, strict=True) if at == device) <= size
            for device, size in enumerate(rooms)
        )
        for way in ways
    ), "by trying every way"


def test_a_model_that_can_never_fit_is_warned_of_and_the_others_are_not() -> None:
    specs = [model("huge", 4 * GIB), model("small", GIB)]
    (words,) = warnings(specs, {}, ONE)
    assert words.startswith("huge: cannot be served: it needs 4,136 MiB = ")
    assert "the largest device, cpu0, has 3,072 MiB" in words
    assert words.endswith("(4,096 MiB - 1,024 MiB for server and worker)")
    assert "give 1,064 MiB more memory" in words


def test_a_model_that_the_pinned_ones_leave_no_room_for_is_warned_of() -> None:
    pinned = pins(2500)
    (words,) = warnings([*pinned, model("small", GIB)], pinned, ONE)
    assert words.startswith("small: ")
    assert "the pinned models leave 466 MiB" in words


@pytest.mark.parametrize(
    ("asked", "devices", "expected"),
    [
        (None, None, 192 * MIB),
        (0, None, 0),
        (MIB, None, MIB),
        (None, (DeviceChoice("cpu0", 8 * GIB, (0, 1)),), 0),
        (None, (DeviceChoice("cpu0", None, (0, 1)),), 192 * MIB),
        (None, (DeviceChoice("gpu0", 8 * GIB, ()),), 192 * MIB),
    ],
)
def test_a_little_is_kept_for_saved_states_unless_devices_have_it_all(
    asked: int | None, devices: tuple[DeviceChoice, ...] | None, expected: int
) -> None:
    config = replace(CONFIG, memory_bytes=8 * GIB, host_memory_bytes=asked, devices=devices)
    assert config.saved_kv_bytes == expected


def test_where_memory_is_short_models_have_all_of_it() -> None:
    assert replace(CONFIG, memory_bytes=2 * GIB).saved_kv_bytes == 0
    assert replace(CONFIG, memory_bytes=GIB).saved_kv_bytes == 0
