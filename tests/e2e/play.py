"""The whole live server without HTTP, in a process of its own: traces of logits have no HTTP form.

`python play.py FOLDER STATE_DIR MEMORY_BYTES exact|fast REQUESTS ANSWERS`: serves the folder as
`repertory serve` does, sends every request of the JSON file REQUESTS to the service that the
gateway would ask, `_CLIENTS` at a time, and writes what came to the file ANSWERS.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from repertory.domain.errors import RepertoryError
from repertory.domain.settings import Favour
from repertory.engines.contract import LogitsTrace, Sampling
from repertory.live.compose import run_server
from repertory.live.facade import GenerationOptions, Service
from repertory.live.options import ServeConfig

_CLIENTS = 12


class Asked(msgspec.Struct, frozen=True):
    """One request, with a sampling that depends on its seed."""

    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    seed: int

    @property
    def sampling(self) -> Sampling:
        """Every other one is greedy."""
        return Sampling(temperature=0.0 if self.seed % 2 else 0.8, seed=self.seed)


class Answered(msgspec.Struct):
    """All that came of it."""

    tokens: list[int] = []
    digests: list[str] = []
    samples: list[tuple[float, ...]] = []
    error: str | None = None

    def take(self, tokens: tuple[int, ...], traces: tuple[LogitsTrace, ...]) -> None:
        self.tokens += tokens
        self.digests += [one.digest for one in traces]
        self.samples += [one.sample for one in traces]


class Audience:
    """An endpoint without a socket: it serves until its clients have all they want."""

    port = 0

    def __init__(self, service: Service, asked: list[Asked]) -> None:
        self.answers = [Answered() for _ in asked]
        self._service = service
        self._waiting = list(enumerate(asked))[::-1]

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(self._client())

    async def accepting(self) -> None:
        return

    def stop(self) -> None:
        self._waiting.clear()

    async def _client(self) -> None:
        while self._waiting:
            number, asked = self._waiting.pop()
            try:
                await self._ask(asked, self.answers[number])
            except RepertoryError as error:
                self.answers[number].error = f"{type(error).__name__}: {error}"

    async def _ask(self, asked: Asked, answer: Answered) -> None:
        spec = self._service.resolve(asked.model)
        await self._service.tokenize(spec, "wait for the worker")
        options = GenerationOptions(
            asked.max_tokens, asked.sampling, ignore_eos=True, trace_logits=True
        )
        async for piece in await self._service.generate(spec, asked.prompt, options):
            answer.take(piece.tokens, piece.traces)


def main(arguments: list[str]) -> int:
    folder, state_dir, memory, mode, requests, answers = arguments
    asked = msgspec.json.decode(Path(requests).read_bytes(), type=list[Asked])
    config = ServeConfig(
        models=(),
        folders=(Path(folder),),
        devices=None,
        memory_bytes=int(memory),
        memory_story="given",
        host_memory_bytes=None,
        favour=Favour.BALANCED,
        host="127.0.0.1",
        port=0,
        state_dir=Path(state_dir),
        is_exact=mode == "exact",
    )
    audiences: list[Audience] = []

    def open_endpoint(service: Service) -> Audience:
        audiences.append(Audience(service, asked))
        return audiences[0]

    code = run_server(config, open_endpoint, lambda words: None)
    Path(answers).write_bytes(msgspec.json.encode(audiences[0].answers))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
