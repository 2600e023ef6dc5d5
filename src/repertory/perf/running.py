"""A law of two coefficients that follows a stream of readings.

Least squares of relative errors, the newest readings counting most; for what is measured all the
time anyway, such as copies and steps.
"""

from repertory.perf.profiles import Law

__all__ = ["RunningLaw"]

_FORGETTING = 0.97
"""What a reading still weighs after the next one: some thirty count, so that a machine that has
slowed down is believed within seconds, and one outlier is outvoted."""
_LEAST_SPREAD = 1e-3
"""Of the sizes, relative to their mean square: below it a slope would be made of noise."""


class RunningLaw:
    """seconds = fixed_s + units * per_unit_s, neither of them negative."""

    def __init__(self, *, begins_at_zero: bool) -> None:
        """What readings of one size alone mean: nothing takes no time, or any size takes this."""
        self.readings = 0
        self._begins_at_zero = begins_at_zero
        self._weight = 0.0
        self._units = 0.0
        self._units_squared = 0.0
        self._seconds = 0.0
        self._products = 0.0

    def note(self, units: float, seconds: float) -> None:
        """`units` took `seconds`."""
        assert seconds > 0.0, f"{units} units took no time"
        self.readings += 1
        weight = 1.0 / (seconds * seconds)
        self._weight = _FORGETTING * self._weight + weight
        self._units = _FORGETTING * self._units + weight * units
        self._units_squared = _FORGETTING * self._units_squared + weight * units * units
        self._seconds = _FORGETTING * self._seconds + weight * seconds
        self._products = _FORGETTING * self._products + weight * units * seconds

    @property
    def law(self) -> Law | None:
        """None before the first reading.

        1. Readings of one size tell a total, not its parts.
        2. What would be negative is zero, and the other part is fitted alone.
        """
        if not self.readings:
            return None
        spread = self._weight * self._units_squared - self._units * self._units
        if spread <= _LEAST_SPREAD * self._weight * self._units_squared:  # 1
            return self._without_fixed() if self._begins_at_zero else self._without_slope()
        per_unit = (self._weight * self._products - self._units * self._seconds) / spread
        fixed = (self._seconds - per_unit * self._units) / self._weight
        if per_unit < 0.0:  # 2
            return self._without_slope()
        if fixed < 0.0:
            return self._without_fixed()
        return Law(fixed, per_unit)

    def _without_fixed(self) -> Law:
        if self._units_squared == 0.0:
            return self._without_slope()
        return Law(0.0, self._products / self._units_squared)

    def _without_slope(self) -> Law:
        return Law(self._seconds / self._weight, 0.0)
