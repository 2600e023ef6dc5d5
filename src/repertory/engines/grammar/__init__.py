"""What a generation may say: grammars from outside, and the automata that hold it to them."""

from repertory.domain.errors import BadRequest, EngineError
from repertory.engines.contract import GrammarKind
from repertory.engines.grammar.automaton import Automaton, Grammar
from repertory.engines.grammar.schema import gbnf_of_schema

__all__ = ["MOST_GRAMMAR_BYTES", "check_followable", "gbnf_of"]

MOST_GRAMMAR_BYTES = 64 << 10
"""Of a client's own GBNF."""


def gbnf_of(kind: GrammarKind, text: str) -> str:
    """GBNF of what a client sent; `BadRequest` where there is none."""
    if kind is GrammarKind.JSON_SCHEMA:
        return gbnf_of_schema(text)
    size = len(text.encode("utf-8", "replace"))
    if size > MOST_GRAMMAR_BYTES:
        raise BadRequest(f"The grammar has {size} bytes; at most {MOST_GRAMMAR_BYTES} are taken.")
    return text


def check_followable(grammar: Grammar) -> None:
    """`BadRequest` if no token of the vocabulary can begin a text of the grammar."""
    try:
        begins = Automaton(grammar).allowed().any()
    except EngineError as error:
        raise BadRequest(str(error)) from None
    if not begins:
        raise BadRequest("The grammar allows no text that this model could write.")
