"""Which choices matter for PCKh once params and MAdds are held fixed, and by how much.

PCKh follows cost: a choice that makes networks larger looks good for that alone. So each choice is judged beside a
smooth function of both log costs: does knowing its value tell more of PCKh than the costs do, and more than chance?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import TrialState

from nas.study.analysis.seed_noise import mean_points
from nas.study.experiment import Experiment
from nas.study.space.choices import Value, members
from nas.study.space.search_space import SearchSpace

LEAST = 4
"""Networks that a value of a choice needs to be judged."""
SURE = 0.05
"""A choice is called more than noise where chance would show as much, among all choices, less often than this."""
BINS = 3
"""Equal parts that a range with more values than :data:`MOST_VALUES` is judged in."""
MOST_VALUES = 12
_PERMUTATIONS = 4000
_DRAWS = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What one value of a choice adds to PCKh at equal cost.

    Attributes:
        value: of the choice, as text.
        networks: that have it.
        mean: PCKh above the average over the choice's values.
        low: of the 95 % interval.
        high: of the 95 % interval.
    """

    value: str
    networks: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Importance:
    """What one choice tells of PCKh at equal cost.

    Attributes:
        name: of the choice.
        networks: that were judged.
        share: of the variance that costs leave, explained beyond chance; may be below 0 where there is nothing.
        noise: the share that chance alone reaches in one of twenty relabellings.
        chance: probability that nothing but chance explains as much, corrected for the number of choices.
        effects: of its values, the best first.
    """

    name: str
    networks: int
    share: float
    noise: float
    chance: float
    effects: tuple[Effect, ...]

    @property
    def matters(self) -> bool:
        """Whether it is more than noise."""
        return self.chance < SURE


def importance_of(experiment: Experiment, study: Study) -> list[Importance]:
    """The choices of a study's space that can be judged, those that matter first, then by share.

    A choice is judged over the finished networks that it makes a difference to: the reach of dense junctions over those
    that have them. Networks that are no point of the space do not count.
    """
    points = {p.number: p for p in mean_points(experiment, study)}
    rows = [
        (t.params, points[t.number])
        for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if set(experiment.space.choices) <= set(t.params)
    ]
    used = [active(experiment.space, params) for params, _ in rows]
    pckh = np.array([p.pckh for _, p in rows], dtype=np.float64)
    costs = np.array([(p.params, p.madds) for _, p in rows], dtype=np.float64).reshape(-1, 2)
    columns = {
        name: [params[name] if name in inside else None for (params, _), inside in zip(rows, used, strict=True)]
        for name in experiment.space.choices
    }
    return judge(pckh, costs, columns)


def active(space: SearchSpace, point: Mapping[str, Any]) -> set[str]:
    """The choices that make a difference to a point's candidate: another value would give another one."""
    unlimited = replace(space, limits={})
    rng = Random(0)
    own = unlimited.candidate(point)
    found = set()
    for name, distribution in space.choices.items():
        others = members(distribution) or [unlimited.random(rng)[name] for _ in range(3)]
        for other in others:
            if other == point[name]:
                continue
            try:
                different = unlimited.candidate({**point, name: other}) != own
            except ValueError:
                continue  # cannot be built: tells nothing
            if different:
                found.add(name)
                break
    return found


def judge(pckh: Floats, costs: Floats, columns: Mapping[str, Sequence[Value | None]]) -> list[Importance]:
    """Judge each choice.

    Args:
        pckh: (n,).
        costs: (n, 2) params and MAdds.
        columns: choice → n values, None where it makes no difference to the network.
    """
    found = [one for name, values in columns.items() if (one := _judge(name, pckh, costs, values)) is not None]
    # Holm: the k-th least of m chances is multiplied by m - k.
    corrected, highest = [], 0.0
    for place, one in enumerate(sorted(found, key=lambda i: i.chance)):
        highest = max(highest, min(1.0, one.chance * (len(found) - place)))
        corrected.append(replace(one, chance=highest))
    return sorted(corrected, key=lambda i: (not i.matters, -i.share, i.name))


