"""The server with another rule for dividing models than ours, for comparison only.

`python -m bench.costs.ruled RULE serve ...`: what follows the rule is what `repertory` is told.  No
product option chooses it: the brain is given it here, where it is made.
"""

import sys
from functools import partial

from repertory.cli import main
from repertory.core.controller import Controller
from repertory.live import compose
from repertory.policy.places.offload import (
    Rule,
    by_harm,
    evict_then_most,
    fully_or_evict,
    offload_always,
)

__all__ = ["RULES"]

RULES: dict[str, Rule] = {
    rule.__name__: rule for rule in (by_harm, fully_or_evict, evict_then_most, offload_always)
}

if __name__ == "__main__":
    vars(compose)["Controller"] = partial(Controller, offload=RULES[sys.argv.pop(1)])
    sys.exit(main())
