"""Compare samplers and stopping rules on recorded results: ``python -m nas.replay --record FILE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from nas.console import Quiet, console, default_workers, existing_file, print_tables, progress, run
from nas.errors import UserError
from nas.options import command, new_app
from nas.study.analysis.replay import STOPPINGS, BenchmarkTable, Replayed, TabularBenchmark, stopping_named
from nas.study.config import SAMPLERS
from nas.study.experiment import load
from nas.study.files import find
from nas.study.pareto import Floats
from nas.study.space.search_space import SearchSpace
from nas.training.checkpoint import write_atomically

app = new_app()

POLICIES = ("random", "nsga2", "tpe", "front", "front+reach", "front+halving")
"""Replayed where none is named: GP, which takes seconds for a proposal, is left out."""
MARKS = (25, 50, 100, 150, 200)
"""Numbers of trials after which hypervolumes are printed."""


@command(app)
def main(
    record: Annotated[Path | None, typer.Option(help="Recorded results, of studies/records or of --save.")] = None,
    study: Annotated[str | None, typer.Option(help="Instead: a study that was searched.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="Sampler, or sampler+stopping, such as tpe or front+reach; repeat it.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials of each replay.")] = 150,
    seeds: Annotated[int, typer.Option(help="Replays of each policy.")] = 20,
    quantile: Annotated[float, typer.Option(help="Of the gains hoped for, in reach.")] = 0.5,
    save: Annotated[Path | None, typer.Option(help="Write the study's results as a record, and stop.")] = None,
    how: Annotated[str, typer.Option(help="How they were made, for --save.")] = "",
    storage: Annotated[str | None, typer.Option(help="Database URL of the study; by default its own SQLite.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(help="Processes; by default one a core.")] = None,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search recorded results again, with other samplers and stopping rules.

    Samplers: front, tpe, nsga2, gp, random. Stopping: reach (the study's rule: a
    trial ends when a finished network that costs no more is out of its reach)
    or halving (successive halving by non-dominated rank); none if not named.
    Every proposal is taken for the recorded network nearest to it.

    Example: python -m nas.replay --study landscape --policy tpe --policy front+reach
    """
    for flag, value, least in (("--trials", trials, 2), ("--seeds", seeds, 1), ("--workers", workers or 1, 1)):
        if value < least:
            raise UserError(f"{flag} {value}: must be at least {least}")
    if not 0 <= quantile <= 1:
        raise UserError(f"--quantile {quantile:g}: must be from 0 to 1")
    if (record is None) == (study is None):
        raise UserError("give either --record FILE or --study NAME")
    if study is not None:
        experiment, opened = load(study, runs, storage)
        about = {"what": f"study {study}", "how": how}
        recorded = BenchmarkTable.of(experiment, opened, about)
        space = experiment.space
        if save is not None:
            _save(recorded, save)
            return
    else:
        if save is not None:
            raise UserError(f"--save {save} belongs to --study; a record is saved already")
        assert record is not None
        recorded = BenchmarkTable.read(existing_file(record, "--record"))
        space = SearchSpace.read(find(recorded.space, "search_spaces"))
    TabularBenchmark(recorded, space)  # refuses a space that has changed before anything is begun
    policies = list(dict.fromkeys(policy or POLICIES))
    for name in policies:
        _parts(name)
    results = _replay_all(recorded, space, policies, min(trials, len(recorded.rows)), seeds, quantile, workers)
    if as_json:
        print(json.dumps({"noise": recorded.noise, "policies": [_record(n, r) for n, r in results.items()]}))
        return
    _print(recorded, results, seeds)


def _parts(policy: str) -> tuple[str, str]:
    sampler, _, stopping = policy.partition("+")
    if sampler not in SAMPLERS or (stopping or "never") not in STOPPINGS:
        raise UserError(
            f"--policy {policy}: must be one of {', '.join(SAMPLERS)}, "
            f"alone or with +{' or +'.join(s for s in STOPPINGS if s != 'never')}"
        )
    return sampler, stopping or "never"


def _save(recorded: BenchmarkTable, path: Path) -> None:
    try:
        write_atomically(path, recorded.to_json().encode())
    except OSError as error:
        raise UserError(f"--save {path}: cannot be written: {error.strerror}; choose another place") from error
    console.print(f"{path}: {len(recorded.rows)} networks", soft_wrap=True)


