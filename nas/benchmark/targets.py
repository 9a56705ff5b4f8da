"""What training's speed is wanted to be, and whether a measurement reaches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas.benchmark.measure import Case

Verdict = Literal["met", "not met", "not applicable here"]

FASTEST = "H100", "H200"
"""Devices that the goals with a rate or with a factor over plain PyTorch are set for."""


@dataclass(frozen=True)
class Target:
    """One goal for one case.

    Attributes:
        what: is compared.
        case: network, size and batch.
        value: measured; None where it was not.
        wanted: the bound, in words.
        verdict: whether it is reached.
    """

    what: str
    case: str
    value: float | None
    wanted: str
    verdict: Verdict


def targets(case: Case, device: str, cores: int) -> list[Target]:
    """Compare a case with every goal.

    Args:
        case: measured.
        device: "cpu", or the name of a GPU.
        cores: that were used.
    """
    on_cpu = device == "cpu"
    fastest = any(name in device for name in FASTEST)
    ratios = {name: spread.median for name, spread in case.ratios.items()}
    # A network's shapes decide whether it is bound by its arithmetic or by launching kernels; hg2 is the former.
    over_eager = 3.0 if case.name == "hg2" else 6.0
    full = case.rates["full"].median if case.rates else None
    later = case.later.median if case.later else None
    over_loop = 2.0 if on_cpu else 10.0
    images = case.name == "hg2" and case.input_size == 256 and fastest

    def at_least(what: str, value: float | None, bound: float, applies: bool = True) -> Target:
        return _goal(what, case, value, f"≥ {bound:,g}", value is not None and value >= bound, applies)

    def at_most(what: str, value: float | None, bound: float, wanted: str) -> Target:
        return _goal(what, case, value, f"≤ {wanted}", value is not None and value <= bound, True)

    return [
        at_least("full / bare", ratios.get("full / bare"), 0.9 if on_cpu else 0.95),
        at_least("bare / plain step", ratios.get("bare / plain step"), over_eager, fastest),
        at_least("full / plain loop", ratios.get("full / plain loop"), over_loop, not on_cpu or cores == 2),
        at_least("full, images/s", full, 2500, images),
        at_most("start-up after the first", later, 2.0, "2 s"),
        at_most("evaluating 3,000 / short trial", case.evaluation_share, 0.05, "5 %"),
    ]


def _goal(what: str, case: Case, value: float | None, wanted: str, reached: bool, applies: bool) -> Target:
    where = f"{case.name} {case.input_size}×{case.input_size} batch {case.batch}"
    verdict: Verdict = "not applicable here" if not applies or value is None else "met" if reached else "not met"
    return Target(what, where, value, wanted, verdict)
