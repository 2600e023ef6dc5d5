"""The text of GBNF: rules of JSON that every schema stands on, and how expressions are put."""

from collections.abc import Sequence

__all__ = ["BASICS", "FORMATS", "either", "literal", "repeated", "words"]

BASICS = {
    "ws": r'" "? | "\n" [ \t]{0,20}',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" code)',
    "code": r'[0-9A-CE-Fa-ce-f] hex{3} | [Dd] ([0-7] hex{2} | [89ABab] hex{2} "\\u" [Dd] low)',
    "low": "[C-Fc-f] hex{2}",
    "hex": "[0-9A-Fa-f]",
    "digits": "[0-9]{1,16}",
    "whole": '"0" | [1-9] [0-9]{0,15}',
    "string": r'"\"" char* "\""',
    "number": '"-"? whole ("." digits)? ([eE] [-+]? [0-9]{1,3})?',
    "integer": '"-"? whole',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (member ("," ws member)*)? "}"',
    "member": 'string ":" ws value ws',
    "array": '"[" ws (value ws ("," ws value ws)*)? "]"',
    "year": "[0-9]{4}",
    "month": '"0" [1-9] | "1" [0-2]',
    "day": '"0" [1-9] | "1" [0-9] | "2" [0-8]',
    "sixty": "[0-5] [0-9]",
    "hour": '[01] [0-9] | "2" [0-3]',
    "date": 'year "-" month "-" day',
    "time": 'hour ":" sixty ":" sixty ("." [0-9]{1,9})? ("Z" | [-+] hour ":" sixty)',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
"""Rules that schemas stand on.  Days end at the 28th, which every month has."""

FORMATS = {
    "date": r'"\"" date "\""',
    "time": r'"\"" time "\""',
    "date-time": r'"\"" date "T" time "\""',
    "uuid": r'"\"" uuid "\""',
}
"""Any other format says what a text is for, not what it is (2020-12, section 7.2.1)."""


def repeated(item: str, least: int, most: int | None) -> str:
    if most == 0:
        return ""
    if most is None:
        return f"{item}*" if least == 0 else f"{item}{{{least},}}"
    return f"{item}{{{least},{most}}}"


def either(options: Sequence[str]) -> str:
    unique = list(dict.fromkeys(options))
    return unique[0] if len(unique) == 1 else f"({' | '.join(unique)})"


def literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(one if one.isprintable() else f"\\U{ord(one):08X}" for one in escaped) + '"'
    )


def words(rule: str) -> list[str]:
    """Names in a rule, and some words of its literals besides: those are looked up in vain."""
    return "".join(one if one.isalnum() else " " for one in rule).split()
