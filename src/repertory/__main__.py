"""`python -m repertory`."""

import sys

from repertory.cli import main

sys.exit(main())
