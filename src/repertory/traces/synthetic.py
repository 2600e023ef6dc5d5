"""Streams of our own making, that need no data: shaped like the published ones."""

import math

import numpy as np

from repertory.traces.streams import (
    DAY_S,
    WEEK_S,
    Bursts,
    LogNormal,
    RateCurve,
    Stream,
    power_law,
)

__all__ = ["mux_streams", "tail_streams", "week_streams"]

_HOUR_S = 3600.0
_MUX_PER_S, _TAIL_PER_S = 8.0, 20.0
_TAIL_HOT, _TAIL_ALL, _TAIL_SHARE = 6, 100, 0.0135
_CHAT = (LogNormal(370.0, 1.1), LogNormal(140.0, 0.9, 2_048))
_CODE = (LogNormal(1_500.0, 0.9), LogNormal(14.0, 1.0, 1_024))
_DOCUMENTS = (LogNormal(3_000.0, 0.8, 16_384), LogNormal(260.0, 0.8, 4_096))
_SHORT = (LogNormal(60.0, 0.7), LogNormal(8.0, 0.8, 256))


def flat(rate_per_s: float) -> RateCurve:
    return RateCurve(WEEK_S, np.array([rate_per_s]))


def daily(rate_per_s: float, swing: float, peak_hour: float, weekend: float) -> RateCurve:
    """A wave by day with its peak at an hour, lower at the end of the week; `rate_per_s`: mean."""
    hours = np.arange(7 * 24)
    wave = 1 + swing * np.cos((hours % 24 - peak_hour) * (2 * math.pi / 24))
    shape = wave * np.where(hours // 24 >= 5, weekend, 1.0)
    return RateCurve(_HOUR_S, rate_per_s * shape / shape.mean(), is_linear=True)


def week_streams() -> list[Stream]:
    """Four daily, two steady, three bursty, three sporadic; some 3 requests/s in all."""
    silent = Bursts(calm_s=7 * _HOUR_S, burst_s=_HOUR_S / 2, calm_factor=0.0)
    rare = Bursts(calm_s=2 * DAY_S, burst_s=_HOUR_S, calm_factor=0.0)
    restless = Bursts(calm_s=_HOUR_S, burst_s=300.0, calm_factor=0.4)
    return [
        _stream("daily-chat", daily(0.80, 0.85, 15, 0.5), _CHAT, cv=1.2),
        _stream("daily-code", daily(0.50, 0.9, 11, 0.15), _CODE, cv=1.5),
        _stream("daily-night", daily(0.20, 0.8, 3, 1.0), _DOCUMENTS, cv=1.0),
        _stream("daily-desk", daily(0.10, 0.95, 14, 0.1), _CHAT, cv=1.3),
        _stream("steady-route", flat(0.60), _SHORT, cv=0.8),
        _stream("steady-tag", flat(0.25), _SHORT, cv=2.0),
        _stream("bursty-batch", flat(0.20), _DOCUMENTS, cv=1.5, bursts=restless),
        _stream("bursty-agent", daily(0.20, 0.5, 16, 0.6), _CODE, cv=2.5, bursts=restless),
        _stream("bursty-eval", flat(0.10), _CHAT, cv=1.0, bursts=silent),
        _stream("sporadic-lab", flat(0.02), _DOCUMENTS, cv=1.0, bursts=silent),
        _stream("sporadic-law", daily(0.004, 0.9, 13, 0.2), _DOCUMENTS, cv=2.0),
        _stream("sporadic-rare", flat(0.01), _CHAT, cv=1.5, bursts=rare),
    ]


def _stream(
    name: str,
    curve: RateCurve,
    lengths: tuple[LogNormal, LogNormal],
    cv: float,
    bursts: Bursts | None = None,
) -> Stream:
    return Stream(name, name, curve, *lengths, cv=cv, bursts=bursts)


def mux_streams(alpha: float) -> list[Stream]:
    """Log-normal with the means of the paper's conversations: 161 tokens in, 337 out."""
    lengths = tuple(LogNormal(mean / math.exp(0.5), 1.0, 4_096) for mean in (161.0, 337.0))
    return [
        _stream(f"mux-{at:02}", flat(share * _MUX_PER_S), (lengths[0], lengths[1]), cv=1.0)
        for at, share in enumerate(power_law(16, alpha).tolist())
    ]


def tail_streams() -> list[Stream]:
    """Six models have nearly all, the rest comes by sessions; by a power law of 1 in each part."""
    hot = power_law(_TAIL_HOT, 1.0) * (1 - _TAIL_SHARE)
    tail = power_law(_TAIL_ALL - _TAIL_HOT, 1.0) * _TAIL_SHARE
    sessions = Bursts(calm_s=3 * _HOUR_S, burst_s=_HOUR_S / 3, calm_factor=0.0)
    streams = []
    for at, share in enumerate((*hot.tolist(), *tail.tolist())):
        name, rate_per_s = f"tail-{at:03}", share * _TAIL_PER_S
        if at < _TAIL_HOT:
            curve = daily(rate_per_s, 0.6, 15, 0.8)
            streams.append(_stream(name, curve, _CHAT, cv=1.2))
        else:
            streams.append(_stream(name, flat(rate_per_s), _CHAT, cv=1.0, bursts=sessions))
    return streams