def _judge(name: str, pckh: Floats, costs: Floats, values: Sequence[Value | None]) -> Importance | None:
    labels = _labels(values)
    counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
    kept = [label for label, count in counts.items() if label is not None and count >= LEAST]
    rows = np.array([label in kept for label in labels])
    n = int(rows.sum())
    if len(kept) < 2:
        return None
    y = pckh[rows]
    base = _cost_terms(costs[rows])
    of = np.array([kept.index(label) for label in labels if label in kept])
    dummies = np.eye(len(kept))[of]  # (n, values)
    q = _basis(base)
    own = _basis(dummies - q @ (q.T @ dummies))
    plain = n - int(q.shape[1])
    freedom = plain - int(own.shape[1])
    left = y - q @ (q.T @ y)
    total = float(left @ left)
    if own.shape[1] == 0 or freedom < LEAST or total < 1e-9:
        return None  # costs tell the choice, or there are too few networks
    explained = float(((own.T @ left) ** 2).sum())

    def adjusted(ratio: float) -> float:
        return 1 - (1 - ratio) * plain / freedom

    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(left, (_PERMUTATIONS, 1)), axis=1).T  # (n, draws)
    by_chance = ((own.T @ shuffled) ** 2).sum(axis=0)
    remains = (shuffled**2).sum(axis=0) - ((q.T @ shuffled) ** 2).sum(axis=0)
    ratios = by_chance / remains
    chance = (1 + int((ratios >= explained / total - 1e-12).sum())) / (1 + _PERMUTATIONS)
    share, noise = adjusted(explained / total), adjusted(float(np.quantile(ratios, 0.95)))

    design = np.hstack([base[:, 1:], dummies])  # the values' own levels instead of a constant
    weights = np.vstack([np.ones(n), rng.exponential(size=(_DRAWS, n))])
    share_of = dummies.mean(axis=0)
    levels = _fits(design, y, weights)[:, -len(kept) :]
    relative = levels - (levels @ share_of)[:, None]
    effects = []
    for place, label in enumerate(kept):
        count = counts[label]
        mean = float(relative[0, place])
        low, high = np.percentile(relative[1:, place], (2.5, 97.5)) - mean
        # A bootstrap of few is too narrow.
        wider = math.sqrt(n / max(1, freedom) * count / (count - 1))
        effects.append(Effect(str(label), count, mean, mean + wider * float(low), mean + wider * float(high)))
    return Importance(name, n, share, noise, chance, tuple(sorted(effects, key=lambda e: -e.mean)))


def _labels(values: Sequence[Value | None]) -> list[str | None]:
    """Values as texts; those of a range with many values by equal parts."""
    there = sorted({v for v in values if isinstance(v, int | float) and not isinstance(v, bool)})
    if len(there) > MOST_VALUES:
        numbers = [v for v in values if isinstance(v, int | float)]
        edges = np.quantile(numbers, np.linspace(0, 1, BINS + 1))
        names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        return [
            None if v is None else names[min(BINS - 1, int(np.searchsorted(edges[1:-1], float(v), side="left")))]
            for v in values
        ]
    return [None if v is None else shown(v) for v in values]


def shown(value: object) -> str:
    """A value of a choice as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cost_terms(costs: Floats) -> Floats:
    """(n, 6): a constant, both log costs, their squares and product."""
    logs = np.log(costs)
    spread = logs.std(axis=0)
    x = (logs - logs.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    terms = np.column_stack([np.ones(len(x)), x, x**2, x[:, 0] * x[:, 1]])
    return terms if len(x) >= 5 * terms.shape[1] else terms[:, :3]  # few networks bear straight lines only


def _basis(columns: Floats) -> Floats:
    """An orthonormal basis of what columns span, (n, rank)."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u[:, s > 1e-8 * max(1.0, s[0] if len(s) else 0.0)])


def _fits(design: Floats, y: Floats, weights: Floats) -> Floats:
    """Weighted least squares, one fit for each row of weights: (draws, columns)."""
    n, p = design.shape
    squares = (weights @ np.einsum("ni,nj->nij", design, design).reshape(n, p * p)).reshape(-1, p, p)
    # A trace of ridge: columns may depend on each other.
    squares += 1e-6 * np.trace(squares, axis1=1, axis2=2)[:, None, None] / p * np.eye(p)
    return np.asarray(np.linalg.solve(squares, ((weights * y) @ design)[:, :, None])[:, :, 0])
