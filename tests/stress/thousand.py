"""Measures a study of a thousand trials: times and SQL statements of opening, claiming, reporting and nas.report.

    python tests/stress/thousand.py                        # SQLite, then PostgreSQL
    python tests/stress/thousand.py --trials 200 --database sqlite

Prints a line of JSON for each database. The trials are sampled from the quickstart's space, half of them stopped early,
with all attributes that a search stores; nothing is trained.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import optuna
import sqlalchemy
import torch
import typer
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import insert
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from nas import report, workers
from nas.study.config import StudyConfig
from nas.study.experiment import Experiment, finished_of, points_of, prepare
from nas.study.pareto import Point, hypervolume
from nas.study.storage.owner import Owner
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, lease_of
from nas.study.storage.trial_queue import report as report_trial

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from postgres import Server

STUDY = """\
name = "thousand"
space = "hourglass"
width_scale = 0.25
[data]
input_size = 64
synthetic = { people = 16, holdout = 8, valid = 8 }
[schedule]
images = 4000
epochs = 8
batch = 16
[full]
images = 48000
epochs = 16
[budget]
max_layers = 420
[reference]
params = [10_000, 2_000_000]
madds = [2_000_000, 150_000_000]
"""


def make_experiment(folder: Path, url: str | None, name: str = "thousand", **changes: Any) -> Experiment:
    """A study like the quickstart's, with few people."""
    file = folder / f"{name}.toml"
    file.write_text(STUDY.replace("thousand", name))
    return prepare(StudyConfig.read(str(file)).model_copy(update=changes), folder / "runs", url)


def fill(experiment: Experiment, trials: int, seed: int = 0) -> None:
    """Write finished trials like those of a search, until the study has ``trials``."""
    if not trials:
        return
    study = experiment.open_study()
    existing = len(study.get_trials(deepcopy=False))
    rng = random.Random(seed)
    seen: set[str] = set()
    written = []
    while len(written) < trials - existing:
        point = experiment.space.random(rng)
        candidate = experiment.problem.candidate(point)
        cost = experiment.cost(candidate)
        if candidate.id in seen or not experiment.within_budget(cost):
            continue
        seen.add(candidate.id)
        written.append(_trial(experiment, point, candidate, cost, len(written), rng))
    _write(StudyStore(study).engine, study._study_id, existing, written)
    StudyStore(study).engine.dispose()


def _write(engine: Engine, study: int, first: int, trials: list[FrozenTrial]) -> None:
    """Write trials in one transaction; Optuna uses one for each attribute."""
    params: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    attributes: list[dict[str, Any]] = []
    with Session(engine) as session, session.begin():
        for number, trial in enumerate(trials, first):
            row = models.TrialModel(
                number=number,
                study_id=study,
                state=trial.state,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
            )
            session.add(row)
            session.flush()
            for name, distribution in trial.distributions.items():
                value = distribution.to_internal_repr(trial.params[name])
                columns = {
                    "param_name": name,
                    "param_value": value,
                    "distribution_json": distribution_to_json(distribution),
                }
                params.append({"trial_id": row.trial_id, **columns})
            for objective, value in enumerate(trial.values or ()):
                kind = models.TrialValueModel.TrialValueType.FINITE
                values.append({"trial_id": row.trial_id, "objective": objective, "value": value, "value_type": kind})
            for key, value in trial.user_attrs.items():
                attributes.append({"trial_id": row.trial_id, "key": key, "value_json": json.dumps(value)})
        session.execute(insert(models.TrialParamModel), params)
        session.execute(insert(models.TrialValueModel), values)
        session.execute(insert(models.TrialUserAttributeModel), attributes)


def _trial(
    experiment: Experiment, point: Any, candidate: Any, cost: Any, number: int, rng: random.Random
) -> FrozenTrial:
    saved = experiment.scale.normalized_savings(cost.params, cost.madds)
    final = 60 - 25 * (saved[0] + saved[1]) / 2 - 3 * (candidate.architecture.junction == "add") + rng.gauss(0, 1.5)
    stopped = rng.random() < 0.5
    epochs = 1 if stopped else 8
    curve = [
        {
            "epoch": epoch,
            "images": 496 * epoch,
            "loss": 3.5 - epoch / 8,
            "seconds": 1.2 * epoch,
            **(
                {
                    "pckh": final * (0.3 + 0.7 * epoch / 8),
                    "pckh_by_count": final * (0.3 + 0.7 * epoch / 8),
                    "groups": dict.fromkeys(("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"), final),
                    "stages": [final] * candidate.architecture.stacks,
                }
                if epoch in (1, 2, 4, 6, 8)
                else {}
            ),
        }
        for epoch in range(1, epochs + 1)
    ]
    measured = [line for line in curve if "pckh" in line]
    attributes = {
        "claimed_at": 1.7e9 + number,
        "owner": {"host": "elsewhere", "pid": number, "born": 1.0, "worker": f"{number:012x}"},
        "candidate": candidate.to_dict(),
        "network": str(candidate),
        "seed": 0,
        "cost": {"params": cost.params, "madds": cost.madds, "layers": cost.layers},
        "rungs": {str(line["epoch"]): line["pckh"] for line in measured},
        "curve": curve,
        "images": 496 * epochs,
        "hypervolume": 0.5 * number / (number + 20),
        "front_size": 12,
        "images_so_far": 2000 * number,
        **({"reason": "out of reach of the front"} if stopped else {"groups": measured[-1]["groups"]}),
    }
    return create_trial(
        state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
        values=None if stopped else [final, cost.params, cost.madds],
        params=point,
        distributions=dict(experiment.space.choices),
        user_attrs=attributes,
    )


