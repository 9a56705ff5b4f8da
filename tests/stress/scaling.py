"""How much the coordination of many workers costs: trials a minute, training replaced by sleeping.

    python tests/stress/scaling.py                                  # 1, 2, 4, 8 workers × 20 s, SQLite and PostgreSQL
    python tests/stress/scaling.py --spread 0                       # all trials equally long: all ask at once
    python tests/stress/scaling.py --workers 256 --seconds 300 --database postgresql --rounds 2
    python tests/stress/scaling.py --workers 256 --seconds 60 --database postgresql --sampler random   # cheap proposals

All else is real: claims, leases, proposals of the study's sampler, looks at each rung, telling. Trials last from half
to one and a half times as long, by their network's size, since real ones differ. A worker's time counts from its first
claim to the last trial that it tells; efficiency is the share of it that was slept, beside that of one worker. From 16
workers on they are threads of eight processes, begin one after the other over the length of one trial, and PostgreSQL
is given more connections; the rate is then that of the middle of the run. Prints a line of JSON for each number.
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
from optuna.trial import TrialState
from postgres import Server
from thousand import begin, fill

from nas.architecture.cost import Cost, Shape, add_to_cache, cached_costs
from nas.data.augmentation import fit_to_input
from nas.study.config import StudyConfig
from nas.study.execution import trial_session as objective
from nas.study.execution.worker_pool import SAMPLED_NETWORKS, context_for
from nas.study.experiment import Experiment, prepare
from nas.study.storage import locks
from nas.study.storage.engine import mask_password
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, count, lease_of, polling_interval
from nas.training.loop import Epoch, TrainingResult

PROCESSES = 8
EPOCHS, RUNGS = 8, (1, 2, 4, 6, 8)


@dataclass
class Times:
    """Seconds that things took, over the threads of one process.

    Attributes:
        waiting: for the lock.
        holding: it.
        proposing: inside it or not.
        claiming: in all.
        told: when each trial was told, in seconds since 1970.
        slept: in each trial.
        working: from each worker's first claim to the last trial that it told.
    """

    waiting: list[float] = field(default_factory=list)
    holding: list[float] = field(default_factory=list)
    proposing: list[float] = field(default_factory=list)
    claiming: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    working: list[float] = field(default_factory=list)


def _timed(
    lock: Callable[..., AbstractContextManager[None]], times: Times
) -> Callable[..., AbstractContextManager[None]]:
    """A lock that notes how long it was waited for, and held."""

    @contextmanager
    def held(*arguments: Any) -> Iterator[None]:
        asked = time.perf_counter()
        with lock(*arguments):
            got = time.perf_counter()
            times.waiting.append(got - asked)
            try:
                yield
            finally:
                times.holding.append(time.perf_counter() - got)

    return held


def _sleeping(mean: float, spread: float, times: Times) -> Callable[..., TrainingResult]:
    """What stands for training: so long on average, and always the same for one size of network; looks at each rung."""

    def train(network: Any, losses: Any, schedule: Any, *_: Any, **given: Any) -> TrainingResult:
        history = []
        params = sum(p.numel() for p in network.parameters())
        seconds = mean * random.Random(params).uniform(1 - spread, 1 + spread)
        times.slept.append(seconds)
        for epoch in range(1, EPOCHS + 1):
            time.sleep(seconds / EPOCHS)
            given["hooks"].after_step(epoch * schedule.steps_per_epoch)
            images = epoch * schedule.steps_per_epoch * schedule.batch
            line: dict[str, Any] = {"epoch": epoch, "images": images, "loss": 1.0, "seconds": seconds * epoch / EPOCHS}
            evaluation = None
            if epoch in RUNGS:
                pckh = 40.0 + epoch / 2
                line |= {"pckh": pckh, "pckh_by_count": pckh, "groups": {"head": pckh}, "stages": [pckh]}
                evaluation = SimpleNamespace(accuracy=SimpleNamespace(mean=pckh))
            history.append(line)
            given["hooks"].after_epoch(Epoch(epoch, images, 1.0, line["seconds"], evaluation))  # type: ignore[arg-type]
        return TrainingResult(network, None, None, history)

    return train


def _process(
    experiment: Experiment,
    known: Mapping[Shape, Cost],
    total: int,
    starts: list[float],
    seconds: float,
    spread: float,
    go: Any,
    answers: Any,
) -> None:
    """Some workers, each a thread; their times go into a queue."""
    torch.set_num_threads(1)
    times = Times()
    objective.train = _sleeping(seconds, spread, times)  # type: ignore[assignment]
    people = fit_to_input(experiment.load_people("train", "cpu"), experiment.config.data.input_size)
    url = mask_password(experiment.url)
    add_to_cache(known)

    def work(start: float) -> None:
        time.sleep(start)
        sampler = experiment.sampler()
        original = sampler.sample_relative

        def propose(*arguments: Any) -> Any:
            began = time.perf_counter()
            point = original(*arguments)
            times.proposing.append(time.perf_counter() - began)
            return point

        sampler.sample_relative = propose  # type: ignore[method-assign]
        study = retry_while_unavailable(url, lambda: experiment.open_study(sampler))
        lease = lease_of(study, "cpu")
        retry_while_unavailable(url, lease.start)
        first = last = idle = time.time()
        while True:
            began = time.perf_counter()
            trial = claim(study, total, experiment.space.choices, lease)
            if trial is None:
                if retry_while_unavailable(url, lambda: count(study)).done >= total:
                    break
                StudyStore(study).release_connections()
                time.sleep(polling_interval(time.time() - idle))
                continue
            times.claiming.append(time.perf_counter() - began)
            objective.TrialSession(study, trial, experiment, people, people, lease=lease).run()
            last = idle = time.time()
            times.told.append(last)
        times.working.append(last - first)
        lease.end()
        StudyStore(study).engine.dispose()

    answers.put("ready")
    go.wait()
    # From here on: what opened the study before is not counted.
    locks.server_lock = _timed(locks.server_lock, times)
    locks.file_lock = _timed(locks.file_lock, times)
    threads = [threading.Thread(target=work, args=(start,)) for start in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(times)


def _connections(server: Server, url: str, stop: threading.Event, seen: list[int]) -> None:
    """Count the connections to a database every second."""
    name = sqlalchemy.make_url(url).database
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    asked = sqlalchemy.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
    with engine.connect() as connection:
        while not stop.wait(1):
            seen.append(int(connection.execute(asked, {"name": name}).scalar_one()))
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
    """Trials a minute of so many workers, each of which has some trials in turn."""
    many = workers > 2 * PROCESSES
    with tempfile.TemporaryDirectory(dir=folder) as name:
        url = server.new_database() if server else f"sqlite:///{name}/study.db"
        experiment = _experiment(folder, url, sampler)
        fill(experiment, filled)
        experiment.open_study()
        total = filled + workers * rounds
        starts = [seconds * i / workers if many else 0.0 for i in range(workers)]
        context = context_for(["cpu"])
        experiment.sample(SAMPLED_NETWORKS)
        known = cached_costs()
        go, answers = context.Event(), context.Queue()
        shares = [starts[i :: min(PROCESSES, workers)] for i in range(min(PROCESSES, workers))]
        processes = [
            context.Process(target=_process, args=(experiment, known, total, share, seconds, spread, go, answers))
            for share in shares
        ]
        stop, seen = threading.Event(), list[int]()
        watcher = threading.Thread(target=_connections, args=(server, url, stop, seen)) if server else None
        try:
            for process in processes:
                process.start()
            for _ in processes:
                assert answers.get(timeout=300) == "ready"
            if watcher:
                watcher.start()
            go.set()
            found = [answers.get(timeout=3600) for _ in processes]
        finally:
            stop.set()
            for process in processes:
                process.join(timeout=60)
            if watcher:
                watcher.join()
        study = experiment.open_study()
        states = [t.state for t in study.get_trials(deepcopy=False)]
        networks = {t.params and experiment.candidate_of(t).id for t in study.get_trials(deepcopy=False)}
        StudyStore(study).engine.dispose()
    told = sorted(moment for times in found for moment in times.told)
    slept = [s for times in found for s in times.slept]
    if many:
        edge = workers // 2
        rate = (len(told) - 2 * edge - 1) / (told[-edge - 1] - told[edge]) * 60
    else:
        rate = workers * len(told) / sum(sum(times.working) for times in found) * 60
    return {
        "database": "postgresql" if server else "sqlite",
        "workers": workers,
        "sampler": sampler,
        "trial_seconds": round(float(np.mean(slept)), 2),
        "trials": len(told),
        "filled": filled,
        "trials_per_minute": round(rate, 2),
        "time_spent_training": round(rate * float(np.mean(slept)) / 60 / workers, 4),
        "lock_waited_for": _quantiles([s for times in found for s in times.waiting]),
        "lock_held": _quantiles([s for times in found for s in times.holding]),
        "proposal": _quantiles([s for times in found for s in times.proposing]),
        "claim": _quantiles([s for times in found for s in times.claiming]),
        "connections": {"median": float(np.median(seen)), "most": max(seen)} if seen else None,
        "exact": len(told) == workers * rounds and len(states) == total == len(networks) and _all_done(states),
    }


def _experiment(folder: Path, url: str, sampler: str) -> Experiment:
    """A study whose trials are never stopped early."""
    experiment = begin(folder, url)
    raw = experiment.config.model_dump(exclude_none=True)
    raw["sampler"]["name"] = sampler
    raw["stopping"]["least"] = 1_000_000
    return prepare(StudyConfig.model_validate(raw), folder / "runs", url)


def _all_done(states: list[TrialState]) -> bool:
    return all(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4), "most": round(max(seconds), 4)}


def main(
    workers: Annotated[list[int] | None, typer.Option(help="How many; repeat it. Default: 1, 2, 4, 8.")] = None,
    seconds: Annotated[float, typer.Option(help="That a trial sleeps, on average.")] = 20.0,
    spread: Annotated[float, typer.Option(help="From 1 - this to 1 + this times as long.")] = 0.5,
    rounds: Annotated[int, typer.Option(help="Trials of each worker.")] = 4,
    sampler: Annotated[str, typer.Option(help="As in nas.search.")] = "front",
    filled: Annotated[int, typer.Option(help="Finished trials before.")] = 0,
    database: Annotated[str, typer.Option(help="sqlite, postgresql or both.")] = "both",
    max_connections: Annotated[int, typer.Option(help="Of PostgreSQL; 0: enough.")] = 0,
) -> None:
    """Measure trials a minute."""
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
