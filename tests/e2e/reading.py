"""A stream that a thread of its own reads, whatever happens to the server meanwhile."""

import threading
from collections.abc import Sequence
from typing import Any

import openai
from serving import DEADLINE_S, RunningServer, wait_for

LONG: Any = {"seed": 7, "extra_body": {"ignore_eos": True}}
"""No end of its own.  Prompts are ids, which need no tokenizer: a request is seen to wait although
its worker is stopped."""


class Reader:
    """Reads one stream to its end on a thread of its own."""

    def __init__(
        self,
        server: RunningServer,
        model: str,
        max_tokens: int = 3000,
        prompt: Sequence[int] = (5, 6, 7),
        priority: str = "interactive",
    ) -> None:
        self.tokens = 0
        self.text = ""
        self.finish: str | None = None
        self.error: Exception | None = None
        self._server = server
        self._model = model
        extra = {**LONG["extra_body"], "priority": priority}
        wishes = {"max_tokens": max_tokens, "prompt": list(prompt), "extra_body": extra}
        self._wishes = {**LONG, **wishes}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_flowing(self) -> "Reader":
        wait_for(lambda: self.tokens or self.error)
        return self

    def join(self) -> "Reader":
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the stream does not end"
        return self

    def _run(self) -> None:
        try:
            with self._server.client() as client:
                for chunk in client.completions.create(
                    model=self._model, stream=True, **self._wishes
                ):
                    self.tokens += 1
                    self.text += chunk.choices[0].text
                    self.finish = chunk.choices[0].finish_reason
        except openai.APIError as error:
            self.error = error
