"""A study of a thousand trials: how long it takes to open, to claim from, to tell, to report; and what is asked for it.

    python tests/stress/thousand.py                        # SQLite, then PostgreSQL
    python tests/stress/thousand.py --trials 200 --database sqlite

Prints a line of JSON for each database. The trials are drawn from the quickstart's space, half of them stopped early,
with all the attributes that a search notes; nothing is trained.
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
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from postgres import Server
from sqlalchemy import insert
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from nas import report, workers
from nas.study.config import StudyConfig
from nas.study.execution import trial_session
from nas.study.experiment import Experiment, finished_of, prepare
from nas.study.pareto import Point, hypervolume
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import Owner, claim, lease_of

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


def begin(folder: Path, url: str | None, name: str = "thousand", **changes: Any) -> Experiment:
    """A study of the quickstart's kind, with a handful of people."""
    file = folder / f"{name}.toml"
    file.write_text(STUDY.replace("thousand", name))
    return prepare(StudyConfig.read(str(file)).model_copy(update=changes), folder / "runs", url)


def fill(experiment: Experiment, trials: int, seed: int = 0) -> None:
    """Write trials as a search leaves them."""
    if not trials:
        return
    study = experiment.open_study()
    there = len(study.get_trials(deepcopy=False))
    rng = random.Random(seed)
    seen: set[str] = set()
    written = []
    while len(written) < trials - there:
        point = experiment.space.random(rng)
        candidate = experiment.problem.candidate(point)
        cost = experiment.cost(candidate)
        if candidate.id in seen or not experiment.within_budget(cost):
            continue
        seen.add(candidate.id)
        written.append(_trial(experiment, point, candidate, cost, len(written), rng))
    _write(StudyStore(study).engine, study._study_id, there, written)
    StudyStore(study).engine.dispose()


def _write(engine: Engine, study: int, first: int, trials: list[FrozenTrial]) -> None:
    """Write trials in one transaction: Optuna takes one for each attribute."""
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
                about = {
                    "param_name": name,
                    "param_value": value,
                    "distribution_json": distribution_to_json(distribution),
                }
                params.append({"trial_id": row.trial_id, **about})
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
class Asked:
    """What one step took.

    Attributes:
        seconds: in all.
        statements: sent to the database.
        waited: seconds of them, until their rows began to come.
        longest: (seconds, statement) of the slowest one.
    """

    seconds: float = 0.0
    statements: int = 0
    waited: float = 0.0
    longest: tuple[float, str] = (0.0, "")
    _began: float = field(default=0.0, repr=False)


@contextmanager
def asking() -> Iterator[Asked]:
    """Count and time the statements of this process."""
    asked = Asked()

    def before(*_: Any) -> None:
        asked._began = time.perf_counter()

    def after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        took = time.perf_counter() - asked._began
        asked.statements += 1
        asked.waited += took
        asked.longest = max(asked.longest, (took, " ".join(statement.split())))

    sqlalchemy.event.listen(Engine, "before_cursor_execute", before)
    sqlalchemy.event.listen(Engine, "after_cursor_execute", after)
    began = time.perf_counter()
    try:
        yield asked
    finally:
        asked.seconds = time.perf_counter() - began
        sqlalchemy.event.remove(Engine, "before_cursor_execute", before)
        sqlalchemy.event.remove(Engine, "after_cursor_execute", after)


def measure(experiment: Experiment, folder: Path, trials: int) -> dict[str, Any]:
    """What each step of a study takes."""
    steps: dict[str, Any] = {}

    def step(name: str, do: Callable[[], Any]) -> Any:
        with asking() as asked:
            result = do()
        steps[name] = {
            "seconds": round(asked.seconds, 3),
            "statements": asked.statements,
            "database_seconds": round(asked.waited, 3),
            "longest": [round(asked.longest[0], 4), asked.longest[1][:160]],
        }
        return result

    storage = ("--study", "thousand", "--runs", str(folder / "runs"), "--storage", experiment.url)
    for name, app, flags in (
        ("nas.report", report.app, ()),
        ("nas.report --json", report.app, ("--json",)),
        ("nas.workers", workers.app, ()),
    ):
        with redirect_stdout(io.StringIO()):
            step(name, lambda app=app, flags=flags: app(args=[*storage, *flags], standalone_mode=False))

    sampler = experiment.sampler()
    study = step("open", lambda: experiment.open_study(sampler))
    lease = lease_of(study, "cpu")
    lease.start()
    proposals = []
    original = sampler.sample_relative

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = original(*arguments)
        if result:
            proposals.append(round(time.perf_counter() - began, 3))
        return result

    sampler.sample_relative = timed  # type: ignore[method-assign]
    trial = step("first claim", lambda: claim(study, trials + 4, experiment.space.choices, lease))
    step("second claim's read", lambda: study.get_trials(deepcopy=False))

    def tell(trial: optuna.Trial) -> None:
        candidate = experiment.problem.candidate(trial.params)
        cost = experiment.cost(candidate)
        point = Point(trial.number, 50.0, cost.params, cost.madds)
        trial.set_user_attr("candidate", candidate.to_dict())
        trial.set_user_attr("network", str(candidate))
        trial_session.report(
            study,
            trial,
            Owner.me(lease),
            [point.pckh, point.params, point.madds],
            lambda: {"hypervolume": hypervolume([*_points(study), point], experiment.scale)},
        )

    step("tell", lambda: tell(trial))
    trial = step("claim", lambda: claim(study, trials + 4, experiment.space.choices, lease))
    step("look at a rung", lambda: finished_of(study))
    step("tell again", lambda: tell(trial))
    trial = step("third claim", lambda: claim(study, trials + 4, experiment.space.choices, lease))
    tell(trial)
    lease.end()
    StudyStore(study).engine.dispose()
    return {"steps": steps, "proposal_seconds": proposals}


def _points(study: optuna.Study) -> list[Point]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [Point(t.number, t.values[0], int(t.values[1]), int(t.values[2])) for t in trials]


def main(
    trials: Annotated[int, typer.Option(help="Of the study.")] = 1000,
    database: Annotated[str, typer.Option(help="sqlite, postgresql or both.")] = "both",
) -> None:
    """Fill a study and time what is done with it."""
    torch.set_num_threads(1)
    for one in ("sqlite", "postgresql") if database == "both" else (database,):
        server = Server() if one == "postgresql" else None
        try:
            with tempfile.TemporaryDirectory(prefix="thousand-") as name:
                folder = Path(name)
                url = server.new_database() if server else f"sqlite:///{folder / 'study.db'}"
                experiment = begin(folder, url)
                began = time.perf_counter()
                fill(experiment, trials)
                found = {"database": one, "trials": trials, "fill_seconds": round(time.perf_counter() - began, 1)}
                print(json.dumps(found | measure(experiment, folder, trials)), flush=True)
        finally:
            if server:
                server.close()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(typer.run(main))
