"""The rules of `policy.requests.line` and `policy.requests.fairness`, in their own words."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.requests import PRIORITIES
from repertory.policy.requests.fairness import ahead_ns, jain, lifted_ns
from repertory.policy.requests.line import Place, band, first_in_line, urgency

SECOND = 1_000_000_000
MAX_WAIT_S = 10.0
NOW = 1000 * SECOND
BATCH = PRIORITIES["batch"]


def place(name: str, weight: float = 1.0, waited_s: float = 0.0, **more: object) -> Place:
    since_ns = NOW - round(waited_s * SECOND)
    return Place(name, weight, since_ns)._replace(**more)


def order(*places: Place, gap_s: float = 1.0) -> list[str]:
    """All of them, one after the other."""
    left, names = list(places), []
    while (one := first_in_line(left, NOW, MAX_WAIT_S, gap_s)) is not None:
        left.remove(one)
        names.append(one.name)
    return names


PLACES = st.lists(
    st.builds(
        place,
        st.uuids().map(str),
        st.sampled_from([0.01, 0.1, 0.25, 1.0, 1.5, 10.0]),
        st.floats(0, 300),
        used_ns=st.integers(0, 10 * SECOND),
        began_ns=st.none() | st.integers(0, 900 * SECOND),
        stopped=st.integers(0, 4),
        begin_ns=st.none() | st.integers(990 * SECOND, 1010 * SECOND),
    ),
    max_size=8,
)


class TestLine:
    def test_equal_ones_are_first_come_first_served_and_ties_go_to_the_name(self) -> None:
        assert order(place("c", waited_s=1), place("a"), place("b"), place("d", waited_s=2)) == [
            *("d", "c", "a", "b"),
        ]

    def test_a_batch_does_not_hold_up_an_interactive_request_that_came_later(self) -> None:
        assert order(place("b", BATCH, 60.0), place("i")) == ["i", "b"]

    def test_if_no_batch_has_had_a_slot_for_nine_max_wait_one_goes_before_what_is_interactive(
        self,
    ) -> None:
        assert order(place("b", BATCH, 89.0), place("i")) == ["i", "b"]
        assert order(place("b", BATCH, 91.0), place("i")) == ["b", "i"]
        served = place("b", BATCH, 91.0, served_ns=NOW - SECOND)
        assert order(served, place("i")) == ["i", "b"], "its class was served a second ago"

    def test_who_had_a_slot_when_its_worker_died_has_it_again(self) -> None:
        lost = place("b", BATCH, is_returned=True, began_ns=5)
        other = place("c", BATCH, is_returned=True, began_ns=4)
        assert order(place("i", 10.0, 500.0), lost, other) == ["c", "b", "i"]

    def test_who_was_stopped_goes_on_before_others_of_its_class_begin(self) -> None:
        stopped = place("s", BATCH, stopped=1, began_ns=900 * SECOND, used_ns=9 * SECOND)
        assert order(place("old", BATCH, 60.0), stopped) == ["s", "old"]

    def test_and_not_before_those_it_was_stopped_for(self) -> None:
        stopped = place("s", BATCH, stopped=3, began_ns=900 * SECOND)
        assert order(stopped, place("i")) == ["i", "s"]

    def test_a_key_that_has_had_less_goes_first_in_its_class(self) -> None:
        rich = place("r", waited_s=100.0, used_ns=2)
        assert order(rich, place("p", used_ns=1)) == ["p", "r"]
        assert order(rich, place("p", 0.4, used_ns=1)) == ["r", "p"], "of another class"

    def test_a_deadline_that_another_slot_would_miss_counts_as_having_waited_for_its_penalty(
        self,
    ) -> None:
        soon = place("soon", begin_ns=NOW + SECOND // 2)
        assert urgency(soon, NOW, MAX_WAIT_S, 1.0) == 2.0
        assert order(place("old", waited_s=9.0), soon) == ["soon", "old"]
        assert order(place("old", waited_s=11.0), soon) == ["old", "soon"]

    def test_one_that_is_missed_already_or_far_away_changes_nothing(self) -> None:
        for begin_ns in (NOW - 1, NOW + SECOND):
            assert urgency(place("d", begin_ns=begin_ns), NOW, MAX_WAIT_S, 1.0) == 1.0

    def test_weights_within_a_factor_of_two_are_one_class(self) -> None:
        assert band(1.0) == band(1.9) == band(0.5) + 1 == band(2.0) - 1
        assert band(PRIORITIES["interactive"]) - band(BATCH) == 4

    @given(PLACES, st.randoms())
    def test_the_order_of_the_input_does_not_matter(
        self, places: list[Place], luck: Random
    ) -> None:
        shuffled = list(places)
        luck.shuffle(shuffled)
        assert order(*places) == order(*shuffled)

    @given(PLACES, st.floats(0, 300))
    def test_nobody_loses_by_having_waited_longer(self, places: list[Place], more_s: float) -> None:
        """Among those of one key, none of which was stopped."""
        alike = [one._replace(used_ns=0, began_ns=None) for one in places]
        for at, one in enumerate(alike):
            older = one._replace(since_ns=one.since_ns - round(more_s * SECOND))
            changed = [*alike[:at], older, *alike[at + 1 :]]
            assert order(*changed).index(one.name) <= order(*alike).index(one.name)

    @given(
        st.lists(st.sampled_from([0.01, 0.1, 0.5, 1.0, 10.0]), min_size=1, max_size=5),
        st.sampled_from([0.01, 0.1, 1.0]),
    )
    def test_nobody_starves(self, weights: list[float], weight: float) -> None:
        """A slot each ten seconds, and each time somebody new of every weight: who waits is served
        once
        it has waited so much longer than fresh ones as it weighs less, and those before it are.
        """
        heaviest = max(*weights, weight)
        bound_s = MAX_WAIT_S * heaviest / weight * (1 + len(weights))
        waiting, served_ns = [Place("it", weight, 0)], dict[int, int]()
        for second in range(1, round(bound_s) + 10 * len(weights) + 20, 10):
            at_ns = second * SECOND
            # Only the first of each weight may be next; those behind it change nothing.
            waiting += [
                Place(f"{second}/{other}", other, at_ns)
                for other in dict.fromkeys(weights)
                if not any(one.weight == other and one.name != "it" for one in waiting)
            ]
            seen = [one._replace(served_ns=served_ns.get(band(one.weight), 0)) for one in waiting]
            first = first_in_line(seen, at_ns, MAX_WAIT_S, 1.0)
            assert first is not None
            waiting = [one for one in waiting if one.name != first.name]
            served_ns[band(first.weight)] = at_ns
            if first.name == "it":
                return
        raise AssertionError(f"{weight} beside {weights} still waits after {second} s")


class TestFairness:
    def test_idling_earns_nothing(self) -> None:
        assert lifted_ns(0, {"a": 70, "b": 50}, 10) == 50
        assert lifted_ns(60, {"a": 70, "b": 50}, 10) == 60

    def test_what_was_taken_while_nobody_waited_is_not_held_against_it(self) -> None:
        """Whoever comes later is lifted to it."""
        assert lifted_ns(0, {"busy": 9000}, 0) == 9000
        assert lifted_ns(0, {}, 40) == 40

    def test_of_others_work_only_a_fair_part_is_done_before_ones_own(self) -> None:
        assert ahead_ns("new", {"flood": 1000}, {"flood": 7, "new": 7}) == 0
        assert ahead_ns("new", {"flood": 1000, "new": 30}, {"flood": 7, "new": 7}) == 60
        assert ahead_ns("new", {"flood": 1000}, {"flood": 7, "new": 27}) == 20
        assert ahead_ns("flood", {"flood": 1000}, {"flood": 7}) == 1000

    def test_jains_index_is_one_for_equal_shares_and_a_share_of_one_for_one_that_has_all(
        self,
    ) -> None:
        assert jain({"a": 2.0, "b": 2.0}) == 1.0
        assert jain({"a": 2.0, "b": 0.0, "c": 0.0, "d": 0.0}) == 0.25
        assert jain({"a": 0.0}) == 1.0

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100)), min_size=1, max_size=60),
        st.randoms(),
    )
    def test_two_keys_that_keep_waiting_never_differ_by_more_than_two_requests_work(
        self, works: list[tuple[int, int]], luck: Random
    ) -> None:
        """Whatever their requests are; least used first, charged when it begins."""
        used = {"a": 0, "b": 0}
        most = max(work for _, work in works)
        for _, work in works:
            key = min(used, key=lambda name: (used[name], name))
            used[key] += luck.randint(1, work)
            assert abs(used["a"] - used["b"]) <= 2 * most
