"""What computing takes: prompts by their length, decode steps by batch and context."""

from statistics import median

from repertory.domain.errors import EngineError
from repertory.domain.readings import StepReading
from repertory.domain.specs import KvShape
from repertory.perf.bytes import MIN_CELLS, power_of_two, shape_for
from repertory.profiler.stand import Running, Stand
from repertory.profiler.subjects import KNOWN, Place, Subject, prompt_of, repeated

__all__ = ["DECODE_STEPS", "decode_shape", "read_decode", "read_prefill"]

DECODE_STEPS = 16
"""Of one repeat: a mean over them is no prey to a single stalled barrier."""
_COMPANY_TOKENS = 192
"""What the others of a batch may make meanwhile, at the least."""
_TRIES = 4


async def read_prefill(
    stand: Stand, subject: Subject, place: Place, tokens: int, kv: KvShape
) -> tuple[StepReading, ...]:
    """Whole prompts, each with another beginning, so that nothing of it is there already."""
    await stand.serve(subject, place.placement, kv)
    await stand.end(await stand.ask(subject, prompt_of(subject, 8, "warm"), 2))
    count = 0

    async def once() -> float:
        nonlocal count
        count += 1
        prompt = prompt_of(subject, tokens, f"{place.text} {count}")
        heard = await stand.end(await stand.ask(subject, prompt, 1))
        if heard.reused_tokens:
            raise EngineError(f"{heard.reused_tokens} tokens of a new prompt were not computed")
        return heard.prefill_ns / 1e9

    seconds = await repeated(once)
    return (
        StepReading(
            decode=False,
            form=place.form,
            layers=place.layers,
            share=place.share,
            batch=1,
            tokens=tokens,
            context_tokens=0,
            seconds=seconds,
        ),
    )


def decode_shape(subject: Subject, batch: int, context_tokens: int) -> KvShape:
    """Slots that hold the context and what is made beyond it."""
    cells = max(MIN_CELLS, power_of_two(context_tokens + _COMPANY_TOKENS))
    return shape_for(subject.spec, batch, min(cells, subject.spec.context_tokens))


async def read_decode(
    stand: Stand, subject: Subject, place: Place, batch: int, context_tokens: int
) -> tuple[StepReading, ...]:
    """Steps of one generation while the others of its batch decode all the time beside it.

    What it is told at its end is the compute that it took part in, and it decodes in full company
    only: the others have their first token before it is asked for, and do not end before it does.
    """
    kv = decode_shape(subject, batch, context_tokens)
    await stand.serve(subject, place.placement, kv)
    prompt = prompt_of(subject, context_tokens, KNOWN)
    await stand.end(await stand.ask(subject, prompt, 1))  # the others copy its cells
    company = _Company(stand, subject, prompt, batch - 1, kv.cells - context_tokens)
    made: list[int] = []

    async def once() -> float:
        for _ in range(_TRIES):
            await company.gather()
            running = await stand.ask(subject, prompt, 1 + DECODE_STEPS)
            before = company.made_tokens
            heard = await stand.end(running)
            if company.is_whole:
                made.append(before + company.made_tokens)
                return heard.decode_ns / 1e9 / DECODE_STEPS
        raise EngineError(f"a batch of {batch} was never whole for {DECODE_STEPS} steps")

    seconds = await repeated(once)
    await company.leave()
    beyond = (DECODE_STEPS + median(made)) / 2.0  # of all of them, in the middle of these steps
    return (
        StepReading(
            decode=True,
            form=place.form,
            layers=place.layers,
            share=place.share,
            batch=batch,
            tokens=batch,
            context_tokens=context_tokens + round(beyond / batch),
            seconds=seconds,
        ),
    )


class _Company:
    """The other generations of a batch."""

    def __init__(
        self, stand: Stand, subject: Subject, prompt: tuple[int, ...], size: int, tokens: int
    ) -> None:
        self._stand, self._subject, self._prompt = stand, subject, prompt
        self._size, self._tokens = size, tokens
        self._others: list[Running] = []

    @property
    def is_whole(self) -> bool:
        """None has ended."""
        return all(self._stand.heard_of(one).finish is None for one in self._others)

    @property
    def made_tokens(self) -> int:
        """By all of them together, as far as it was told."""
        return sum(len(self._stand.heard_of(one).tokens) for one in self._others)

    async def gather(self) -> None:
        """All decode, with enough left to make; those that come to their end are begun anew."""
        least = 2 * DECODE_STEPS
        for one in list(self._others):
            if self._tokens - len(self._stand.heard_of(one).tokens) < least:
                await self._stand.stop(one)
                self._others.remove(one)
        while len(self._others) < self._size:
            one = await self._stand.ask(self._subject, self._prompt, self._tokens)
            self._others.append(one)
        for one in self._others:
            await self._stand.first(one)

    async def leave(self) -> None:
        for one in self._others:
            await self._stand.stop(one)
        self._others.clear()
