"""Adding up over GPUs: what was measured, and no faster than this machine's link allows."""

from repertory.perf.vllm.grids import Grid

__all__ = ["over_link"]


def over_link(measured: Grid, gpus: int, link_bytes_per_s: float | None) -> Grid:
    """Over bytes.  Around a ring each GPU sends 2 (n - 1) / n of them; None: as was measured."""
    if link_bytes_per_s is None:
        return measured
    sent = 2 * (gpus - 1) / gpus
    values = [
        max(value, sent * size / link_bytes_per_s)
        for size, value in zip(measured.knots, measured.below, strict=True)
        if not isinstance(value, Grid)
    ]
    return Grid(measured.knots, tuple(values))
