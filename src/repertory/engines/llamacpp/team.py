"""How many threads compute a step: as many as the kernel really runs at once.

A step meets hundreds of barriers, and at each of them all threads wait for the slowest.  One that
has lost its core to another program holds up all others; and while they spin, they hold the core
that it waits for.  Measured on two cores, decode steps of a 50M q8_0, 1 / 16 sequences, at 1,000
spins; at the 20,000 that are set, two threads beside a program take 20 / 80 ms:

    beside           two threads        one thread
    nothing          2.4 /  17 ms       2.8 / 22 ms
    one program     10.2 /  37 ms       2.8 / 22 ms
    two programs    10.3 /  39 ms       2.8 / 29 ms
"""

__all__ = ["Team"]

_WINDOW_NS = 100_000_000
"""Steps are judged together until they took this long: our own server and its clients want the
cores, too, for a millisecond at a time."""
_LEAST_SHARE = 0.6
"""CPU time of a step's own thread over time that passed.  Measured, alone: 1.0; with four clients
on the same two cores 0.65 to 0.8; beside one or two busy programs 0.5, for spins are short and then
it sleeps."""
_FIRST_PATIENCE_NS = 250_000_000
_MOST_PATIENCE_NS = 8_000_000_000
"""A trial beside another program takes one step, of 0.1 s in the worst case."""


class Team:
    """The number of threads of the next step; `note` what the last one took.

    Too little of the steps' time was computing: one thread in eight, at least one, leaves.
    After a while one comes back, on trial; each trial that fails doubles the wait for the next.
    """

    def __init__(self, most: int) -> None:
        self.threads = most
        self._most = most
        self._spent_ns = 0
        self._computed_ns = 0
        self._patience_ns = _FIRST_PATIENCE_NS
        self._next_trial_ns = 0
        self._is_trial = False

    def note(self, at_ns: int, took_ns: int, computed_ns: int) -> None:
        """A step of `threads` threads ended at `at_ns`; its own thread's CPU time is the last."""
        if self.threads == 1:
            self._try_one_more(at_ns)
            return
        self._spent_ns += took_ns
        self._computed_ns += computed_ns
        if self._spent_ns < _WINDOW_NS:
            return
        is_crowded = self._computed_ns < _LEAST_SHARE * self._spent_ns
        self._spent_ns = self._computed_ns = 0
        if is_crowded:
            self._shrink(at_ns)
        else:
            if self._is_trial:
                self._is_trial = False
                self._patience_ns = max(_FIRST_PATIENCE_NS, self._patience_ns // 2)
            self._try_one_more(at_ns)

    def _shrink(self, at_ns: int) -> None:
        if self._is_trial:
            self._patience_ns = min(_MOST_PATIENCE_NS, 2 * self._patience_ns)
        self._is_trial = False
        self.threads -= max(1, self.threads // 8)
        self._next_trial_ns = at_ns + self._patience_ns

    def _try_one_more(self, at_ns: int) -> None:
        if self.threads < self._most and at_ns >= self._next_trial_ns:
            self.threads += 1
            self._is_trial = True
            self._spent_ns = self._computed_ns = 0
