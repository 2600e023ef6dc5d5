"""Runs and decision logs as small files, and the page that is made of them."""

from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path

from repertory.core import journal
from repertory.domain.actions import Action, Activate, Deactivate, Load, Unload
from repertory.domain.decisions import Cause, Decision, Verdict
from repertory.domain.events import Arrived, Event, FirstToken, Measured, TransitionDone, WorkerUp
from repertory.domain.ladder import TRANSITIONS, Rung
from repertory.domain.requests import Request
from repertory.domain.settings import Settings
from repertory.domain.specs import Capabilities, DeviceSpec, KvShape, NodeSpec, Placement
from repertory.domain.workloads import Ending, Origin, RequestRecord, RunHeader
from repertory.traces.runs import RunWriter

MIB = 2**20
S = 1_000_000_000
Step = tuple[Event, tuple[Action, ...], tuple[Verdict, ...]]


def record(number: int, at_s: float, ttft_s: float | None = 0.5, **more: object) -> RequestRecord:
    """One that was answered with 11 tokens, ten of them in a second."""
    ended = {} if ttft_s is None else {"finished_s": at_s + ttft_s + 1.0}
    words: dict[str, object] = {
        "request_id": f"r{number}",
        "model": "a",
        "at_s": at_s,
        "prompt_tokens": 8,
        "output_tokens": 11 if ttft_s is not None else 0,
        "ending": Ending.DONE if ttft_s is not None else Ending.LOST,
        "first_token_s": None if ttft_s is None else at_s + ttft_s,
        **ended,
        **more,
    }
    return RequestRecord(**words)  # type: ignore[arg-type]


def header(system: str = "ours", **more: object) -> RunHeader:
    words: dict[str, object] = {"origin": Origin.SIMULATED, "workload": "small", **more}
    return RunHeader(system, **words)  # type: ignore[arg-type]


def write_run(path: Path, head: RunHeader, records: Iterable[RequestRecord]) -> Path:
    with path.open("wb") as file:
        writer = RunWriter(file, head)
        for one in records:
            writer.add(one)
    return path


def write_log(path: Path, steps: Sequence[Step], missing: Iterable[int] = ()) -> Path:
    """`missing` are steps that could not be written."""
    lines = [journal.encode_header(journal.Header("0", Settings(), 1))]
    lost = set(missing)
    for number, (event, actions, verdicts) in enumerate(steps, start=1):
        if number not in lost:
            lines.append(journal.encode(Decision(number, event, actions, verdicts)))
    path.write_bytes(b"".join(lines))
    return path


def worker_up(at_s: float = 0.0, budget_bytes: int = 100 * MIB) -> WorkerUp:
    can = Capabilities(frozenset(TRANSITIONS), False, True, 1, True, True, 0, False)
    device = DeviceSpec("cpu0", budget_bytes, cores=2)
    return WorkerUp(round(at_s * S), NodeSpec("local", (device,), 0, can))


def arrived(number: int, at_s: float, model: str = "a") -> Arrived:
    return Arrived(round(at_s * S), Request(f"r{number}", model, 8, 16))


def first_token(number: int, at_s: float) -> FirstToken:
    return FirstToken(round(at_s * S), f"r{number}")


def done(
    at_s: float, action_id: int, replica: str, held_mib: tuple[int, int], took_s: float = 0.5
) -> TransitionDone:
    """Weights and KV that are held after it."""
    weights, kv = held_mib
    measured = Measured(round(took_s * S), weights * MIB, kv * MIB, 0)
    return TransitionDone(round(at_s * S), action_id, replica, measured)


def load(action_id: int, replica: str = "a/1") -> Load:
    model = replica.partition("/")[0]
    return Load(action_id, replica, model, "local", Placement(("cpu0",)), Rung.DISK)


def activate(action_id: int, replica: str = "a/1") -> Activate:
    return Activate(action_id, replica, replica.partition("/")[0], "local", KvShape(2, 256))


def verdict(rule: str, action_id: int, cause: Cause, predicted_s: float = 0.4) -> Verdict:
    return Verdict(rule, "a", f"{rule} a/1", "1 wait", (), (action_id,), predicted_s, cause=cause)


def a_small_log() -> list[Step]:
    """Model a comes up in 2 s, serves for 16, and goes down to main memory."""
    down, off = Deactivate(3, "a/1", "a", "local"), Unload(4, "a/1", "a", "local")
    return [
        (worker_up(), (), ()),
        (arrived(0, 1.0), (load(1),), (verdict("load", 1, Cause.DEMAND),)),
        (
            done(2.5, 1, "a/1", (40, 0), 1.5),
            (activate(2),),
            (verdict("activate", 2, Cause.DEMAND),),
        ),
        (done(3.0, 2, "a/1", (40, 20)), (), ()),
        (first_token(0, 3.5), (), ()),
        (arrived(1, 19.0), (down,), (verdict("evict", 3, Cause.ROOM),)),
        (done(19.5, 3, "a/1", (40, 0)), (off,), (verdict("evict", 4, Cause.ROOM),)),
        (done(20.0, 4, "a/1", (0, 0)), (), ()),
        (first_token(1, 21.0), (), ()),
    ]


def a_small_run() -> list[RequestRecord]:
    """As the small log has it; the run's clock began a second later."""
    return [record(0, 0.0, 2.5), record(1, 18.0, 2.0)]


class Reader(HTMLParser):
    """A page's words, and whether each element that begins ends."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.names: set[str] = set()
        self.links: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag != "meta":
            self.open.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