@dataclass
class Statements:
    """Time and SQL statements of one step.

    Attributes:
        seconds: of the step.
        statements: number of statements.
        waited: seconds until their first rows arrived, in all.
        longest: (seconds, statement) of the slowest statement.
    """

    seconds: float = 0.0
    statements: int = 0
    waited: float = 0.0
    longest: tuple[float, str] = (0.0, "")
    _started: float = field(default=0.0, repr=False)


@contextmanager
def recorded_statements() -> Iterator[Statements]:
    """Count and time the SQL statements of this process."""
    recorded = Statements()

    def before(*_: Any) -> None:
        recorded._started = time.perf_counter()

    def after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seconds = time.perf_counter() - recorded._started
        recorded.statements += 1
        recorded.waited += seconds
        recorded.longest = max(recorded.longest, (seconds, " ".join(statement.split())))

    sqlalchemy.event.listen(Engine, "before_cursor_execute", before)
    sqlalchemy.event.listen(Engine, "after_cursor_execute", after)
    started = time.perf_counter()
    try:
        yield recorded
    finally:
        recorded.seconds = time.perf_counter() - started
        sqlalchemy.event.remove(Engine, "before_cursor_execute", before)
        sqlalchemy.event.remove(Engine, "after_cursor_execute", after)


class Steps:
    """Runs steps and records their times and statements, by name."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    def __call__(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a step, and return its result."""
        with recorded_statements() as recorded:
            result = function()
        self.results[name] = {
            "seconds": round(recorded.seconds, 3),
            "statements": recorded.statements,
            "database_seconds": round(recorded.waited, 3),
            "longest": [round(recorded.longest[0], 4), recorded.longest[1][:160]],
        }
        return result


def measure(experiment: Experiment, folder: Path, trials: int) -> dict[str, Any]:
    """Measure the steps of a study: commands that read it, and a worker's."""
    step = Steps()
    location = ("--study", "thousand", "--runs", str(folder / "runs"), "--storage", experiment.url)
    for name, app, flags in (
        ("nas.report", report.app, ()),
        ("nas.report --json", report.app, ("--json",)),
        ("nas.workers", workers.app, ()),
    ):
        with redirect_stdout(io.StringIO()):
            step(name, lambda app=app, flags=flags: app(args=[*location, *flags], standalone_mode=False))

    sampler = experiment.sampler()
    proposals = _timed_proposals(sampler)
    study = step("open", lambda: experiment.open_study(sampler))
    lease = lease_of(study, "cpu")
    lease.start()

    def claim_next() -> optuna.Trial:
        trial = claim(study, trials + 4, experiment.space.choices, lease)
        assert trial is not None
        return trial

    first = step("first claim", claim_next)
    step("list of trials", lambda: study.get_trials(deepcopy=False))
    step("first report", lambda: _report(experiment, study, first, Owner.me(lease.id)))
    second = step("second claim", claim_next)
    step("finished trials at a rung", lambda: finished_of(study))
    step("second report", lambda: _report(experiment, study, second, Owner.me(lease.id)))
    third = step("third claim", claim_next)
    _report(experiment, study, third, Owner.me(lease.id))
    lease.end()
    StudyStore(study).engine.dispose()
    return {"steps": step.results, "proposal_seconds": proposals}


def _timed_proposals(sampler: BaseSampler) -> list[float]:
    """Let a sampler append the seconds of each proposal to the list that is returned."""
    seconds: list[float] = []
    original = sampler.sample_relative

    def sample_relative(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = original(*arguments)
        if result:
            seconds.append(round(time.perf_counter() - started, 3))
        return result

    sampler.sample_relative = sample_relative  # type: ignore[method-assign]
    return seconds


def _report(experiment: Experiment, study: optuna.Study, trial: optuna.Trial, owner: Owner) -> None:
    """Report a made-up PCKh, as a worker does."""
    candidate = experiment.problem.candidate(trial.params)
    cost = experiment.cost(candidate)
    point = Point(trial.number, 50.0, cost.params, cost.madds)
    trial.set_user_attr("candidate", candidate.to_dict())
    trial.set_user_attr("network", str(candidate))
    values = [point.pckh, point.params, point.madds]
    attributes = lambda: {"hypervolume": hypervolume([*points_of(study), point], experiment.scale)}  # noqa: E731
    report_trial(study, trial, owner, values, attributes)


def main(
    trials: Annotated[int, typer.Option(help="Trials of the study.")] = 1000,
    database: Annotated[str, typer.Option(help="sqlite, postgresql or both.")] = "both",
) -> None:
    """Fill a study, and measure steps on it."""
    torch.set_num_threads(1)
    for one in ("sqlite", "postgresql") if database == "both" else (database,):
        server = Server() if one == "postgresql" else None
        try:
            with tempfile.TemporaryDirectory(prefix="thousand-") as name:
                folder = Path(name)
                url = server.new_database() if server else f"sqlite:///{folder / 'study.db'}"
                experiment = make_experiment(folder, url)
                started = time.perf_counter()
                fill(experiment, trials)
                result = {"database": one, "trials": trials, "fill_seconds": round(time.perf_counter() - started, 1)}
                print(json.dumps(result | measure(experiment, folder, trials)), flush=True)
        finally:
            if server:
                server.close()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(typer.run(main))
