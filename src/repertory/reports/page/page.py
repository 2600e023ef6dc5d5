"""The page as a whole: its sections in order, and what is wrong with what it was made from."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from repertory import __version__
from repertory.domain.workloads import Origin
from repertory.reports.page.charts import Axis, exact_seconds
from repertory.reports.page.groups import Group, group_runs
from repertory.reports.page.latency import distributions, loads
from repertory.reports.page.logs import LogDigest
from repertory.reports.page.markup import Markup, el, join
from repertory.reports.page.runs import RunDigest
from repertory.reports.page.style import STYLE
from repertory.reports.page.tables import badge, cards, comparisons, failures, files, reasons
from repertory.reports.page.timeline import HATCH, Clipped, demand, residency
from repertory.traces.summary import Slo

__all__ = ["notices", "page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page asks for nothing, whatever is written in it."""
_MATCHING = 0.5
"""Of a log's first requests; fewer are another run's.  A log may hold some of before and after."""


def page(runs: Sequence[RunDigest], logs: Sequence[LogDigest], slo: Slo) -> Markup:
    groups = group_runs(run for run in runs if not run.is_empty)
    wrong = notices(runs, logs)
    sections = list(_sections(groups, runs, logs, slo))
    links = [el("a", title, href=f"#{name}") for name, title, _, _ in sections]
    body = el(
        "body",
        HATCH,
        _head(groups, runs, slo),
        el("nav", *links, aria_label="Sections"),
        _notice_box(wrong) if wrong else None,
        el("main", *(_section(*one) for one in sections)),
        _footer(),
    )
    title = f"Report: {', '.join(_workloads(runs))}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", title),
        el("style", Markup(STYLE)),
    )
    return Markup(f"<!doctype html>\n{el('html', head, body, lang='en')}\n")


_Section = tuple[str, str, str, Markup]  # its id, title, lead and content


def _sections(
    groups: Sequence[Group], runs: Sequence[RunDigest], logs: Sequence[LogDigest], slo: Slo
) -> Iterator[_Section]:
    if groups:
        words = f"The share of requests with {_slo_words(slo)}; and what they met."
        yield "glance", "At a glance", words, cards(groups, slo)
        words = "Every system and load, side by side; measured and simulated apart."
        title = "Comparison"
        if len(groups) == 1:
            title, words = "All figures", "Of the one system and load there is."
        yield "compare", title, words, comparisons(groups)
    yield _where(runs, logs)
    if groups:
        yield from _over_time(groups, slo)
    if logs:
        words = "Which rule spoke, and for what; the seconds of its decisions, added up."
        told = [_reasons(runs, log, several=len(logs) > 1) for log in logs]
        yield "reasons", "Decisions by reason", words, join(told)
    if runs:
        yield "failures", "Failures by message", "", failures(runs)
    yield "files", "Files", "What this page was made from.", files(runs, logs)


def _where(runs: Sequence[RunDigest], logs: Sequence[LogDigest]) -> _Section:
    if not logs:
        words = "The decision log of a run (--log) tells where its models were, and why."
        return "residency", "What was where", "", el("p", words, class_="empty")
    parts = [_timeline(runs, log, several=len(logs) > 1) for log in logs]
    words = "A line for each model. Below, the bytes that its device held, read after each move."
    return "residency", "What was where", words, join(parts)


def _over_time(groups: Sequence[Group], slo: Slo) -> Iterator[_Section]:
    words = "Each model on a scale of its own, with its highest values beside it."
    yield "demand", "Demand and queue", words, demand(groups)
    words = (
        "How many requests waited at most so long. A curve that ends below 100 % leaves out "
        "those that never got there; time is on a logarithmic axis. Repeats are taken together: "
        "their quantiles are of all their requests, those above are means over runs."
    )
    yield "latency", "First tokens and further ones", words, distributions(groups, slo)
    if len(groups) > 1:
        words = "What came within the SLO, of what was asked."
        yield "load", "Goodput against load", words, loads(groups)


def _section(name: str, title: str, lead: str, content: Markup) -> Markup:
    words = el("p", lead, class_="lead") if lead else None
    return el("section", el("h2", title), words, content, id=name)


def _head(groups: Sequence[Group], runs: Sequence[RunDigest], slo: Slo) -> Markup:
    origins = dict.fromkeys(run.header.origin for run in runs)
    fleets = dict.fromkeys(run.header.fleet for run in runs if run.header.fleet)
    requests = sum(run.summary.total.requests for run in runs)
    systems = len({one.system for one in groups})
    words = f"{requests:,} requests in {_count(len(runs), 'run')} of {_count(systems, 'system')}"
    title = ", ".join(_workloads(runs)) or "Decision log"
    return el(
        "header",
        el("h1", title),
        el("p", words, " ", *(join((badge(one), " ")) for one in origins)) if runs else None,
        el("p", f"On {' and '.join(fleets)}. " if fleets else None, f"SLO: {_slo_words(slo)}."),
    )


def _workloads(runs: Sequence[RunDigest]) -> list[str]:
    return list(dict.fromkeys(run.header.workload for run in runs))


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _slo_words(slo: Slo) -> str:
    """first tokens under 2 s (99 %) and further tokens under 100 ms (99 %)"""
    terms = (
        ("first tokens", slo.ttft_s, slo.ttft_share),
        ("further tokens", slo.tpot_s, slo.tpot_share),
    )
    return " and ".join(
        f"{what} under {exact_seconds(limit_s)} ({100 * share:.6g} %)"
        for what, limit_s, share in terms
        if limit_s is not None
    )


