"""Searches replayed on recorded results: any sampler with any stopping rule, over many seeds, without training.

A record is a table of networks that were trained to the end, with their PCKh at several rungs. In a replay a sampler
proposes from the whole space, as in a search; the recorded network nearest to its proposal that has not been tried is
"trained" by looking it up, rung by rung, and told under its own parameters. So all samplers meet the same landscape,
real noise included, under the same handicap.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState, create_trial

from nas.architecture.cost import Cost, network_cost
from nas.errors import UserError
from nas.study.analysis.seed_noise import repeats_of
from nas.study.experiment import Experiment
from nas.study.optimization.early_stopping import Finished, StoppingRule
from nas.study.optimization.features import features
from nas.study.optimization.optuna_samplers import make_sampler
from nas.study.optimization.problem import Problem
from nas.study.pareto import HypervolumeScale, Point, hypervolume
from nas.study.space.candidate import Candidate
from nas.study.space.search_space import SearchSpace
from nas.study.storage.backend import DIRECTIONS
from nas.study.storage.study_store import StudyStore

Floats = NDArray[np.float64]
FORMAT = "hourglass-nas record 1"


@dataclass(frozen=True)
class BenchmarkRow:
    """A recorded network.

    Attributes:
        point: its parameters in the space.
        pckh: at the end of the schedule.
        params: exact.
        madds: exact.
        layers: exact.
        rungs: epoch → PCKh; the last epoch is the end.
        repeats: PCKh at the end under other seeds.
    """

    point: Mapping[str, Any]
    pckh: float
    params: int
    madds: int
    layers: int
    rungs: Mapping[int, float]
    repeats: tuple[float, ...] = ()


@dataclass(frozen=True)
class BenchmarkTable:
    """Recorded results of one study.

    Attributes:
        about: what it is and how it was made.
        space: path of the space file, or its name in search_spaces/.
        space_hash: of its content.
        width_scale: the study's.
        input_size: H = W of the images.
        joints: J.
        epochs: of the schedule.
        images: of the schedule.
        scale: of the hypervolume.
        rows: the networks.
    """

    about: Mapping[str, str]
    space: str
    space_hash: str
    width_scale: float
    input_size: int
    joints: int
    epochs: int
    images: int
    scale: HypervolumeScale
    rows: tuple[BenchmarkRow, ...]

    @classmethod
    def of(cls, experiment: Experiment, study: optuna.Study, about: Mapping[str, str]) -> BenchmarkTable:
        """The finished trials of a study; those of its companion ``<name>-repeats`` are their repeats.

        Raises:
            UserError: nothing has finished with parameters of the space.
        """
        repeats = repeats_of(experiment, study)
        rows = []
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if not set(experiment.space.choices) <= set(trial.params):
                continue
            stored = trial.user_attrs.get("cost")
            cost = stored if stored and "layers" in stored else vars(experiment.cost(experiment.candidate_of(trial)))
            rungs = {int(epoch): round(value, 3) for epoch, value in trial.user_attrs.get("rungs", {}).items()}
            again = [round(value, 3) for value in repeats.get(experiment.candidate_of(trial).id, [])]
            rows.append(
                BenchmarkRow(dict(trial.params), round(trial.values[0], 3), **cost, rungs=rungs, repeats=tuple(again))
            )
        if not rows:
            raise UserError(f"study {experiment.config.name}: no finished trial to replay; search first")
        schedule = experiment.config.short_schedule()
        return cls(
            about,
            experiment.config.space,
            experiment.space.hash,
            experiment.config.width_scale,
            experiment.config.data.input_size,
            experiment.joints,
            schedule.epochs,
            schedule.images,
            experiment.scale,
            tuple(rows),
        )

    def to_json(self) -> str:
        """A text with a line for each network, that :meth:`read` reads."""
        head = {"format": FORMAT, **{k: v for k, v in asdict(self).items() if k != "rows"}}
        lines = [json.dumps(asdict(row), ensure_ascii=False) for row in self.rows]
        return json.dumps(head, ensure_ascii=False)[:-1] + ', "rows": [\n' + ",\n".join(lines) + "\n]}\n"

    @classmethod
    def read(cls, path: Path) -> BenchmarkTable:
        """Read a record.

        Raises:
            UserError: the file is missing, damaged or something else.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8-sig"))
            if raw.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            rows = tuple(
                BenchmarkRow(
                    **{
                        **row,
                        "rungs": {int(epoch): float(value) for epoch, value in row["rungs"].items()},
                        "repeats": tuple(row["repeats"]),
                    }
                )
                for row in raw.pop("rows")
            )
            scale = HypervolumeScale(**{name: (int(low), int(high)) for name, (low, high) in raw.pop("scale").items()})
            record = cls(**raw, scale=scale, rows=rows)
        except OSError as error:
            raise UserError(f"--record {path}: cannot be read: {error.strerror}; give the path of a record") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"--record {path}: not a record of nas.replay ({error}); make it again with --save"
            ) from error
        if len(record.rows) < 2:
            raise UserError(f"--record {path}: a record of {len(record.rows)} networks cannot be replayed")
        return record

    @property
    def noise(self) -> float | None:
        """Standard deviation of PCKh between seeds, pooled over the networks that were repeated; None without any."""
        spreads = [(float(np.var([r.pckh, *r.repeats], ddof=1)), len(r.repeats)) for r in self.rows if r.repeats]
        if not spreads:
            return None
        return float(np.sqrt(sum(variance * n for variance, n in spreads) / sum(n for _, n in spreads)))


