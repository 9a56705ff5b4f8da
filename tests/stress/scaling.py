"""Measures the cost of coordinating many workers: trials per minute, with training replaced by sleeping.

    python tests/stress/scaling.py                                  # 1, 2, 4, 8 workers × 20 s, SQLite and PostgreSQL
    python tests/stress/scaling.py --spread 0                       # trials of equal length: all workers claim together
    python tests/stress/scaling.py --workers 256 --seconds 300 --database postgresql --rounds 2
    python tests/stress/scaling.py --workers 256 --seconds 60 --database postgresql --sampler random   # cheap proposals

Everything else is real: claims, leases, proposals of the study's sampler, decisions at rungs, reports. As in real
searches, trials differ in length: 0.5 to 1.5 times the mean, depending on the size of the network. A worker's time is
counted from its first claim to its last report. Efficiency is the share of it spent sleeping, relative to that of one
worker. Above 16 workers, they are threads of eight processes and start one after the other over the length of a trial,
PostgreSQL allows more connections, and the rate is measured in the middle of the run. Prints a line of JSON for each
number of workers.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import sqlalchemy
import torch
import typer
from optuna.samplers import BaseSampler

from nas.architecture.cost import Cost, Shape, add_to_cache, cached_costs
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.study.config import StudyConfig
from nas.study.execution import trial_session
from nas.study.execution.worker_pool import SAMPLED_NETWORKS, context_for
from nas.study.experiment import Experiment, prepare
from nas.study.storage import locks
from nas.study.storage.engine import mask_password
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import DONE, claim, count, lease_of, polling_interval
from nas.training.loop import Epoch, TrainingResult

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from postgres import Server
from thousand import fill, make_experiment

PROCESSES = 8
EPOCHS, RUNGS = 8, (1, 2, 4, 6, 8)


@dataclass
class Times:
    """Durations in seconds, over the threads of one process.

    Attributes:
        waiting: for the lock.
        holding: the lock.
        proposing: parameters.
        claiming: a trial, including the lock and the proposal.
        sleeping: in each trial.
        working: from each worker's first claim to its last report.
        reported: time of each report, in seconds since 1970.
    """

    waiting: list[float] = field(default_factory=list)
    holding: list[float] = field(default_factory=list)
    proposing: list[float] = field(default_factory=list)
    claiming: list[float] = field(default_factory=list)
    sleeping: list[float] = field(default_factory=list)
    working: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """What workers do.

    Attributes:
        experiment: the study.
        total: number of trials that are to be done, by all workers.
        seconds: mean length of a trial.
        spread: trials take from 1 - spread to 1 + spread times the mean.
        known_costs: of blocks, so that workers need not count them.
    """

    experiment: Experiment
    total: int
    seconds: float
    spread: float
    known_costs: Mapping[Shape, Cost]


def _timed(
    lock: Callable[..., AbstractContextManager[None]], times: Times
) -> Callable[..., AbstractContextManager[None]]:
    """Wrap a lock, so that it records how long it was waited for, and held."""

    @contextmanager
    def held(*arguments: Any) -> Iterator[None]:
        requested = time.perf_counter()
        with lock(*arguments):
            acquired = time.perf_counter()
            times.waiting.append(acquired - requested)
            try:
                yield
            finally:
                times.holding.append(time.perf_counter() - acquired)

    return held


def _sleeping(load: Load, times: Times) -> Callable[..., TrainingResult]:
    """Return a replacement for training that sleeps; its length depends on the size of the network only."""

    def train(network: Any, losses: Any, schedule: Any, *_: Any, hooks: Any, **_options: Any) -> TrainingResult:
        history = []
        params = sum(p.numel() for p in network.parameters())
        seconds = load.seconds * random.Random(params).uniform(1 - load.spread, 1 + load.spread)
        times.sleeping.append(seconds)
        for epoch in range(1, EPOCHS + 1):
            time.sleep(seconds / EPOCHS)
            hooks.after_step(epoch * schedule.steps_per_epoch)
            images = epoch * schedule.steps_per_epoch * schedule.batch
            line: dict[str, Any] = {"epoch": epoch, "images": images, "loss": 1.0, "seconds": seconds * epoch / EPOCHS}
            evaluation = None
            if epoch in RUNGS:
                pckh = 40.0 + epoch / 2
                line |= {"pckh": pckh, "pckh_by_count": pckh, "groups": {"head": pckh}, "stages": [pckh]}
                evaluation = SimpleNamespace(accuracy=SimpleNamespace(mean=pckh))
            history.append(line)
            hooks.after_epoch(Epoch(epoch, images, 1.0, line["seconds"], evaluation))  # type: ignore[arg-type]
        return TrainingResult(network, None, None, history)

    return train


def _timed_sampler(sampler: BaseSampler, times: Times) -> BaseSampler:
    """Let a sampler record how long its proposals take."""
    original = sampler.sample_relative

    def sample_relative(*arguments: Any) -> Any:
        started = time.perf_counter()
        point = original(*arguments)
        times.proposing.append(time.perf_counter() - started)
        return point

    sampler.sample_relative = sample_relative  # type: ignore[method-assign]
    return sampler


def _work(load: Load, people: PackedPeople, start: float, times: Times) -> None:
    """One worker: claim and run trials until the study is done."""
    time.sleep(start)
    experiment, url = load.experiment, mask_password(load.experiment.url)
    sampler = _timed_sampler(experiment.sampler(), times)
    study = retry_while_unavailable(url, lambda: experiment.open_study(sampler))
    store, lease = StudyStore(study), lease_of(study, "cpu")
    store.retry(lease.start)
    first = last = time.time()
    while True:
        started = time.perf_counter()
        trial = claim(study, load.total, experiment.space.choices, lease)
        if trial is None:
            if store.retry(lambda: count(study)).done >= load.total:
                break
            store.release_connections()
            time.sleep(polling_interval(time.time() - last))
            continue
        times.claiming.append(time.perf_counter() - started)
        trial_session.TrialSession(study, trial, experiment, people, people, lease=lease).run()
        last = time.time()
        times.reported.append(last)
    times.working.append(last - first)
    lease.end()
    store.engine.dispose()


def _process(load: Load, starts: list[float], go: Any, answers: Any) -> None:
    """A process with one thread for each worker; puts their times into the queue ``answers``."""
    torch.set_num_threads(1)
    times = Times()
    trial_session.train = _sleeping(load, times)  # type: ignore[assignment]
    experiment = load.experiment
    people = fit_to_input(experiment.load_people("train", "cpu"), experiment.config.data.input_size)
    add_to_cache(load.known_costs)
    answers.put("ready")
    go.wait()
    # Only now: opening the study before is not counted.
    locks.server_lock = _timed(locks.server_lock, times)
    locks.file_lock = _timed(locks.file_lock, times)
    threads = [threading.Thread(target=_work, args=(load, people, start, times)) for start in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(times)


def _count_connections(url: str, stop: threading.Event, counts: list[int]) -> None:
    """Append the number of connections to a PostgreSQL database to a list every second."""
    name = sqlalchemy.make_url(url).database
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    query = sqlalchemy.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
    with engine.connect() as connection:
        while not stop.wait(1):
            counts.append(int(connection.execute(query, {"name": name}).scalar_one()))
    engine.dispose()


def measure(
    folder: Path,
    workers: int,
    seconds: float,
    spread: float,
    rounds: int,
    sampler: str,
    filled: int,
    server: Server | None,
) -> dict[str, Any]:
    """Measure trials per minute of a number of workers, each of which runs ``rounds`` trials."""
    many = workers > 2 * PROCESSES
    with tempfile.TemporaryDirectory(dir=folder) as name:
        url = server.new_database() if server else f"sqlite:///{name}/study.db"
        experiment = _experiment(folder, url, sampler)
        fill(experiment, filled)
        experiment.open_study()
        experiment.sample(SAMPLED_NETWORKS)
        load = Load(experiment, filled + workers * rounds, seconds, spread, cached_costs())
        starts = [seconds * i / workers if many else 0.0 for i in range(workers)]
        times, connections = _run(load, starts, server is not None)
        study = experiment.open_study()
        trials = study.get_trials(deepcopy=False)
        networks = {t.params and experiment.candidate_of(t).id for t in trials}
        StudyStore(study).engine.dispose()
    reported = sorted(moment for each in times for moment in each.reported)
    sleeping = [s for each in times for s in each.sleeping]
    if many:
        edge = workers // 2
        rate = (len(reported) - 2 * edge - 1) / (reported[-edge - 1] - reported[edge]) * 60
    else:
        rate = workers * len(reported) / sum(sum(each.working) for each in times) * 60
    exact = len(reported) == workers * rounds and len(trials) == load.total == len(networks)
    return {
        "database": "postgresql" if server else "sqlite",
        "workers": workers,
        "sampler": sampler,
        "trial_seconds": round(float(np.mean(sleeping)), 2),
        "trials": len(reported),
        "filled": filled,
        "trials_per_minute": round(rate, 2),
        "time_spent_training": round(rate * float(np.mean(sleeping)) / 60 / workers, 4),
        "lock_waited_for": _quantiles([s for each in times for s in each.waiting]),
        "lock_held": _quantiles([s for each in times for s in each.holding]),
        "proposal": _quantiles([s for each in times for s in each.proposing]),
        "claim": _quantiles([s for each in times for s in each.claiming]),
        "connections": {"median": float(np.median(connections)), "most": max(connections)} if connections else None,
        "exact": exact and all(t.state in DONE for t in trials),
    }


def _run(load: Load, starts: list[float], count_connections: bool) -> tuple[list[Times], list[int]]:
    """Run workers, one for each start time, in several processes.

    Returns:
        times of each process; number of connections to the database, each second.
    """
    context = context_for(["cpu"])
    go, answers = context.Event(), context.Queue()
    number = min(PROCESSES, len(starts))
    processes = [context.Process(target=_process, args=(load, starts[i::number], go, answers)) for i in range(number)]
    stop, connections = threading.Event(), list[int]()
    counter = threading.Thread(target=_count_connections, args=(load.experiment.url, stop, connections))
    try:
        for process in processes:
            process.start()
        for _ in processes:
            assert answers.get(timeout=300) == "ready"
        if count_connections:
            counter.start()
        go.set()
        times = [answers.get(timeout=3600) for _ in processes]
    finally:
        stop.set()
        for process in processes:
            process.join(timeout=60)
        if counter.is_alive():
            counter.join()
    return times, connections


def _experiment(folder: Path, url: str, sampler: str) -> Experiment:
    """A study without early stopping."""
    experiment = make_experiment(folder, url)
    raw = experiment.config.model_dump(exclude_none=True)
    raw["sampler"]["name"] = sampler
    raw["stopping"]["least"] = 1_000_000
    return prepare(StudyConfig.model_validate(raw), folder / "runs", url)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4), "most": round(max(seconds), 4)}


def main(
    workers: Annotated[
        list[int] | None, typer.Option(help="Number of workers; may be repeated. Default: 1, 2, 4, 8.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Mean length of a trial.")] = 20.0,
    spread: Annotated[float, typer.Option(help="Trials take from 1 - SPREAD to 1 + SPREAD times the mean.")] = 0.5,
    rounds: Annotated[int, typer.Option(help="Trials per worker.")] = 4,
    sampler: Annotated[str, typer.Option(help="Name of the sampler, as in study files.")] = "front",
    filled: Annotated[int, typer.Option(help="Finished trials that the study has at the start.")] = 0,
    database: Annotated[str, typer.Option(help="sqlite, postgresql or both.")] = "both",
    max_connections: Annotated[int, typer.Option(help="PostgreSQL's limit; 0: enough for all workers.")] = 0,
) -> None:
    """Measure trials per minute."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    numbers = workers or [1, 2, 4, 8]
    exact = True
    for one in ("sqlite", "postgresql") if database == "both" else (database,):
        server = Server(max_connections or max(100, 3 * max(numbers) + 20)) if one == "postgresql" else None
        try:
            alone = None
            with tempfile.TemporaryDirectory(prefix="scaling-") as name:
                for number in numbers:
                    found = measure(Path(name), number, seconds, spread, rounds, sampler, filled, server)
                    if number == 1:
                        alone = found["time_spent_training"]
                    if alone:
                        found["efficiency"] = round(found["time_spent_training"] / alone, 4)
                    exact &= found["exact"]
                    print(json.dumps(found), flush=True)
        finally:
            if server:
                server.close()
    sys.exit(0 if exact else 1)


if __name__ == "__main__":
    typer.run(main)
