"""What moves and steps cost: laws with two coefficients, priors for hardware never measured.

A `Profile` holds one law per kind of work for one model on one node.  `prior_profile` states it
for a machine that nobody has measured; `repertory.perf.costs` corrects it by real transitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from repertory.domain.ladder import Rung
from repertory.domain.specs import ModelSpec, WeightsForm

__all__ = ["Law", "Profile", "prior_profile"]


@dataclass(frozen=True, slots=True)
class Law:
    """seconds = fixed_s + units * per_unit_s."""

    fixed_s: float
    per_unit_s: float

    def seconds(self, units: float) -> float:
        return self.fixed_s + units * self.per_unit_s


@dataclass(frozen=True, slots=True)
class Profile:
    """The costs of one model on one node."""

    load: Mapping[tuple[WeightsForm, Rung], Law]
    """Per byte of weights, by form and by where the bytes come from."""
    stage: Law
    """Per byte of weights."""
    activate: Law
    """Per byte of KV memory."""
    move_kv: Law
    """Per byte of KV memory carried along in a resize."""
    deactivate_s: float
    unload_s: float
    drop_s: float
    prefill: Mapping[WeightsForm, Law]
    """One chunk, per prompt token."""
    decode: Mapping[WeightsForm, Law]
    """One step, per sequence."""
    host_pace: float = 1.0
    """Seconds of a layer left on the node's CPU to its seconds on the device; 1: the device is
    the CPU.  A step of f of the layers takes f + (1 - f) * host_pace of a whole one (Yildiz)."""


def prior_profile(spec: ModelSpec) -> Profile:
    """A stated guess for a CPU: two cores with AVX-512, measured in November 2026.

    Loads: 258 MiB in 102 ms cold and 28 ms warm; 603 MiB with repacking 263 ms warm; KV memory
    1 GiB in 500 ms, and three warm-up tokens before it opens (9 ms for a 50M, 36-55 for a 300M,
    119 for a 1.1B); decode of 258 MiB 6.6 ms at batch 1 and 28.8 ms at batch 8; prefill 674
    tokens/s; a plain q4_0 prefills at 0.44 and decodes at 0.7 of the repacked speed.
    """
    weights = spec.weights_bytes
    repack_s = spec.repacked_bytes * 4.0e-10
    plain_cold, plain_warm = Law(0.020, 3.1e-10), Law(0.010, 7.0e-11)
    slow = 2.3 if spec.repacked_bytes else 1.0
    slow_step = 1.4 if spec.repacked_bytes else 1.0
    return Profile(
        load={
            (WeightsForm.PLAIN, Rung.DISK): plain_cold,
            (WeightsForm.PLAIN, Rung.HOST): plain_warm,
            (WeightsForm.REPACKED, Rung.DISK): Law(0.020 + repack_s, 3.1e-10),
            (WeightsForm.REPACKED, Rung.HOST): Law(0.010 + repack_s, 7.0e-11),
        },
        stage=Law(0.002, 2.9e-10),
        activate=Law(0.008 + weights * 1.5e-10, 4.7e-10),
        move_kv=Law(0.001, 1.1e-10),
        deactivate_s=0.005,
        unload_s=0.010,
        drop_s=0.002,
        prefill={
            WeightsForm.PLAIN: Law(0.0005, weights * 5.5e-12 * slow),
            WeightsForm.REPACKED: Law(0.0005, weights * 5.5e-12),
        },
        decode={
            WeightsForm.PLAIN: Law(weights * 1.25e-11 * slow_step, weights * 1.2e-11 * slow_step),
            WeightsForm.REPACKED: Law(weights * 1.25e-11, weights * 1.2e-11),
        },
    )
