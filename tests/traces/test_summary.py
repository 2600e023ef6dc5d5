import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.errors import ConfigError
from repertory.domain.workloads import Ending, RequestRecord
from repertory.traces.summary import Slo, parse_slo, summarise

_SLO = Slo(ttft_s=2.0, tpot_s=0.1)


def _done(
    number: int, ttft_s: float = 0.05, tpot_s: float = 0.02, tokens: int = 11
) -> RequestRecord:
    at_s = float(number)
    first_s = at_s + ttft_s
    return RequestRecord(
        f"r-{number}",
        "a",
        at_s,
        10,
        tokens,
        Ending.DONE,
        first_token_s=first_s,
        finished_s=first_s + tpot_s * (tokens - 1),
    )


def _ended(ending: Ending, number: int = 0) -> RequestRecord:
    return RequestRecord(f"e-{number}", "a", float(number), 10, 0, ending)


def test_a_run_in_which_all_went_well() -> None:
    summary = summarise([_done(each) for each in range(100)], _SLO, 100.0)
    total = summary.total
    assert total == summary.models["a"]
    assert (total.requests, total.done) == (100, 100)
    assert total.ttft.p99_s == pytest.approx(0.05)
    assert total.tpot.p50_s == pytest.approx(0.02)
    assert total.latency.p95_s == pytest.approx(0.25)
    assert total.at_once_share == total.met_share == 1.0
    assert total.goodput_per_s == pytest.approx(1.0)
    assert total.goodput_tokens_per_s == pytest.approx(11.0)
    assert total.meets(_SLO)


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.FAILED, Ending.LOST])
def test_what_did_not_end_well_is_not_met(ending: Ending) -> None:
    summary = summarise([_done(0), _ended(ending)], _SLO, 10.0)
    assert summary.total.met_share == 0.5
    assert summary.total.goodput_per_s == pytest.approx(0.1)
    assert not summary.total.meets(_SLO)


def test_who_refuses_half_of_its_work_is_not_fast() -> None:
    records = [_done(each) for each in range(10)]
    records += [_ended(Ending.REFUSED, each) for each in range(10)]
    total = summarise(records, _SLO, 10.0).total
    assert total.ttft.p50_s == pytest.approx(0.05)
    assert total.ttft.p95_s is None
    assert total.latency.p99_s is None
    assert total.at_once_share == 0.5


def test_a_late_one_is_not_met_and_a_deadline_of_its_own_counts() -> None:
    late, slow = _done(0, ttft_s=3.0), _done(1, tpot_s=0.2)
    own = replace(_done(2, ttft_s=0.5), deadline_s=0.4)
    total = summarise([late, slow, own, _done(3)], _SLO, 4.0).total
    assert total.met_share == 0.25
    assert total.ttft_met_share == 0.5
    assert total.tpot_met_share == 0.75


def test_warm_up_is_not_counted() -> None:
    summary = summarise([replace(_done(0, ttft_s=9.0), is_warmup=True), _done(1)], _SLO, 1.0)
    assert summary.warmups == 1
    assert summary.total.requests == 1
    assert summary.total.met_share == 1.0


def test_one_token_has_no_time_per_token() -> None:
    total = summarise([_done(0, tokens=1)], _SLO, 1.0).total
    assert total.tpot.p50_s is None
    assert total.met_share == 1.0


def test_no_requests_have_no_shares() -> None:
    summary = summarise([], _SLO, 1.0)
    assert summary.total.requests == 0
    assert summary.total.met_share is None
    assert summary.total.ttft.p50_s is None
    assert summary.total.meets(_SLO)
    assert summary.models == {}
    with pytest.raises(ValueError, match="horizon"):
        summarise([], _SLO, 0.0)


@given(st.lists(st.floats(0.001, 10) | st.none(), min_size=1, max_size=300), st.floats(0.001, 10))
def test_p99_under_a_limit_and_99_percent_under_it_say_the_same(
    ttfts: list[float | None], limit_s: float
) -> None:
    records = [
        _ended(Ending.FAILED) if one is None else replace(_done(0, ttft_s=one), at_s=0.0)
        for one in ttfts
    ]
    total = summarise(records, Slo(ttft_s=limit_s), 1.0).total
    p99_s = math.inf if total.ttft.p99_s is None else total.ttft.p99_s
    assert (p99_s < limit_s) == total.meets(Slo(ttft_s=limit_s))


@given(
    st.lists(
        st.builds(
            lambda model, ending, ttft_s: replace(
                _done(0, ttft_s) if ending is Ending.DONE else _ended(ending), model=model
            ),
            st.sampled_from("abc"),
            st.sampled_from(Ending),
            st.floats(0.01, 5),
        )
    )
)
def test_models_add_up_to_the_total(records: list[RequestRecord]) -> None:
    summary = summarise(records, _SLO, 10.0)
    parts = summary.models.values()
    total = summary.total
    assert total.requests == sum(one.requests for one in parts) == len(records)
    assert total.requests == total.done + total.refused + total.failed + total.lost
    assert total.goodput_per_s == pytest.approx(sum(one.goodput_per_s for one in parts))


def test_an_objective_is_written_as_it_is_read() -> None:
    text = "ttft_p99<2s,tpot_p95<100ms"
    slo = parse_slo(text)
    assert slo == Slo(2.0, 0.1, 0.99, 0.95)
    assert str(slo) == text
    assert parse_slo("ttft_p99.9 < 500ms") == Slo(ttft_s=0.5, ttft_share=pytest.approx(0.999))
    assert parse_slo(" tpot_p50<1min ").tpot_s == 60.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no objective"),
        ("ttft<2s", "write them like"),
        ("ttft_p99<2", "is no objective"),
        ("ttft_p99<2s,ttft_p95<1s", "two limits of ttft"),
        ("ttft_p100<2s", "under 100"),
        ("ttft_p99<0s", "limits over 0"),
        ("ttft_p99<2s,", "is no objective"),
    ],
)
def test_what_is_no_objective_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_slo(text)
