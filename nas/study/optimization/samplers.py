"""Who proposes the next network.

:class:`FrontSampler` is made for this problem: of the three objectives only PCKh is unknown, so only PCKh is modelled
(a Gaussian process on the candidate's canonical form and its exact log costs), and a candidate's worth is its expected
improvement of the hypervolume given its known costs (Emmerich et al. 2006; the cost axes being certain, the expectation
is a sum of one-dimensional ones). Candidates over budget or already tried never enter the pool, so none is trained.

Optuna's own samplers stay selectable; they see log costs, and what they propose over budget or twice is drawn again.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.optimize import minimize
from scipy.special import ndtr

from nas.architecture.blocks import block_options
from nas.architecture.cost import Cost
from nas.study.pareto import HypervolumeScale
from nas.study.space.candidate import Candidate
from nas.study.space.search_space import LEVELS, SearchSpace, Value
from nas.study.storage.study_view import StudyView

Floats = NDArray[np.float64]

ALWAYS_USED = {"block", "trunk", "stem", "stem_kernel", "width", "stacks", "depth", "neck", *LEVELS}
"""Choices that have an effect on every network."""


FITTED = 200
"""Observations that the model's length scales are fitted to, at most."""


class NoCandidateLeftError(Exception):
    """Every point that was drawn is over budget or has been tried."""


@dataclass(frozen=True)
class Problem:
    """What a sampler knows before any training.

    Attributes:
        space: the choices.
        candidate: point → canonical candidate.
        cost: candidate → exact cost.
        within: whether a cost is in budget.
        scale: of the hypervolume.
    """

    space: SearchSpace
    candidate: Callable[[Mapping[str, Any]], Candidate]
    cost: Callable[[Candidate], Cost]
    within: Callable[[Cost], bool]
    scale: HypervolumeScale


def evaluated_ids(study: Study, problem: Problem) -> set[str]:
    """Ids of all candidates that are done, running or queued; failed trials are to be tried again."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)
    ids = set()
    for trial in study.get_trials(deepcopy=False, states=states):
        point = trial.params or trial.system_attrs.get("fixed_params", {})
        if set(problem.space.choices) <= set(point):
            ids.add(problem.candidate(point).id)
        elif "given" in trial.user_attrs:  # a network that the space does not hold
            ids.add(Candidate.from_dict(trial.user_attrs["candidate"]).id)
    return ids


def proposal_seed(seed: int, study: Study, trial: FrozenTrial) -> int:
    """The seed of one proposal: that of its place in the study, whoever makes it.

    The place is how many trials were begun or queued before and not handed back: a search that was killed and taken up
    proposes what it would have proposed, and no two workers draw the same numbers.
    """
    place = sum(t.number < trial.number and t.state != TrialState.FAIL for t in study.get_trials(deepcopy=False))
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:4])


def _given(trial: FrozenTrial) -> bool:
    """Whether a trial's network is given, and nothing is to be proposed."""
    return bool(trial.system_attrs.get("fixed_params")) or "given" in trial.user_attrs


def sample_unseen(
    problem: Problem,
    seen: set[str],
    draw: Callable[[], Mapping[str, Value]],
    attempts: int = 2000,
) -> dict[str, Value]:
    """The first draw that is within budget and untried.

    Raises:
        NoCandidateLeftError: none of the attempts was.
    """
    for _ in range(attempts):
        point = dict(draw())
        try:
            candidate = problem.candidate(point)
            good = candidate.id not in seen and problem.within(problem.cost(candidate))
        except ValueError:
            continue  # values that cannot be built together
        if good:
            return point
    raise NoCandidateLeftError


@dataclass(frozen=True)
class _Evidence:
    """One trial as the model sees it: features, PCKh (measured, or extrapolated from a rung), its noise variance."""

    features: Floats
    pckh: float
    variance: float