class StoppingPolicy(Protocol):
    """When a replayed trial ends."""

    def stops(self, epoch: int, pckh: float, row: BenchmarkRow, begun: Sequence[tuple[BenchmarkRow, int]]) -> bool:
        """Whether a network ends at a rung.

        Args:
            epoch: the rung.
            pckh: there.
            row: the network.
            begun: earlier networks, each with the last epoch that it reached.
        """


@dataclass(frozen=True)
class NeverStop:
    """Everything is trained to the end."""

    def stops(self, epoch: int, pckh: float, row: BenchmarkRow, begun: Sequence[tuple[BenchmarkRow, int]]) -> bool:
        """No."""
        return False


@dataclass(frozen=True)
class ReachabilityStopping:
    """The rule of :mod:`nas.study.optimization.early_stopping`."""

    rule: StoppingRule
    rungs: tuple[int, ...]
    epochs: int

    def stops(self, epoch: int, pckh: float, row: BenchmarkRow, begun: Sequence[tuple[BenchmarkRow, int]]) -> bool:
        """Whether a finished network that costs no more is out of reach."""
        if epoch not in self.rungs:
            return False
        ended = [
            Finished(i, other.pckh, other.params, other.madds, other.rungs)
            for i, (other, last) in enumerate(begun)
            if last == self.epochs
        ]
        return self.rule.reason(epoch, pckh, row.params, row.madds, ended) is not None


@dataclass(frozen=True)
class SuccessiveHalving:
    """Asynchronous successive halving by non-dominated rank (Li et al. 2020; ranks as in NSGA-II).

    At a rung a network goes on if it is among the best 1/``eta`` of all that reached it, by how many fronts of
    (PCKh there, params, MAdds) have to be taken away before it is on one.
    """

    rungs: tuple[int, ...]
    eta: float = 2.0

    def stops(self, epoch: int, pckh: float, row: BenchmarkRow, begun: Sequence[tuple[BenchmarkRow, int]]) -> bool:
        """Whether too many others are better."""
        if epoch not in self.rungs:
            return False
        there = [(other.rungs[epoch], other.params, other.madds) for other, last in begun if last >= epoch]
        ranks = _ranks(np.array([*there, (pckh, row.params, row.madds)], dtype=np.float64))
        return bool((ranks[:-1] < ranks[-1]).sum() >= max(1.0, len(ranks) / self.eta))


def _ranks(values: Floats) -> NDArray[np.int64]:
    """Number of fronts before each one's own. values: (n, 3), the first to be large, the others small."""
    worth = values * np.array([1.0, -1.0, -1.0])
    beats = (worth[:, None] >= worth[None]).all(-1) & (worth[:, None] > worth[None]).any(-1)
    ranks = np.full(len(values), -1)
    rank = 0
    while (ranks < 0).any():
        left = ranks < 0
        ranks[left & ~(beats & left[:, None]).any(0)] = rank
        rank += 1
    return ranks


@dataclass(frozen=True)
class Replayed:
    """One replay: after each trial, what had been reached.

    Attributes:
        hypervolume: of the networks trained to the end, after each trial.
        images: number trained on, in all.
        seconds: of each proposal.
    """

    hypervolume: Floats
    images: Floats
    seconds: Floats


