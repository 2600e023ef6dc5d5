"""Where published data lie: beside the project, read in place."""

import os
from pathlib import Path

__all__ = ["DATA"]

DATA = Path(os.environ.get("REPERTORY_DATA", "../shared/data"))
