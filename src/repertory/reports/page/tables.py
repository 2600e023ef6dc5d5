"""The page's figures in rows: at a glance, compared, decisions by reason, failures, files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from repertory.domain.workloads import Origin
from repertory.reports.figures import bytes_text, percent_text, rate_text, seconds_text
from repertory.reports.page.groups import COLUMNS, Column, Estimate, Group, Setting
from repertory.reports.page.logs import LogDigest, Reason
from repertory.reports.page.markup import Markup, el, join
from repertory.reports.page.runs import Failure, RunDigest
from repertory.traces.summary import Slo

__all__ = ["badge", "cards", "comparisons", "failures", "files", "grid", "reasons"]

_CARDS = 6
_SHOWN_FAILURES = 25
_SHOWN_FILES = 100
_NEVER = "∞"
"""A quantile that falls on requests that never had what is measured."""


def badge(origin: Origin) -> Markup:
    return el("span", origin.value, class_=f"origin {origin.value}")


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> Markup:
    """The first column is names, the others numbers.  Wide ones scroll by themselves."""
    head = el("tr", *(el("th", one, scope="col") for one in heads))
    body = [
        el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:]))
        for row in rows
    ]
    table = el("table", el("thead", head), el("tbody", *body))
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def cards(groups: Sequence[Group], slo: Slo) -> Markup:
    """The first few systems, in large figures."""
    shown = groups[:_CARDS]
    more = len(groups) - len(shown)
    note = None
    if more:
        note = el("p", f"{more} more in the table below.", class_="note")
    return join(
        (
            el(
                "div",
                *(_card(one, groups, slo) for one in shown),
                class_="cards alone" if len(shown) == 1 else "cards",
            ),
            note,
        )
    )


def _card(group: Group, groups: Sequence[Group], slo: Slo) -> Markup:
    origin = group.setting.origin
    runs = len(group.runs)
    words = f"{group.requests:,} requests" + (f" in {runs} runs" if runs > 1 else "")
    words += f", {rate_text(group.offered_per_s)} offered"
    by_name = {column.name: column for column in COLUMNS}
    figures = [
        _figure(group, by_name[name], big=name == "In SLO")
        for name in ("In SLO", "TTFT p50", "TTFT p99", "TPOT p99", "Goodput")
    ]
    met = all(run.summary.total.meets(slo) for run in group.runs)
    verdict = el("span", "✓ SLO met" if met else "✗ SLO missed", class_="met" if met else "missed")
    several = len({one.setting for one in groups}) > 1
    return el(
        "article",
        el("h3", group.system, " ", badge(origin)),
        el("p", words, class_="note"),
        el("p", group.setting.words, class_="note") if several else None,
        el("dl", *figures),
        el("p", verdict, class_="verdict"),
        class_="card",
    )


def _figure(group: Group, column: Column, *, big: bool) -> Markup:
    return el(
        "div",
        el("dt", column.name),
        el("dd", _cell(group.estimate(column.value), column)),
        class_="big" if big else None,
    )


def _cell(found: Estimate, column: Column) -> Markup:
    if found.mean is None:
        return el("span", _NEVER, title="it falls on requests that never got there")
    if found.half is None:
        return join((column.text(found.mean),))
    half = min(found.half, 1.0) if column.text is percent_text else found.half
    interval = el("small", f"± {column.text(half).removeprefix('< ')}")
    return join((column.text(found.mean), " ", interval))


def comparisons(groups: Sequence[Group]) -> Markup:
    """A table for each setting: what was measured and what was simulated never share one."""
    settings = list(dict.fromkeys(one.setting for one in groups))
    return join(
        _comparison(one, [each for each in groups if each.setting == one]) for one in settings
    )


def _comparison(setting: Setting, groups: Sequence[Group]) -> Markup:
    most = max(len(one.runs) for one in groups)
    heads = ["System", "Offered", "Runs", *(column.name for column in COLUMNS)]
    bests = {
        (column.name, load): _best(column, [one for one in groups if one.level == load])
        for column in COLUMNS
        for load in {one.level for one in groups}
    }
    rows: list[list[str]] = []
    for group in groups:
        cells = []
        for column in COLUMNS:
            found = group.estimate(column.value)
            cell = _cell(found, column)
            is_best = found.mean is not None and found.mean == bests[column.name, group.level]
            cells.append(el("b", cell) if is_best else cell)
        rows.append([group.system, rate_text(group.offered_per_s), str(len(group.runs)), *cells])
    note = "Bold: the best of its load." if len(groups) > len({g.level for g in groups}) else ""
    if most > 1:
        note = f"{note} ± is half a 95 % confidence interval over the runs (Student's t)."
    return el(
        "div",
        el("h3", setting.words, " ", badge(setting.origin)),
        grid(heads, rows, f"{setting.words}, {setting.origin.value}"),
        el("p", note.strip(), class_="note") if note else None,
        class_="block",
    )


def _best(column: Column, groups: Sequence[Group]) -> float | None:
    """None: nobody to be better than."""
    found = [one.estimate(column.value).mean for one in groups]
    known = [value for value in found if value is not None]
    if len(groups) < 2 or len(set(found)) < 2 or not known:
        return None
    return max(known) if column.is_more_better else min(known)


def reasons(log: LogDigest) -> Markup:
    """Verdicts by rule and cause: how often, and what they took."""
    moving = [one for one in log.reasons if one.is_of_residency]
    rest = [one for one in log.reasons if not one.is_of_residency]
    parts: list[Markup] = []
    if moving:
        parts.append(el("h3", "What changed residency, and for what"))
        parts.append(_reason_table(moving))
    if rest:
        parts.append(el("h3", "Everything else that was decided or foretold"))
        parts.append(_reason_table(rest))
    if not parts:
        parts.append(el("p", "No verdict is in this log.", class_="empty"))
    return join(parts)


def _reason_table(found: Sequence[Reason]) -> Markup:
    most = max(one.count for one in found)
    has_causes = any(one.cause for one in found)
    rows = [
        [
            one.rule,
            *([one.cause or "-"] if has_causes else []),
            el("span", f"{one.count:,}", _bar(one.count / most), class_="counted"),
            seconds_text(one.predicted_s) if one.predicted_s else "-",
            seconds_text(one.measured_s) if one.measured_s else "-",
        ]
        for one in found
    ]
    heads = ["Rule", *(["For"] if has_causes else []), "Verdicts", "Predicted", "Took"]
    return grid(heads, rows, "decisions by reason")


def _bar(share: float) -> Markup:
    bar = el("rect", class_="bar", width=f"{100 * share:.1f}%", height="8", rx="1")
    return el("svg", bar, class_="bar", width="72", height="8", aria_hidden="true")


@dataclass(frozen=True, slots=True)
class _Row:
    system: str
    origin: Origin
    failure: Failure


def failures(runs: Sequence[RunDigest]) -> Markup:
    counts: Counter[_Row] = Counter()
    examples: dict[_Row, str] = {}
    unlike = 0
    for run in runs:
        unlike += run.unlike
        for failure, count, example in run.failures:
            row = _Row(run.header.system, run.header.origin, failure)
            counts[row] += count
            examples.setdefault(row, example)
    if not counts:
        return el("p", "Every request ended well.", class_="empty")
    rows = [
        [
            el("span", examples[row] or "no message", class_="message"),
            row.failure.ending.value,
            "-" if row.failure.status is None else str(row.failure.status),
            f"{row.system}, {row.origin.value}",
            f"{count:,}",
        ]
        for row, count in counts.most_common(_SHOWN_FAILURES)
    ]
    hidden = sum(counts.values()) - sum(count for _, count in counts.most_common(_SHOWN_FAILURES))
    note = "Messages that differ in numbers only count as one; the first is shown."
    if hidden + unlike:
        note += f" {hidden + unlike:,} more ended badly, for rarer reasons."
    heads = ["Message", "Ended", "Status", "System", "Requests"]
    return join((grid(heads, rows, "failures by message"), el("p", note, class_="note")))


def files(runs: Sequence[RunDigest], logs: Sequence[LogDigest]) -> Markup:
    """What this page was made from."""
    rows = [
        [
            run.path.name,
            f"{run.header.system}, {run.header.origin.value}",
            "-" if run.header.seed is None else str(run.header.seed),
            f"{run.summary.total.requests:,}",
            rate_text(run.offered_per_s),
            percent_text(run.summary.total.met_share),
            run.header.began or "-",
        ]
        for run in runs[:_SHOWN_FILES]
    ]
    heads = ["Run", "System", "Seed", "Requests", "Offered", "In SLO", "Began"]
    parts = [grid(heads, rows, "run files")]
    if len(runs) > _SHOWN_FILES:
        parts.append(el("p", f"and {len(runs) - _SHOWN_FILES} more runs", class_="note"))
    if logs:
        log_rows = [
            [
                log.path.name,
                f"{log.decisions:,}",
                f"{log.missing:,}",
                str(len(log.devices)),
                bytes_text(max((one.peak_bytes for one in log.devices), default=0)),
            ]
            for log in logs
        ]
        log_heads = ["Decision log", "Decisions", "Missing", "Devices", "Most on a device"]
        parts.append(grid(log_heads, log_rows, "decision logs"))
    return join(parts)
