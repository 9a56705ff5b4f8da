"""Targets of training speed, and whether a measurement meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas.benchmark.measure import Case

Verdict = Literal["met", "not met", "not applicable here"]

FASTEST = "H100", "H200"
"""Devices for which there are targets of the absolute rate and of the speed-up over plain PyTorch."""


@dataclass(frozen=True)
class Target:
    """One target of one case, and whether it is met.

    Attributes:
        what: the quantity.
        case: network, size and batch.
        value: measured; None where nothing was measured.
        wanted: the bound, as text.
        verdict: whether the value meets it.
    """

    what: str
    case: str
    value: float | None
    wanted: str
    verdict: Verdict


def targets(case: Case, device: str, cores: int) -> list[Target]:
    """Compare a case with every target.

    Args:
        case: the measurements.
        device: "cpu", or the name of a GPU.
        cores: number of cores used.
    """
    on_cpu = device == "cpu"
    fastest = any(name in device for name in FASTEST)
    ratios = {name: spread.median for name, spread in case.ratios.items()}
    # hg2 is bound by arithmetic, the other networks by kernel launches.
    eager_bound = 3.0 if case.name == "hg2" else 6.0
    full = case.rates["full"].median if case.rates else None
    later = case.later.median if case.later else None
    loop_bound = 2.0 if on_cpu else 10.0
    rate_applies = case.name == "hg2" and case.input_size == 256 and fastest

    def at_least(what: str, value: float | None, bound: float, applies: bool = True) -> Target:
        return _target(what, case, value, f"≥ {bound:,g}", value is not None and value >= bound, applies)

    def at_most(what: str, value: float | None, bound: float, wanted: str) -> Target:
        return _target(what, case, value, f"≤ {wanted}", value is not None and value <= bound, True)

    return [
        at_least("full / bare", ratios.get("full / bare"), 0.9 if on_cpu else 0.95),
        at_least("bare / plain step", ratios.get("bare / plain step"), eager_bound, fastest),
        at_least("full / plain loop", ratios.get("full / plain loop"), loop_bound, not on_cpu or cores == 2),
        at_least("full, images/s", full, 2500, rate_applies),
        at_most("start-up after the first", later, 2.0, "2 s"),
        at_most("evaluating 3,000 / short trial", case.evaluation_share, 0.05, "5 %"),
    ]


def _target(what: str, case: Case, value: float | None, wanted: str, met: bool, applies: bool) -> Target:
    where = f"{case.name} {case.input_size}×{case.input_size} batch {case.batch}"
    verdict: Verdict = "not applicable here" if not applies or value is None else "met" if met else "not met"
    return Target(what, where, value, wanted, verdict)