class EHVISampler(BaseSampler):
    """Proposes the network with the largest expected improvement of the front's hypervolume.

    Args:
        problem: what is known before training.
        seed: of the study; every proposal has a stream of its own (:func:`stream`).
        startup: trials begun before the model is used; they are spread evenly over log costs.
        pool: candidates weighed for each proposal.
    """

    def __init__(self, problem: Problem, seed: int, startup: int = 6, pool: int = 1000) -> None:
        self.problem, self.seed, self.startup, self.pool = problem, seed, startup, pool
        self.rng = random.Random(seed)

    def reseed_rng(self) -> None:
        """Optuna's hook for parallel threads: nothing to do, as threads propose for different places."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space: it is flat."""
        return dict(self.problem.space.choices)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the space (an enqueued trial may lack one): drawn at random."""
        return optuna.samplers.RandomSampler(seed=self.rng.randrange(2**31)).sample_independent(
            study, trial, param_name, param_distribution
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose one point, aware of what other workers are training."""
        if set(search_space) != set(self.problem.space.choices) or _given(trial):
            return {}
        self.rng = random.Random(proposal_seed(self.seed, study, trial))
        seen = evaluated_ids(study, self.problem)
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        done = [t for t in others if t.state == TrialState.COMPLETE]
        modelled = [t for t in done if set(self.problem.space.choices) <= set(t.params)]
        if len(modelled) < 3 or len(seen) < self.startup:
            return self._spread(others, seen)
        return self._improve(others, done, seen)

    def _spread(self, others: Sequence[FrozenTrial], seen: set[str]) -> dict[str, Value]:
        """Of some random points, the one whose costs lie farthest from those tried."""
        taken = [p for t in others if t.state != TrialState.FAIL and (p := self._saved_by(t)) is not None]
        options = []
        for _ in range(16):
            point = sample_unseen(self.problem, seen, lambda: self.problem.space.random(self.rng))
            options.append(point)
        if not taken:
            return options[0]

        def distance(point: Mapping[str, Value]) -> float:
            here = self._saved(point)
            assert here is not None
            return min(math.dist(here, there) for there in taken)

        return max(options, key=distance)

    def _saved(self, point: Mapping[str, Any]) -> tuple[float, float] | None:
        if not set(self.problem.space.choices) <= set(point):
            return None
        cost = self.problem.cost(self.problem.candidate(point))
        return self.problem.scale.saved(cost.params, cost.madds)

    def _saved_by(self, trial: FrozenTrial) -> tuple[float, float] | None:
        if trial.values is not None and len(trial.values) == 3:  # else of another kind of study
            return self.problem.scale.saved(trial.values[1], trial.values[2])
        return self._saved(trial.params)

    def _improve(self, others: Sequence[FrozenTrial], done: Sequence[FrozenTrial], seen: set[str]) -> dict[str, Value]:
        evidence = self._evidence(others, done)
        model = GaussianProcess.fit(
            np.stack([e.features for e in evidence]),
            np.array([e.pckh for e in evidence]),
            np.array([e.variance for e in evidence]),
        )
        running = [
            t.params
            for t in others
            if t.state == TrialState.RUNNING and set(self.problem.space.choices) <= set(t.params)
        ]
        if running:
            # Kriging believer: what is being trained counts as if it came out as expected.
            features = np.stack([self.features(point) for point in running])
            model = model.believing(features)

        points = self._pool(done, seen)
        costs = [self.problem.cost(self.problem.candidate(point)) for point in points]
        saved = np.array([self.problem.scale.saved(c.params, c.madds) for c in costs])
        mean, sd = model.predict(np.stack([self.features(point) for point in points]))
        heights = np.array([t.values[0] for t in done]) / 100
        corners = np.array([self._saved_by(t) for t in done])
        if running:
            expected, _ = model.predict(np.stack([self.features(point) for point in running]))
            heights = np.concatenate([heights, expected / 100])
            corners = np.concatenate([corners, [self._saved(point) or (0.0, 0.0) for point in running]])
        worth = expected_improvement(mean / 100, sd / 100, saved, heights, corners)
        return points[int(np.argmax(worth))]

    def _evidence(self, others: Sequence[FrozenTrial], done: Sequence[FrozenTrial]) -> list[_Evidence]:
        known = set(self.problem.space.choices)
        evidence = [_Evidence(self.features(t.params), t.values[0], 0.0) for t in done if known <= set(t.params)]
        ended: dict[str, list[tuple[float, float]]] = {}
        for trial in done:
            for epoch, value in trial.user_attrs.get("rungs", {}).items():
                ended.setdefault(epoch, []).append((value, trial.values[0]))
        for trial in others:
            rungs = trial.user_attrs.get("rungs", {})
            if trial.state == TrialState.PRUNED and rungs and known <= set(trial.params):
                last = max(rungs, key=int)
                if len(ended.get(last, [])) >= 2:
                    evidence.append(_Evidence(self.features(trial.params), *extrapolated(rungs[last], ended[last])))
        return evidence

    def _pool(self, done: Sequence[FrozenTrial], seen: set[str]) -> list[dict[str, Value]]:
        """Random points and mutations of good ones, each an untried network within budget."""
        space = self.problem.space
        inside = [t for t in done if set(space.choices) <= set(t.params)]
        parents = sorted(inside, key=lambda t: -self._merit(t))[: max(4, len(inside) // 3)]
        pool: dict[str, dict[str, Value]] = {}

        def mutation() -> dict[str, Value]:
            return space.mutate(self.rng.choice(parents).params, self.rng, self.rng.choice((1, 1, 2, 3)))

        for i in range(self.pool):
            draw = mutation if i % 2 else (lambda: space.random(self.rng))
            try:
                point = sample_unseen(self.problem, seen, draw, attempts=50)
            except NoCandidateLeftError:
                continue
            pool[self.problem.candidate(point).id] = point
        if not pool:
            point = sample_unseen(self.problem, seen, lambda: space.random(self.rng))
            pool[self.problem.candidate(point).id] = point
        return list(pool.values())

    def _merit(self, trial: FrozenTrial) -> float:
        saved = self.problem.scale.saved(trial.values[1], trial.values[2])
        return float(trial.values[0]) / 100 * saved[0] * saved[1]

    def features(self, point: Mapping[str, Any]) -> Floats:
        """What the model knows of a candidate: its canonical choices and its costs, each from 0 to 1."""
        candidate = self.problem.candidate(point)
        cost = self.problem.cost(candidate)
        a, losses = candidate.architecture, candidate.losses
        values: list[float] = []
        for name, distribution in self.problem.space.choices.items():
            options = getattr(distribution, "choices", None)
            if options is not None and any(isinstance(o, str | bool) for o in options):
                used = self._used(name, candidate)
                value = self.problem.space.value_in(candidate, name)  # however the point wrote it
                if value not in options:
                    value = point[name]
                values += [float(used and value == option) for option in options]
            elif name != "weight_ratio":
                numbers = options or (distribution.low, distribution.high)  # type: ignore[attr-defined]
                low, high = math.log1p(min(numbers)), math.log1p(max(numbers))
                used = self._used(name, candidate)
                value = None if name in ("stem", "width") else self.problem.space.value_in(candidate, name)
                number = point[name] if value is None else value
                share = (math.log1p(float(number)) - low) / ((high - low) or 1.0)
                values.append(share if used else 0.5)
        last = losses.weights[-1] / a.stacks if losses.weights else 1 / a.stacks
        saved = self.problem.scale.saved(cost.params, cost.madds)
        values += [last, losses.alpha, 2 * saved[0], 2 * saved[1], math.log(cost.layers) / math.log(1000)]
        return np.array(values)

    def _used(self, name: str, candidate: Candidate) -> bool:
        """Whether a choice has any effect on this candidate's network."""
        a = candidate.architecture
        if name in ("junction", "narrow_res", "supervision"):
            return a.stacks > 1
        if name == "reach":
            return a.junction == "dense"
        if name in ("lambda", "perceptual", "alpha"):
            return candidate.losses.alpha < 1
        if name in ALWAYS_USED:
            return True
        return any(name in block_options(block.kind) for block in a.level_blocks())


def extrapolated(value: float, ended: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Final PCKh to be expected of a trial that was stopped, and its variance.

    What is behind at a rung gains more after it, so the finals are a line in the values at the rung; its slope is drawn
    towards 1 where few trials tell.

    Args:
        value: at the rung.
        ended: (value at that rung, final value) of trials that ran to the end, at least two.
    """
    x, y = np.array(ended, dtype=np.float64).T
    spread = float(((x - x.mean()) ** 2).sum())
    prior = 2 * float(x.var()) + 1e-9  # as if two trials more had told a slope of 1
    slope = (float(((x - x.mean()) * (y - y.mean())).sum()) + prior) / (spread + prior)
    residuals = y - y.mean() - slope * (x - x.mean())
    freedom = max(1, len(x) - 2)
    leverage = 1 / len(x) + (value - float(x.mean())) ** 2 / (spread + prior)
    return float(y.mean() + slope * (value - x.mean())), float((residuals**2).sum() / freedom * (1 + leverage))


def expected_improvement(mean: Floats, sd: Floats, saved: Floats, heights: Floats, corners: Floats) -> Floats:
    """Expected hypervolume gain of candidates whose costs are known and whose PCKh is normal.

    A candidate that reaches height y adds ∫₀ʸ A(t) dt, A(t) being the part of its cost rectangle that no point of
    height t or more covers: constant between the heights of the points, so the expectation is a sum of differences of
    E[(Y − t)⁺].

    Args:
        mean: (n,) of PCKh / 100.
        sd: (n,) of PCKh / 100.
        saved: (n, 2) costs saved, 0 to 1.
        heights: (m,) PCKh / 100 of the finished points.
        corners: (m, 2) their costs saved.

    Returns:
        (n,) expected gains.
    """
    kept = [i for i in range(len(heights)) if not is_dominated(i, heights, corners)]
    heights, corners = heights[kept], corners[kept]
    order = np.argsort(heights)
    heights, corners = np.maximum(heights[order], 0), corners[order]
    levels = np.unique(np.concatenate([[0.0], heights]))
    z = (mean[:, None] - levels) / sd[:, None]
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    above = sd[:, None] * (z * ndtr(z) + density)  # E[(Y − level)⁺]
    pieces = above - np.concatenate([above[:, 1:], np.zeros((len(mean), 1))], axis=1)
    gains = np.zeros(len(mean))
    rectangles = saved.prod(axis=1)
    for k, level in enumerate(levels):
        covering = corners[heights > level] if k else corners[heights > 0]
        gains += pieces[:, k] * (rectangles - dominated_area(saved, covering))
    return gains


def dominated_area(saved: Floats, corners: Floats) -> Floats:
    """How much of each candidate's rectangle from (0, 0) the rectangles of some corners cover together.

    Args:
        saved: (n, 2) the candidates' corners.
        corners: (m, 2) the others'.

    Returns:
        (n,) areas.
    """
    # A staircase: from right to left, each step higher than all before.
    steps = corners[np.lexsort((-corners[:, 1], -corners[:, 0]))]
    highest = np.maximum.accumulate(steps[:, 1])
    steps = steps[np.concatenate([[True], highest[1:] > highest[:-1]])] if len(steps) else steps
    left = np.append(steps[1:, 0], 0.0) if len(steps) else steps[:, 0]
    widths = np.clip(np.minimum(saved[:, :1], steps[:, 0]) - left, 0.0, None)
    return np.asarray((widths * np.minimum(saved[:, 1:], steps[:, 1])).sum(axis=1), np.float64)


def is_dominated(i: int, heights: Floats, corners: Floats) -> bool:
    """Whether another point is at least as good as point i in everything (of equals, the first stays)."""
    no_worse = (heights >= heights[i]) & (corners >= corners[i]).all(axis=1)
    equal = (heights == heights[i]) & (corners == corners[i]).all(axis=1)
    earlier = np.arange(len(heights)) < i
    return bool((no_worse & (~equal | earlier)).any())


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """Matérn 5/2 with a length scale per feature, fitted by maximum a posteriori; float64 on the CPU."""

    x: torch.Tensor
    y: torch.Tensor
    noise: torch.Tensor
    lengths: torch.Tensor
    signal: torch.Tensor
    centre: float
    unit: float

    @classmethod
    def fit(cls, x: Floats, y: Floats, variance: Floats, steps: int = 60) -> GaussianProcess:
        """Fit to n observations: length scales, signal and noise to at most :data:`FITTED` of them, evenly chosen.

        Args:
            x: (n, d) features.
            y: (n,) values.
            variance: (n,) known extra noise variance of each value.
            steps: of L-BFGS-B.
        """
        centre, unit = float(y.mean()), float(y.std()) or 1.0
        all_features = torch.from_numpy(np.asarray(x, dtype=np.float64))
        all_values = torch.from_numpy((np.asarray(y, dtype=np.float64) - centre) / unit)
        all_extra = torch.from_numpy(np.asarray(variance, dtype=np.float64) / unit**2)
        # Each step takes time with the cube of their number; predicting, from all of them, does it once.
        chosen = np.linspace(0, len(y) - 1, min(len(y), FITTED)).round().astype(int)
        features, values, extra = all_features[chosen], all_values[chosen], all_extra[chosen]
        d = features.shape[1]
        # Priors: length scales around the root of the dimension, signal around 1, noise around a twentieth of it.
        middle = torch.full((d + 2,), 0.5 * math.log(d), dtype=torch.float64)
        middle[d], middle[d + 1] = 0.0, math.log(0.05)

        def loss(at: Floats) -> tuple[float, Floats]:
            raw = torch.from_numpy(at.copy()).requires_grad_(True)
            covariance = _matern(features, features, raw[:d].exp(), raw[d].exp())
            covariance = covariance + torch.diag(raw[d + 1].exp() + extra + 1e-6)
            factor = torch.linalg.cholesky(covariance)
            weights = torch.cholesky_solve(values.unsqueeze(-1), factor).squeeze(-1)
            misfit = 0.5 * (values @ weights) + factor.diagonal().log().sum()
            whole = misfit + 0.5 * (((raw - middle) / 0.8) ** 2).sum()
            whole.backward()
            assert raw.grad is not None
            return float(whole.detach()), raw.grad.numpy()

        # Five standard deviations of the priors: within them the covariance has a Cholesky factor.
        bounds = [(float(m) - 4, float(m) + 4) for m in middle]
        found = minimize(loss, middle.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
        fitted = torch.from_numpy(np.asarray(found.x, dtype=np.float64))
        noise = fitted[d + 1].exp() + all_extra + 1e-6
        return cls(all_features, all_values, noise, fitted[:d].exp(), fitted[d].exp(), centre, unit)

    def believing(self, x: Floats) -> GaussianProcess:
        """The same model with further points observed at their expected values."""
        mean, _ = self.predict(x)
        return GaussianProcess(
            torch.cat([self.x, torch.from_numpy(x)]),
            torch.cat([self.y, torch.from_numpy((mean - self.centre) / self.unit)]),
            torch.cat([self.noise, self.noise.min().expand(len(x))]),
            self.lengths,
            self.signal,
            self.centre,
            self.unit,
        )

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, (n,) each, of the noise-free value at (n, d) features."""
        new = torch.from_numpy(np.asarray(x, dtype=np.float64))
        covariance = _matern(self.x, self.x, self.lengths, self.signal) + torch.diag(self.noise)
        factor = torch.linalg.cholesky(covariance)
        cross = _matern(new, self.x, self.lengths, self.signal)
        mean = cross @ torch.cholesky_solve(self.y.unsqueeze(-1), factor).squeeze(-1)
        reduced = torch.linalg.solve_triangular(factor, cross.T, upper=False)
        variance = (self.signal - reduced.square().sum(dim=0)).clamp_min(1e-8)
        return (mean * self.unit + self.centre).numpy(), (variance.sqrt() * self.unit).numpy()


def _matern(a: torch.Tensor, b: torch.Tensor, lengths: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    a, b = a / lengths, b / lengths
    squares = a.square().sum(-1).unsqueeze(1) + b.square().sum(-1) - 2 * (a @ b.T)
    r = (5 * squares.clamp_min(0) + 1e-12).sqrt()
    out: torch.Tensor = signal * (1 + r + r.square() / 3) * (-r).exp()
    return out


class RejectionSampler(BaseSampler):
    """One of Optuna's samplers, whose proposals over budget or already tried are drawn again.

    The inner sampler sees log10 costs (on raw costs nothing beats random at 50 trials) while the study stores raw ones.

    Args:
        make: the inner sampler with a seed; made anew for each proposal.
        problem: what is known before training.
        seed: of the study.
        attempts: proposals of the inner sampler before a random point is taken.
    """

    def __init__(self, make: Callable[[int], BaseSampler], problem: Problem, seed: int, attempts: int = 8) -> None:
        self.make, self.problem, self.seed, self.attempts = make, problem, seed, attempts
        self.inner = make(seed)
        self.rng = random.Random(seed)

    def reseed_rng(self) -> None:
        """Optuna's hook for parallel threads: nothing to do, as threads propose for different places."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space: it is flat."""
        return dict(self.problem.space.choices)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the space."""
        return self.inner.sample_independent(_log_costs(study), trial, param_name, param_distribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The inner sampler's proposal; after some refused ones, a random point."""
        if set(search_space) != set(self.problem.space.choices) or _given(trial):
            return {}
        view = _log_costs(study)
        seen = evaluated_ids(study, self.problem)
        only = self.problem.space.random(self.rng)  # for choices of a single value

        def propose() -> dict[str, Any]:
            modelled = self.inner.infer_relative_search_space(view, trial)
            point = self.inner.sample_relative(view, trial, modelled)
            for name, distribution in search_space.items():
                if distribution.single():  # nothing to choose; TPE would divide by the range
                    point[name] = only[name]
                elif name not in point:
                    point[name] = self.inner.sample_independent(view, trial, name, distribution)
            return point

        try:
            return sample_unseen(self.problem, seen, propose, self.attempts)
        except NoCandidateLeftError:
            return sample_unseen(self.problem, seen, lambda: self.problem.space.random(self.rng))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin the stream of this proposal."""
        seed = proposal_seed(self.seed, study, trial)
        self.inner, self.rng = self.make(seed), random.Random(seed)
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Passed on."""
        self.inner.after_trial(study, trial, state, values)


def _log_costs(study: Study) -> Any:
    """The study with log10 costs, as Optuna's samplers read it.

    Given networks that the space does not hold are left out: a trial without parameters leaves these samplers, which
    model the parameters that all trials share, with none.
    """
    return StudyView(study, _inside)


def _inside(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [_with_log_costs(t) for t in trials if t.params or "given" not in t.user_attrs]


def _with_log_costs(trial: FrozenTrial) -> FrozenTrial:
    if trial.values is None:
        return trial
    seen = copy(trial)
    seen.values = [trial.values[0], *(math.log10(max(v, 1)) for v in trial.values[1:])]
    return seen


def make_sampler(name: str, problem: Problem, seed: int, startup: int | None = None, pool: int = 1000) -> BaseSampler:
    """The sampler of a study file: "front", or Optuna's "tpe", "nsga2", "gp", "random".

    Args:
        name: which.
        problem: what is known before training.
        seed: of the study.
        startup: trials before a model is used, "nsga2"'s population; by default 6 for "front", and 10, as Optuna has
            it, for the others.
        pool: candidates that "front" weighs for each proposal.
    """
    if name == "front":
        return EHVISampler(problem, seed, startup or 6, pool)
    first = startup or 10
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=first, constant_liar=True
        ),
        "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, first)),
        "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=first),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    # "gp" takes seconds for each draw and, refused, mostly proposes the like again.
    return RejectionSampler(makers[name], problem, seed, attempts=2 if name == "gp" else 8)
