"""Numbers for people.  Inside, bytes are int and seconds are float; these are for the screen."""

__all__ = ["bytes_text", "change_text", "percent_text", "rate_text", "seconds_text"]


def bytes_text(size_bytes: int | None) -> str:
    """Three digits that mean something: 512 B, 1.5 MiB, 12.0 GiB."""
    if size_bytes is None:
        return "-"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def seconds_text(seconds: float | None) -> str:
    """230 µs, 12.3 ms, 4.56 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "-"
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.0f} µs" if seconds else "0 s"
    if abs(seconds) < 1:
        return f"{seconds * 1e3:.1f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if abs(minutes) < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def change_text(predicted: float | None, measured: float | None) -> str:
    """How far a measurement is from its prediction: +9 %."""
    if predicted is None or measured is None or predicted <= 0:
        return ""
    return f"{round((measured / predicted - 1) * 100):+d} %"


def percent_text(share: float | None) -> str:
    """99.2 %; never 100 for what is not all, nor 0 for what is something."""
    if share is None:
        return "-"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def rate_text(per_s: float | None) -> str:
    """12.3/s."""
    return "-" if per_s is None else f"{per_s:.3g}/s" if per_s < 1000 else f"{per_s:,.0f}/s"
