"""How far a study's short schedule can be trusted: do networks rank the same after a longer one?

A spread of architectures over the space is trained under the study's schedule and under one several times longer, both
annealed fully, in a companion study ``<name>-calibration`` of the same storage, by the same workers.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import TrialState
from scipy.stats import kendalltau, rankdata

from nas.study.experiment import Experiment
from nas.study.space.candidate import Candidate
from nas.study.storage.study_store import StudyStore

TIMES = 4
"""How many times longer the other schedule is."""
POOR = 0.7
"""A Spearman correlation below this is called poor: short schedules of a twentieth of the full one reach 0.75."""
FEWEST = 8
"""Architectures below which no interval is given: of fewer, resampling hides how little is known."""
_DRAWS = 1200  # random networks among which the spread is chosen
_RESAMPLES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A correlation with its 95 % bootstrap interval over architectures; nan where there are too few for one."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.value:.2f}{interval}"


@dataclass(frozen=True)
class Calibration:
    """Attributes:
    spearman: rank correlation of PCKh after the short and the longer schedule.
    kendall: the same, by pairs in order (tau-b).
    partial: Spearman's with the parameters' ranks held fixed: what a schedule tells beyond the networks' sizes.
    times: how many times longer the other schedule is.
    rows: each architecture's network, params, madds, pckh_short, pckh_long and rungs (epoch → PCKh, short schedule).
    """

    spearman: Estimate
    kendall: Estimate
    partial: Estimate
    times: int
    rows: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        few = "" if len(self.rows) >= FEWEST else f"; too few for an interval, which {FEWEST} and more have"
        return (
            f"rank correlation with {self.times} times the schedule, {len(self.rows)} architectures: "
            f"Spearman {self.spearman}, Kendall {self.kendall}, Spearman at equal params {self.partial}{few}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a correlation that there is none of is null."""
        raw = asdict(self)
        for name in ("spearman", "kendall", "partial"):
            raw[name] = {end: None if math.isnan(value) else value for end, value in raw[name].items()}
        return raw


def calibration_experiment(experiment: Experiment) -> Experiment:
    """The experiment whose trials calibrate another one."""
    return experiment.beside("calibration")


def queue(experiment: Experiment, count: int) -> int:
    """Queue a calibration over some architectures, both schedules, those that are missing.

    Args:
        experiment: of :func:`companion`.
        count: architectures, at even quantiles of params × MAdds among random networks of the space.

    Returns:
        how many trials the companion study has when all are done.
    """
    study = experiment.open_study()
    with StudyStore(study).lock():
        there = {_key(t.user_attrs) for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL}
        for candidate in spread(experiment, count):
            for times in (TIMES, 1):  # the long ones first: workers end together
                given = {"given": True, "candidate": candidate.to_dict(), "times": times}
                if _key(given) not in there:
                    study.enqueue_trial({}, user_attrs=given)
        return sum(t.state != TrialState.FAIL for t in study.get_trials(deepcopy=False))


def _key(attributes: dict[str, Any]) -> tuple[str, int]:
    return Candidate.from_dict(attributes["candidate"]).id, int(attributes["times"])


def spread(experiment: Experiment, count: int) -> list[Candidate]:
    """Architectures from the least to the costliest, the same for the same study and number."""
    rng = random.Random(experiment.config.seed)
    found: dict[str, Candidate] = {}
    for _ in range(20 * _DRAWS):
        try:
            candidate = experiment.problem.candidate(experiment.space.random(rng))
            if experiment.within_budget(experiment.problem.cost(candidate)):
                found.setdefault(candidate.architecture.id, candidate)
        except ValueError:
            continue  # beyond the space's limits
        if len(found) == _DRAWS:
            break

    def size(candidate: Candidate) -> float:
        cost = experiment.problem.cost(candidate)
        return float(cost.params) * cost.madds

    ranked = sorted(found.values(), key=size)
    places = [int((i + 0.5) / count * len(ranked)) for i in range(count)]
    return [ranked[place] for place in dict.fromkeys(places)]


def calibration_of(study: Study) -> Calibration | None:
    """What a companion study has found; None where fewer than three architectures have ended both schedules."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        attributes = trial.user_attrs
        name, times = _key(attributes)
        row = rows.setdefault(name, {"network": attributes["network"], **attributes["cost"]})
        if times == 1:
            row |= {"pckh_short": trial.values[0], "rungs": attributes["rungs"]}
        else:
            row |= {"pckh_long": trial.values[0]}
    both = [row for row in rows.values() if "pckh_short" in row and "pckh_long" in row]
    if len(both) < 3:
        return None
    both.sort(key=lambda row: row["params"] * row["madds"])
    columns = np.array([[row["pckh_short"], row["pckh_long"], row["params"]] for row in both], dtype=np.float64)
    rng = np.random.default_rng(0)
    draws = [columns[rng.integers(0, len(columns), len(columns))] for _ in range(_RESAMPLES)]

    def estimate(statistic: Callable[[Floats], float]) -> Estimate:
        if len(both) < FEWEST:
            return Estimate(statistic(columns), math.nan, math.nan)
        values = np.array([statistic(draw) for draw in draws])
        known = values[np.isfinite(values)]  # a draw of equal values has no correlation
        low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (math.nan, math.nan)
        return Estimate(statistic(columns), float(low), float(high))

    return Calibration(estimate(_spearman), estimate(_kendall), estimate(_partial), TIMES, tuple(both))


def store_calibration(study: Study, found: Calibration) -> None:
    """Note a calibration in the study that it is of."""
    spearman = found.to_dict()["spearman"]["value"]
    study.set_user_attr("calibration", {"text": str(found), "spearman": spearman, "architectures": len(found.rows)})


def stored_calibration(study: Study) -> str | None:
    """What a study's last calibration said, with a warning where it was poor; None if there was none."""
    noted = study.user_attrs.get("calibration")
    if noted is None:
        return None
    text = str(noted["text"])
    # Versions before 0.8 gave intervals for any number, and noted it in the text only.
    counted = noted.get("architectures") or next(iter(re.findall(r"(\d+) architectures", text)), None)
    if counted is not None and int(counted) < FEWEST:
        return f"calibrated with {counted} architectures, too few to judge its ranking: --calibrate 12 measures it"
    good = noted["spearman"] is not None and noted["spearman"] >= POOR
    return text + ("" if good else "; poor: train longer before believing differences")


def _ranked(columns: Floats) -> Floats:
    """Correlations of the columns' ranks: (3, 3); nan where a column is constant."""
    ranks = np.stack([rankdata(column) for column in columns.T])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.corrcoef(ranks), dtype=np.float64)


def _spearman(columns: Floats) -> float:
    return float(_ranked(columns)[0, 1])


def _kendall(columns: Floats) -> float:
    return float(kendalltau(columns[:, 0], columns[:, 1]).statistic)


def _partial(columns: Floats) -> float:
    r = _ranked(columns)
    left = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(left)) if left > 1e-9 else math.nan