def notices(runs: Sequence[RunDigest], logs: Sequence[LogDigest]) -> list[str]:
    """What a reader must know before believing the page."""
    found: list[str] = []
    workloads = _workloads(runs)
    if len(workloads) > 1:
        found.append(
            f"The runs are of {len(workloads)} workloads ({', '.join(workloads)}): "
            "only figures under one heading can be compared."
        )
    for run in runs:
        if run.is_cut:
            found.append(
                f"{run.path.name} was cut off in the middle of a line: requests that ended later "
                "are missing, and its figures are of a part."
            )
        if run.header.note:
            found.append(f"{run.path.name} is only a part: {run.header.note}.")
        if run.is_empty:
            warm = f"; it has {run.summary.warmups} of warm-up" if run.summary.warmups else ""
            found.append(f"{run.path.name} has no request that counts{warm}. It is left out.")
    found += [
        f"{_place(one)} and {_place(other)} are one simulated run: it counts twice, and intervals "
        "are too narrow. Leave one out."
        for one, other in combinations(runs, 2)
        if _is_same(one, other)
    ]
    for log in logs:
        found += _log_notices(runs, log)
    return found


def _place(run: RunDigest) -> str:
    """Of two files with one name, folders tell them apart."""
    return "/".join(run.path.parts[-2:])


def _is_same(one: RunDigest, other: RunDigest) -> bool:
    """Of one seed, to the last figure: measured runs never are."""
    is_simulated = one.header.origin is Origin.SIMULATED
    return is_simulated and one.header == other.header and one.summary == other.summary


def _log_notices(runs: Sequence[RunDigest], log: LogDigest) -> list[str]:
    found = []
    name = log.path.name
    if runs and _owner(runs, log) is None:
        sampled = len(log.first_requests)
        known = max(
            (match.agreeing for run in runs for one, match in run.matches if one is log), default=0
        )
        found.append(
            f"{name} is the log of another run: of its first {sampled:,} requests, "
            f"{known:,} are in a run of this page with the same times."
        )
    if log.missing:
        found.append(
            f"{name} lacks {log.missing:,} decisions (marked on its timeline): what they moved is "
            "not shown until it moves again."
        )
    if log.unknown_moves and not log.missing:
        found.append(f"{name} has {log.unknown_moves:,} ends of moves that it has no beginning of.")
    if log.remark:
        found.append(f"{log.remark}.")
    return found


def _owner(runs: Sequence[RunDigest], log: LogDigest) -> tuple[RunDigest, float] | None:
    """The run that a log is of, and what its clock is behind.  Where several agree, the first."""
    best: tuple[int, RunDigest, float] | None = None
    for run in runs:
        for one, match in run.matches:
            if one is log and match.agreeing and (best is None or match.agreeing > best[0]):
                best = match.agreeing, run, match.offset_s
    if best is None:
        return None
    agreeing, run, offset_s = best
    enough = _MATCHING * min(len(log.first_requests), run.summary.total.requests)
    return (run, offset_s) if agreeing >= enough else None


def _timeline(runs: Sequence[RunDigest], log: LogDigest, *, several: bool) -> Markup:
    owner = _owner(runs, log)
    time = Axis(log.begin_s, log.end_s)
    offset_s = 0.0
    if owner is not None:
        run, offset_s = owner
        low = max(log.begin_s - offset_s, -0.02 * run.end_s)
        time = Axis(min(low, 0.0), min(log.end_s - offset_s, 1.02 * run.end_s))
    heading = _log_heading(owner, log) if several or owner is None else _of(owner)
    troubles = [
        el("li", words if count == 1 else f"{words} ({count:,} times)")
        for words, count in log.troubles[:10]
    ]
    return el(
        "div",
        heading,
        residency(Clipped(log, offset_s, time)),
        el("h4", "What went wrong") if troubles else None,
        el("ul", *troubles, class_="troubles") if troubles else None,
        class_="block",
    )


def _of(owner: tuple[RunDigest, float]) -> Markup:
    header = owner[0].header
    seed = "" if header.seed is None else f", seed {header.seed}"
    return el("h3", f"{header.system}{seed} ", badge(header.origin))


def _log_heading(owner: tuple[RunDigest, float] | None, log: LogDigest) -> Markup:
    if owner is not None:
        return _of(owner)
    return el("h3", f"{log.path.name}, of a run that is not on this page")


def _reasons(runs: Sequence[RunDigest], log: LogDigest, *, several: bool) -> Markup:
    heading = _log_heading(_owner(runs, log), log) if several else None
    return el("div", heading, reasons(log), class_="block")


def _notice_box(wrong: Sequence[str]) -> Markup:
    items = [el("li", one) for one in wrong]
    return el("aside", el("b", "Mind"), el("ul", *items), class_="notices", role="note")


def _footer() -> Markup:
    told = (
        ("TTFT", "from when a request was due until its first token."),
        ("TPOT", "seconds per token after the first, of requests of two tokens and more."),
        (
            "p50, p95, p99",
            "the least time that at least this share of requests does not exceed. A request that "
            "never got there counts as slower than all; a quantile that falls on one is ∞.",
        ),
        (
            "In SLO",
            "requests that ended well, within both limits and any deadline of their own. The SLO "
            "is met if the shares within each limit reach the ones that it names.",
        ),
        ("Goodput", "requests in SLO per second, from the first arrival that counts to the last."),
        (
            "±",
            "half of the 95 % confidence interval of the mean over repeated runs, by Student's t. "
            "Runs are repeats if only their seeds differ and their loads lie within a tenth, or "
            "within what chance explains of so few requests (4/√n). Of a share it is shown up to "
            "100 %: nothing is known then.",
        ),
        ("simulated", "in virtual time, from measured or published costs; never a measurement."),
    )
    rows = [join((el("dt", name), el("dd", words))) for name, words in told]
    return el("footer", el("dl", *rows), el("p", f"repertory report {__version__}", class_="note"))