class TabularBenchmark:
    """A record made ready to be searched.

    Args:
        record: what was trained.
        space: the one that it was drawn from.

    Raises:
        UserError: the space is not the one that was recorded.
    """

    def __init__(self, record: BenchmarkTable, space: SearchSpace) -> None:
        if space.hash != record.space_hash:
            raise UserError(
                f"{space.path} has changed since the record was made (hash {space.hash}, recorded "
                f"{record.space_hash}); restore it, or record again"
            )
        self.record, self.space = record, space

    @cached_property
    def problem(self) -> Problem:
        """What samplers know."""

        @lru_cache(maxsize=100_000)
        def from_items(items: tuple[tuple[str, Any], ...]) -> Candidate:
            return self.space.candidate(dict(items), self.record.width_scale)

        known: dict[str, Cost] = {}
        size = (self.record.input_size, self.record.input_size)

        def cost(candidate: Candidate) -> Cost:
            if candidate.id not in known:
                known[candidate.id] = network_cost(candidate.architecture, self.record.joints, size)
            return known[candidate.id]

        most = max(row.layers for row in self.record.rows)
        return Problem(
            space=self.space,
            candidate=lambda point: from_items(tuple((name, point[name]) for name in self.space.choices)),
            cost=cost,
            within=lambda c: c.layers <= most,
            scale=self.record.scale,
        )

    @cached_property
    def features(self) -> Floats:
        """(rows, d): where each recorded network lies, for distances."""
        return np.stack([features(self.problem, row.point) for row in self.record.rows])

    def replay(self, sampler: str, stopping: StoppingPolicy, seed: int, trials: int) -> Replayed:
        """Search the record once.

        Args:
            sampler: "front", "tpe", "nsga2", "gp" or "random".
            stopping: when trials end early.
            seed: of the sampler.
            trials: at most as many as there are rows.
        """
        rows, recorded = self.record.rows, self.features
        study = optuna.create_study(
            directions=list(DIRECTIONS.values()), sampler=make_sampler(sampler, self.problem, seed)
        )
        left = np.ones(len(rows), dtype=bool)
        begun: list[tuple[BenchmarkRow, int]] = []
        finished: list[Point] = []
        volumes, images, seconds = [], [], []
        spent, volume = 0.0, 0.0
        each = self.record.images / self.record.epochs
        for number in range(min(trials, len(rows))):
            began = time.perf_counter()
            asked = study.ask(dict(self.space.choices))
            seconds.append(time.perf_counter() - began)
            wanted = features(self.problem, asked.params)
            attributes = StudyStore(study).read_trial(asked).system_attrs
            study.tell(asked, state=TrialState.FAIL)  # samplers do not look at these
            distances = np.where(left, ((recorded - wanted) ** 2).sum(-1), np.inf)
            index = int(np.argmin(distances))
            left[index] = False
            row = rows[index]
            last = next(
                (e for e in sorted(row.rungs)[:-1] if stopping.stops(e, row.rungs[e], row, begun)), self.record.epochs
            )
            begun.append((row, last))
            spent += last * each
            seen = {str(epoch): value for epoch, value in row.rungs.items() if epoch <= last}
            told: dict[str, Any] = {
                "params": dict(row.point),
                "distributions": dict(self.space.choices),
                "system_attrs": attributes,
                "user_attrs": {"rungs": seen},
            }
            if last == self.record.epochs:
                study.add_trial(create_trial(values=[row.pckh, row.params, row.madds], **told))
                finished.append(Point(number, row.pckh, row.params, row.madds))
                volume = hypervolume(finished, self.record.scale)
            else:
                study.add_trial(create_trial(state=TrialState.PRUNED, **told))
            volumes.append(volume)
            images.append(spent)
        return Replayed(np.array(volumes), np.array(images), np.array(seconds))


STOPPINGS = ("never", "reach", "halving")


def stopping_named(name: str, record: BenchmarkTable, quantile: float = 0.5) -> StoppingPolicy:
    """A stopping rule at all rungs of a record.

    Args:
        name: one of :data:`STOPPINGS`.
        record: to be replayed.
        quantile: of the gains that "reach" hopes for.
    """
    rungs = tuple(sorted({epoch for row in record.rows for epoch in row.rungs} - {record.epochs}))
    if name == "reach":
        return ReachabilityStopping(StoppingRule(quantile), rungs, record.epochs)
    if name == "halving":
        return SuccessiveHalving(rungs)
    assert name == "never", name
    return NeverStop()