_landscape: TabularBenchmark | None = None


def _begin(recorded: BenchmarkTable, path: Path) -> None:
    global _landscape
    torch.set_num_threads(1)
    _landscape = TabularBenchmark(recorded, SearchSpace.read(path))


def _one(job: tuple[str, int, int, float]) -> Replayed:
    policy, seed, trials, quantile = job
    assert _landscape is not None
    sampler, stopping = _parts(policy)
    rule = stopping_named(stopping, _landscape.record, quantile)
    return _landscape.replay(sampler, rule, seed, trials)


def _replay_all(
    recorded: BenchmarkTable,
    space: SearchSpace,
    policies: Sequence[str],
    trials: int,
    seeds: int,
    quantile: float,
    workers: int | None,
) -> dict[str, list[Replayed]]:
    jobs = [(policy, seed, trials, quantile) for policy in policies for seed in range(seeds)]
    results: dict[str, list[Replayed]] = {policy: [] for policy in policies}
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(workers or default_workers(), context, _begin, (recorded, space.path)) as pool,
        progress("replaying", len(jobs)) as advance,
    ):
        for done, (job, replayed) in enumerate(zip(jobs, pool.map(_one, jobs), strict=True), start=1):
            results[job[0]].append(replayed)
            advance(done)
    return results


def _record(policy: str, replays: Sequence[Replayed]) -> dict[str, Any]:
    volumes = np.stack([r.hypervolume for r in replays])
    images = np.stack([r.images for r in replays])
    return {
        "policy": policy,
        "seeds": len(replays),
        "hypervolume": {"mean": volumes.mean(0).tolist(), "sd": volumes.std(0).tolist()},
        "images": images.mean(0).tolist(),
        "seconds_per_proposal": float(np.mean([r.seconds.mean() for r in replays])),
    }


def _print(recorded: BenchmarkTable, results: dict[str, list[Replayed]], seeds: int) -> None:
    trials = len(next(iter(results.values()))[0].images)
    marks = sorted({*(mark for mark in MARKS if mark < trials), trials})
    by_trials = _table("hypervolume after so many trials, and the share of the pictures of as many whole ones")
    by_pictures = _table("hypervolume after the pictures of so many whole trials")
    for mark in marks:
        by_trials.add_column(f"{mark}", justify="right")
        by_pictures.add_column(f"{mark}", justify="right")
    by_trials.add_column("s / proposal", justify="right")
    for policy, replays in results.items():
        volumes, images = np.stack([r.hypervolume for r in replays]), np.stack([r.images for r in replays])
        cells = []
        for mark in marks:
            share = images[:, mark - 1].mean() / (mark * recorded.images)
            cells.append(_spread(volumes[:, mark - 1]) + ("" if share > 0.999 else f", {100 * share:.0f} %"))
        seconds = float(np.mean([r.seconds.mean() for r in replays]))
        by_trials.add_row(policy, *cells, f"{seconds:.3f}")
        by_pictures.add_row(policy, *(_spread(_at(volumes, images, mark * recorded.images)) for mark in marks))
    noise = (
        ""
        if recorded.noise is None
        else f"; PCKh of one network between seeds: standard deviation {recorded.noise:.2f}"
    )
    console.print(
        f"{len(recorded.rows)} recorded networks, {seeds} seeds, mean ± standard deviation{noise}", soft_wrap=True
    )
    print_tables(by_trials, by_pictures)


def _table(title: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column("policy")
    return table


def _at(volumes: Floats, images: Floats, pictures: float) -> Floats:
    """Each replay's hypervolume when it had trained so many pictures; empty where some ended before.

    Args:
        volumes: (seeds, trials).
        images: (seeds, trials), ascending.
        pictures: at most so many.
    """
    if (images[:, -1] < pictures).any():
        return np.array([])
    last = (images <= pictures).sum(axis=1) - 1
    return np.asarray(np.where(last >= 0, volumes[np.arange(len(volumes)), last], 0.0), np.float64)


def _spread(values: Floats) -> str:
    return f"{values.mean():.4f} ± {values.std():.4f}" if len(values) else "–"


if __name__ == "__main__":
    run(app)
