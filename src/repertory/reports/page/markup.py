"""HTML and SVG as text.  What is not `Markup` is somebody's words, and is escaped."""

from collections.abc import Iterable
from html import escape

__all__ = ["Markup", "el", "join"]

_VOID = frozenset({"meta", "line", "rect", "path", "circle"})
"""They hold nothing, and end in themselves; `rect` holds a title where it has one."""


class Markup(str):
    """Text that is safe in a page as it is."""

    __slots__ = ()


def el(name: str, /, *inside: str | None, **attributes: str | float | None) -> Markup:
    """An element.  `class_` is class, `stroke_width` is stroke-width; None is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            text = value if isinstance(value, str) else f"{value:.6g}"
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(text)}"')
    content = join(inside)
    if not content and name in _VOID:
        end = "" if name == "meta" else "/"
        return Markup(f"<{' '.join(words)}{end}>")
    return Markup(f"<{' '.join(words)}>{content}</{name}>")


def join(parts: Iterable[str | None]) -> Markup:
    """One after another; None is left out."""
    return Markup(
        "".join(
            part if isinstance(part, Markup) else escape(part) for part in parts if part is not None
        )
    )
