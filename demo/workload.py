"""Who asks whom for what, and when: bursts for one model at a time, and a trickle for all.

Open loop: a request is sent at its time, whatever became of those before it.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import openai

from repertory.domain.workloads import Ending, RequestRecord

__all__ = ["Answered", "Ask", "plan", "play"]

_TEXT = (
    "the stage is dark and nobody speaks until the lamp burns then one player after another "
    "enters says a line and leaves while behind the curtain the next play is made ready"
)
_WORDS = _TEXT.split()
CLIENTS = 6
_PATIENCE_S = 100.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to come."""

    at_s: float
    client: int
    model: str
    prompt: str
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of it."""

    ask: Ask
    request_id: str
    ttft_s: float | None
    tokens: int
    failure: str | None
    prompt_tokens: int = 0
    """As the server counted them; 0: it never said."""
    sent_s: float = 0.0
    """Since the workload's beginning."""
    took_s: float = 0.0
    """Until its end, from then."""

    @property
    def record(self) -> RequestRecord:
        """For a run file: waiting counts from when it was due."""
        ttft_s = self.ttft_s
        return RequestRecord(
            request_id=self.request_id,
            model=self.ask.model,
            at_s=self.ask.at_s,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.tokens,
            ending=Ending.DONE if self.failure is None else Ending.FAILED,
            sent_s=self.sent_s,
            first_token_s=None if ttft_s is None else self.sent_s + ttft_s,
            finished_s=self.sent_s + self.took_s,
            message=self.failure or "",
            key=f"client {self.ask.client}",
        )


def plan(models: Sequence[str], luck: random.Random, length_s: float = 45.0) -> list[Ask]:
    """Bursts of three to five requests for one model, every four seconds or so; and single ones."""
    times: list[tuple[float, str]] = []
    at_s, last = 0.0, ""
    while at_s < length_s:
        last = luck.choice([name for name in models if name != last])
        count = luck.randint(3, 5)
        times += [(at_s + luck.uniform(0.0, 1.5), last) for _ in range(count)]
        at_s += luck.uniform(3.0, 5.5)
    at_s = luck.expovariate(0.25)
    while at_s < length_s:
        times.append((at_s, luck.choice(models)))
        at_s += luck.expovariate(0.25)
    return [_ask(at_s, model, luck) for at_s, model in sorted(times)]


def _ask(at_s: float, model: str, luck: random.Random) -> Ask:
    """Most prompts are short; one in eight brings a page of text."""
    words = luck.randint(150, 250) if luck.random() < 0.125 else luck.randint(8, 50)
    return Ask(
        at_s=at_s,
        client=luck.randrange(CLIENTS),
        model=model,
        prompt=" ".join(luck.choices(_WORDS, k=words)),
        max_tokens=luck.randint(16, 40),
        seed=luck.getrandbits(31),
    )


async def play(url: str, asks: Sequence[Ask], on_answer: Callable[[Answered], None]) -> None:
    """Send every request at its time; returns when all are answered."""
    clients = [_client(url) for _ in range(CLIENTS)]
    loop = asyncio.get_running_loop()
    play_began_s = loop.time()
    try:
        async with asyncio.TaskGroup() as group:
            for ask in asks:
                await asyncio.sleep(max(0.0, play_began_s + ask.at_s - loop.time()))
                group.create_task(_send(clients[ask.client], ask, play_began_s, on_answer))
    finally:
        for client in clients:
            await client.close()


def _client(url: str) -> openai.AsyncOpenAI:
    """As a user would make it; no retries, so that every refusal shows, and no proxy."""
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        timeout=_PATIENCE_S,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


async def _send(
    client: openai.AsyncOpenAI,
    ask: Ask,
    play_began_s: float,
    on_answer: Callable[[Answered], None],
) -> None:
    loop = asyncio.get_running_loop()
    began_s, ttft_s, request_id, reason = loop.time(), None, "", None
    prompt_tokens = tokens = 0
    failure: str | None = None
    try:
        stream = await client.chat.completions.create(
            model=ask.model,
            messages=[{"role": "user", "content": ask.prompt}],
            max_tokens=ask.max_tokens,
            seed=ask.seed,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            request_id = chunk.id
            for choice in chunk.choices:
                if choice.delta.content and ttft_s is None:
                    ttft_s = loop.time() - began_s
                reason = choice.finish_reason or reason
            if chunk.usage is not None:
                prompt_tokens = chunk.usage.prompt_tokens
                tokens = chunk.usage.completion_tokens
    except openai.OpenAIError as error:
        failure = f"{type(error).__name__}: {error}"
    if failure is None and (reason is None or not tokens):
        failure = f"the stream ended after {tokens} tokens with finish_reason {reason}"
    sent_s, took_s = began_s - play_began_s, loop.time() - began_s
    on_answer(Answered(ask, request_id, ttft_s, tokens, failure, prompt_tokens, sent_s, took_s))
