"""Checks of what a generation may ask for: probabilities, bias, grammars, specials, embeddings."""

import json
import math
import re

from repertory.domain.errors import BadRequest
from repertory.domain.requests import FinishReason
from repertory.engines.contract import GrammarKind
from repertory.testing.bench import PROMPT, Bench, NotConforming, refused, require

__all__ = [
    "check_bias",
    "check_embedding",
    "check_grammar",
    "check_logprobs",
    "check_specials",
]


async def check_logprobs(bench: Bench) -> None:
    """The drawn token is named with its probability, and a greedy one is the likeliest."""
    await bench.serve("r1")
    plain = await bench.wish("plain", 6, ignore_eos=True)
    require(not plain.logprobs, "log-probabilities that nobody asked for")
    for count in (0, 5):
        heard = await bench.wish(f"top {count}", 6, ignore_eos=True, logprobs=count)
        require(heard.tokens == plain.tokens, "asking for log-probabilities changed the tokens")
        require([one.drawn.token for one in heard.logprobs] == heard.tokens, "one per token")
        for one in heard.logprobs:
            top = [ranked.logprob for ranked in one.top]
            require(len(top) == count, f"{len(top)} of the likeliest, {count} were asked for")
            require(one.drawn.logprob <= 0.0, "a probability above 1")
            require(top == sorted(top, reverse=True), "the likeliest come first")
            require(sum(map(math.exp, top)) <= 1.0 + 1e-5, "probabilities sum to more than 1")
            require(not top or one.top[0] == one.drawn, "a greedy token is not the likeliest")


async def check_bias(bench: Bench) -> None:
    """-100 forbids a token, +100 forces one; probabilities are the model's own all the same."""
    await bench.serve("r1")
    free = await bench.wish("free", 4, ignore_eos=True, logprobs=1)
    likeliest = free.tokens[0]
    banned = await bench.wish(
        "banned", 12, ignore_eos=True, logprobs=1, logit_bias=((likeliest, -100.0),)
    )
    require(likeliest not in banned.tokens, "a forbidden token was drawn")
    require(banned.logprobs[0].top == free.logprobs[0].top, "bias changed the probabilities")
    other = PROMPT[0]
    forced = await bench.wish("forced", 8, ignore_eos=True, logit_bias=((other, 100.0),))
    require(forced.tokens == [other] * 8, "a token with +100 was not drawn")


async def check_grammar(bench: Bench) -> None:
    """The text is the grammar's, and the generation ends with it; a bad one is the client's."""
    location = bench.spec.location
    await bench.serve("r1")
    digits = await bench.engine.grammar(location, GrammarKind.GBNF, 'root ::= [0-9]{5} "-" [a-c]+')
    heard = await bench.wish("digits", 24, grammar=digits, ignore_eos=True)
    require(bool(re.fullmatch("[0-9]{5}-[a-c]+", heard.text)), f"{heard.text!r} breaks it")
    require(heard.finish is FinishReason.LENGTH, "it ended before its length")
    schema = (
        '{"type": "array", "items": {"enum": ["x", "y", 7, null]}, "minItems": 2, "maxItems": 3}'
    )
    array = await bench.engine.grammar(location, GrammarKind.JSON_SCHEMA, schema)
    for ignore_eos in (False, True):
        heard = await bench.wish(f"{ignore_eos}", 200, grammar=array, ignore_eos=ignore_eos)
        require(heard.finish is FinishReason.STOP, "it goes on after the grammar's end")
        values = json.loads(heard.text)
        require(len(values) in (2, 3) and set(values) <= {"x", "y", 7, None}, "another value")
    for kind, text in (
        (GrammarKind.GBNF, "root ::= nothing"),
        (GrammarKind.GBNF, 'root ::= root "a" | "b"'),
        (GrammarKind.GBNF, "root ::= [a-z]{1000000}"),
        (GrammarKind.JSON_SCHEMA, '{"type": "array", "uniqueItems": true}'),
        (GrammarKind.JSON_SCHEMA, "{"),
    ):
        try:
            await bench.engine.grammar(location, kind, text)
        except BadRequest as fault:
            require(fault.field is None, "which field it stood in is not the engine's to say")
        else:
            raise NotConforming(f"{text} was not refused")


async def check_specials(bench: Bench) -> None:
    """Shown, a token's text is what `detokenize` says; hidden, it is that or nothing."""
    location = bench.spec.location
    await bench.serve("r1")
    chat = await bench.engine.render(location, [{"role": "user", "content": "a b"}])
    for token in dict.fromkeys(chat):
        said = await bench.engine.detokenize(location, (token,))
        texts = []
        for shows in (True, False):
            heard = await bench.wish(
                f"{token} {shows}", 1, logit_bias=((token, 100.0),), shows_specials=shows,
                ignore_eos=True,
            )  # fmt: skip
            texts.append(heard.text)
        require(texts[0] == said, f"token {token} shows {texts[0]!r}, detokenize says {said!r}")
        require(texts[1] in ("", said), f"token {token} hides as {texts[1]!r}")
    plain = await bench.engine.tokenize(location, "good words")
    require("good words" in await bench.engine.detokenize(location, plain), "text came back other")
    await refused(bench.engine.detokenize(location, (1 << 30,)), "a token beyond the vocabulary")


async def check_embedding(bench: Bench) -> None:
    """Of length 1, the same for the same text, another for another; and nothing is generated."""
    await bench.serve("r1")
    before = await bench.run("r1", "before")
    prompts = {"one": PROMPT, "again": PROMPT, "other": PROMPT[::-1]}
    found = {}
    for name, prompt in prompts.items():
        heard = await bench.wish(name, 1, prompt=prompt, wants_embedding=True)
        require(not heard.tokens and not heard.text, "an embedding came with text")
        require(heard.finish is FinishReason.STOP, "an embedding does not stop")
        length = math.hypot(*heard.embedding)
        require(abs(length - 1.0) < 1e-4, f"an embedding of length {length}")
        found[name] = heard.embedding
    require(found["one"] == found["again"], "the same text has two embeddings")
    require(found["one"] != found["other"], "two texts have one embedding")
    require(await bench.run("r1", "after") == before, "an embedding changed what follows")
