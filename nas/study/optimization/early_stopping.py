"""Multi-objective early stopping: a trial ends when a finished network that costs no more is out of its reach.

Rungs are compared with equal rungs only: gains are those that finished trials showed from this very rung to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Finished:
    """A finished trial: its costs, its final PCKh, and its PCKh at each rung (epoch → PCKh)."""

    number: int
    pckh: float
    params: int
    madds: int
    rungs: Mapping[int, float]


@dataclass(frozen=True)
class StoppingRule:
    """Attributes:
    quantile: of the gains from a rung to the end: how optimistic a running trial is judged.
    least: finished trials needed before any is stopped.
    """

    quantile: float = 0.5
    least: int = 6

    @property
    def _quantile_name(self) -> str:
        return "median" if self.quantile == 0.5 else f"{self.quantile:g} quantile of the"

    def reason(self, epoch: int, pckh: float, params: int, madds: int, finished: Sequence[Finished]) -> str | None:
        """Why a running trial should end now, or None.

        Args:
            epoch: the rung that it reached.
            pckh: its value there.
            params: its cost.
            madds: its cost.
            finished: trials that ran to the end.
        """
        gains = [f.pckh - f.rungs[epoch] for f in finished if epoch in f.rungs]
        if len(gains) < self.least:
            return None
        expected = pckh + float(np.quantile(gains, self.quantile))
        cheaper = [f for f in finished if f.params <= params and f.madds <= madds]
        if not cheaper:
            return None
        best = max(cheaper, key=lambda f: f.pckh)
        if expected >= best.pckh:
            return None
        return (
            f"stopped after epoch {epoch}: {expected:.1f} PCKh expected at the end ({self._quantile_name} gain of "
            f"{len(gains)} finished trials), and trial {best.number} has {best.pckh:.1f} at no more params and MAdds"
        )
