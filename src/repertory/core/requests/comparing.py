"""Predictions beside what came of them, where no transition tells: computing, going on, stopping.

Each comparison is one verdict with both figures, said when the measured one is known.  `repertory
why` and the metrics read it; moves are compared by their action's id instead.
"""

from typing import NamedTuple

from repertory.core.state import Pause, ReplicaState, RequestRecord, State, Step
from repertory.domain.decisions import Verdict
from repertory.domain.events import Finished
from repertory.perf.costs import Grounds
from repertory.perf.profiles import DECODE_KEYS, PREFILL_KEYS

__all__ = [
    "begin_pause",
    "compare_generation",
    "compare_resume",
    "drop_pauses",
    "forget_victim",
    "note_return",
    "take_up",
]


def compare_generation(
    state: State, step: Step, record: RequestRecord, replica: ReplicaState, event: Finished
) -> None:
    """The prompt and the steps of a generation that nobody interrupted, before they are learned."""
    spec, where, costs = replica.spec, replica.placement, state.costs
    computed = record.request.prompt_tokens - event.reused_tokens
    if computed > 0 and event.prefill_ns:
        grounds = costs.grounds(spec, where, PREFILL_KEYS[where.form])
        seconds = _Seconds(costs.work_s(spec, where, computed, 0), event.prefill_ns / 1e9, grounds)
        _compare(step, "prefill", event.request_id, f"{computed} tokens", seconds)
    steps = event.output_tokens - 1
    if steps > 0 and event.decode_ns:
        batch = max(1, (record.company + len(replica.running)) // 2)
        step_s = costs.step_s(spec, where, batch, batch * (computed + steps / 2))
        grounds = costs.grounds(spec, where, DECODE_KEYS[where.form])
        how = f"{steps} steps among {batch}"
        seconds = _Seconds(steps * step_s, event.decode_ns / 1e9, grounds)
        _compare(step, "decode", event.request_id, how, seconds)


def compare_resume(
    step: Step, record: RequestRecord, predicted_s: float, grounds: Grounds, reused: int
) -> None:
    """From its dispatch to its next token; which way its cells came back the worker alone knows."""
    way = f"{reused} tokens before it were found" if reused else "by replay"
    measured_s = (step.at_ns - record.dispatched_ns) / 1e9
    _compare(step, "resume", record.request.id, way, _Seconds(predicted_s, measured_s, grounds))


def begin_pause(state: State, step: Step, claimant: str, replica: ReplicaState) -> Pause:
    """All that runs on a replica is stopped for another model.

    A victim has one open pause: the one of its last stop.
    """
    for name in replica.running:
        forget_victim(state, step, name)
    victims = dict.fromkeys(replica.running)
    pause = Pause(claimant, replica.model, replica.node_id, step.at_ns, victims)
    state.pauses[replica.id] = pause
    return pause


def note_return(state: State, step: Step, model: str) -> None:
    """A model starts to come back up: the switch back of those that were stopped begins."""
    for pause in state.pauses.values():
        if pause.model == model and pause.back_ns is None:
            pause.back_ns = step.at_ns


def take_up(state: State, step: Step, record: RequestRecord) -> None:
    """A first token since a dispatch: of the claimant, or of one that was stopped.

    What stopping cost is the switch there (from the stop to the claimant's first dispatch), the
    switch back (from the first move back to the first dispatch), and the longest resume; not the
    claimant's work between them, nor the wait for slots, neither of which a stop causes.
    """
    name, model = record.request.id, record.request.model
    for pause in list(state.pauses.values()):
        if pause.claimant == model and pause.there_s is None:
            if record.dispatched_ns >= pause.at_ns:
                pause.there_s = (record.dispatched_ns - pause.at_ns) / 1e9
                pause.told_s = (step.at_ns - pause.at_ns) / 1e9
        elif name in pause.victims:
            if pause.back_s is None:
                began_ns = pause.back_ns if pause.back_ns is not None else record.dispatched_ns
                pause.back_s = max(0, record.dispatched_ns - began_ns) / 1e9
            pause.resume_s = max(pause.resume_s, (step.at_ns - record.dispatched_ns) / 1e9)
            pause.lost_s = (step.at_ns - pause.at_ns) / 1e9
            pause.resumed.append(name)
            forget_victim(state, step, name)


def forget_victim(state: State, step: Step, request_id: str) -> None:
    """It went on, ended, or was stopped again; with the last one a pause is over."""
    for replica_id, pause in list(state.pauses.items()):
        if request_id in pause.victims:
            del pause.victims[request_id]
            if not pause.victims:
                del state.pauses[replica_id]
                _say_penalty(step, pause)


def drop_pauses(state: State, node_id: str) -> None:
    """A worker died: what follows is no longer the cost of a stop."""
    for replica_id in [key for key, one in state.pauses.items() if one.node_id == node_id]:
        del state.pauses[replica_id]


def _say_penalty(step: Step, pause: Pause) -> None:
    """Nothing, if nobody went on, or the claimant left before it had a token."""
    if pause.there_s is None or pause.told_s is None or pause.back_s is None:
        return
    measured_s = pause.there_s + pause.back_s + pause.resume_s
    step.verdicts.append(
        Verdict(
            rule="penalty",
            subject=pause.model,
            choice=f"{', '.join(pause.resumed)} went on after {pause.lost_s:.3g} s",
            why=(
                f"{pause.claimant} had its first token {pause.told_s:.3g} s after the stop; "
                f"switch there {pause.there_s:.3g} s, back {pause.back_s:.3g} s, "
                f"longest resume {pause.resume_s:.3g} s"
            ),
            predicted_s=pause.predicted_s,
            basis=pause.grounds.basis,
            error=pause.grounds.error,
            measured_s=measured_s,
        )
    )


class _Seconds(NamedTuple):
    """A prediction, what came of it, and what the prediction rests on."""

    predicted_s: float
    measured_s: float
    grounds: Grounds


def _compare(step: Step, rule: str, subject: str, choice: str, seconds: _Seconds) -> None:
    predicted_s, measured_s, grounds = seconds
    step.verdicts.append(
        Verdict(
            rule,
            subject,
            choice,
            "",
            predicted_s=predicted_s,
            basis=grounds.basis,
            error=grounds.error,
            measured_s=measured_s,
        )
    )
