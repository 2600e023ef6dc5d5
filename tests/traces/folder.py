"""The folder of published traces, where a checkout has one beside it."""

from pathlib import Path

import pytest

__all__ = ["DATA", "with_data"]

DATA = Path(__file__).parents[3] / "shared" / "data"
with_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="published traces are not here: ../shared/data"
)
