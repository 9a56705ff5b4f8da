"""Search for networks: ``python -m nas.search --trials 50``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from optuna.study import Study
from pydantic import ValidationError

from nas.console import Quiet, console, default_workers, format_count, parse_count, print_tables, run
from nas.errors import UserError
from nas.options import command, new_app
from nas.study.analysis import seed_noise as confirmation
from nas.study.analysis.rank_correlation import (
    calibration_experiment,
    calibration_of,
    queue,
    store_calibration,
    stored_calibration,
)
from nas.study.config import StudyConfig
from nas.study.execution.worker_count import measure_worker_count
from nas.study.execution.worker_pool import devices_for, search
from nas.study.experiment import Experiment, points_of, prepare
from nas.study.files import checkpoint_folder, find
from nas.study.pareto import hypervolume
from nas.study.reporting.progress import (
    SearchProgress,
    comparison_table,
    front_records,
    front_table,
    live_progress,
    near_table,
)
from nas.study.storage.study_store import count, mask_password
from nas.training.devices import device_named

app = new_app()


@command(app)
def main(
    trials: Annotated[int, typer.Option(help="Trials of the study, of all workers and sittings.")] = 50,
    study: Annotated[str, typer.Option(help="A study file, or the name of one in studies/.")] = "quickstart",
    space: Annotated[str | None, typer.Option(help="A space file, or the name of one in search_spaces/.")] = None,
    name: Annotated[str | None, typer.Option(help="Name to keep it under; by default the file's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Packed people (nas.prepare) instead of the study's.")] = None,
    storage: Annotated[str | None, typer.Option(help="Database URL; by default SQLite in the runs folder.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    checkpoints: Annotated[str | None, typer.Option(help="Folder or URL for unfinished trials; remembered.")] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Processes; by default one a core or GPU; auto: tried.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    images: Annotated[int | None, typer.Option(help="Of each trial, instead of the study's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Equal parts of that schedule.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Train nothing larger, e.g. 1.5M.")] = None,
    max_madds: Annotated[str | None, typer.Option(help="Train nothing costlier, e.g. 3G.")] = None,
    max_layers: Annotated[int | None, typer.Option(help="Train nothing with more layers, which take time.")] = None,
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Train nothing slower a picture, measured here.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="front, tpe, nsga2, gp or random.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of proposals, weights and pictures.")] = None,
    calibrate: Annotated[int | None, typer.Option(help="Instead: judge the schedule on so many architectures.")] = None,
    confirm: Annotated[int | None, typer.Option(help="Instead: train so many of the least certain again.")] = None,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the front as JSON.")] = False,
) -> None:
    """Search a space for the front of PCKh against params and MAdds.

    Stop it at any moment and give the same command again: it goes on.

    --calibrate 12 trains 12 architectures, from small to large, under the study's
    schedule and one four times longer, and tells how alike the two rank them.
    --confirm 5 trains 5 networks under two more seeds: those of which it is least
    certain, seeds being noisy, whether they are on the front.

    Example: python -m nas.search --study mpii --data mpii.h5 --trials 50
    """
    if trials < 1:
        raise UserError(f"--trials {trials}: must be at least 1")
    if calibrate is not None and calibrate < 3:
        raise UserError(f"--calibrate {calibrate}: must be at least 3; 12 architectures tell something")
    if confirm is not None and confirm < 1:
        raise UserError(f"--confirm {confirm}: must be at least 1")
    if confirm is not None and calibrate is not None:
        raise UserError("give either --calibrate or --confirm")
    if workers not in (None, "auto") and not (workers.isdecimal() and int(workers) > 0):
        raise UserError(f"--workers {workers}: must be a number of processes from 1 on, or auto")
    place = device_named(device)
    config = _with_flags(
        StudyConfig.read(study),
        {
            "name": name,
            "space": str(find(space, "search_spaces").resolve()) if space is not None else None,
            "seed": seed,
            "data.file": str(data.resolve()) if data else None,
            "schedule.images": images,
            "schedule.epochs": epochs,
            "budget.max_params": parse_count(max_params, "--max-params"),
            "budget.max_madds": parse_count(max_madds, "--max-madds"),
            "budget.max_layers": max_layers,
            "budget.max_latency_ms": max_latency,
            "sampler.name": sampler,
        },
    )
    kept = checkpoint_folder(checkpoints, "--checkpoints") if checkpoints is not None else None
    experiment = prepare(config, runs, storage, kept)
    opened = experiment.open_study()
    places = devices_for(place, _workers(workers, experiment, place, quiet or as_json))

    if calibrate is not None:
        _calibrate(experiment, opened, calibrate, places, quiet, as_json)
        return
    if confirm is not None:
        _confirm(experiment, opened, confirm, places, quiet, as_json)
        return
    before = count(opened)
    if not (quiet or as_json):
        console.print(_introduction(experiment, trials, before.done, len(places)), soft_wrap=True)
        console.print(
            stored_calibration(opened)
            or "not calibrated: with --calibrate 12, the same command tells how far its ranking can be trusted",
            soft_wrap=True,
        )
    began = time.monotonic()
    if before.done < trials:
        standing = SearchProgress(experiment, opened, trials, quiet or as_json, console)
        with live_progress(standing) as show:
            search(experiment, trials, places, show)
    elif not (quiet or as_json):
        console.print(f"{before.done} trials are done already: nothing to search for --trials {trials}.")
    from nas.study.reporting.dashboard import save_panels  # here: workers import this module, and need no figures

    save_panels(experiment, opened)
    if as_json:
        print(json.dumps(front_records(experiment, opened)))
    elif not quiet:
        _conclude(experiment, opened, time.monotonic() - began)


def _workers(given: str | None, experiment: Experiment, place: str, silent: bool) -> int:
    """How many processes: so many as a person says, or as the devices serve best, or one for each core or GPU."""
    devices = default_workers() if place == "cpu" else torch.cuda.device_count()
    if given is None:
        return devices
    if given != "auto":
        return int(given)
    found = measure_worker_count(experiment, place)
    if found is None:
        raise UserError("--workers auto: this device has too little memory for one; choose smaller networks or batches")
    count = found.workers if place == "cpu" else found.workers * devices
    if not silent:
        each = "" if count == found.workers else f", {found.workers} on each GPU"
        console.print(
            f"--workers auto: {count}{each}: {found.trials_per_hour * count / found.workers:,.0f} whole trials an hour",
            soft_wrap=True,
        )
    return count


def _with_flags(config: StudyConfig, changes: dict[str, object]) -> StudyConfig:
    """The study with some values replaced by flags, checked again."""
    raw = config.model_dump(exclude_none=True)
    for key, value in changes.items():
        if value is None:
            continue
        *tables, last = key.split(".")
        table = raw
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = value
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        where = str(problem["loc"][-1]) if problem["loc"] else "study"
        flag = {"name": "sampler" if "sampler" in problem["loc"] else "name"}.get(where, where)
        shown = "" if isinstance(problem.get("input"), dict) else f" {problem.get('input')}"
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"--{flag.replace('_', '-')}{shown}: {message}") from error


def _calibrate(
    experiment: Experiment, study: Study, architectures: int, places: list[str], quiet: bool, as_json: bool
) -> None:
    """Train what is missing of a calibration, and print it."""
    beside = calibration_experiment(experiment)
    total = queue(beside, architectures)
    opened = beside.open_study()
    if count(opened).done < total:
        with live_progress(SearchProgress(beside, opened, total, quiet or as_json, console)) as show:
            search(beside, total, places, show)
    found = calibration_of(opened)
    if found is None:
        raise UserError(f"--calibrate {architectures}: fewer than three architectures could be trained to the end")
    store_calibration(study, found)
    if as_json:
        print(json.dumps(found.to_dict()))
    elif not quiet:
        console.print(str(found), soft_wrap=True)


def _confirm(
    experiment: Experiment, study: Study, networks: int, places: list[str], quiet: bool, as_json: bool
) -> None:
    """Train the least certain of the front under further seeds, and print the front that is then known."""
    if len(points_of(study)) < 2:
        raise UserError(
            f"--confirm {networks}: study {experiment.config.name} has fewer than two finished trials; "
            "search first, without --confirm"
        )
    beside = confirmation.repeats_experiment(experiment)
    total = confirmation.queue(experiment, study, networks)
    opened = beside.open_study()
    before = count(opened).done
    if before < total:
        with live_progress(SearchProgress(beside, opened, total, quiet or as_json, console)) as show:
            search(beside, total, places, show)
    if as_json:
        print(json.dumps(front_records(experiment, study)))
    elif not quiet:
        print_tables(front_table(experiment, study), near_table(experiment, study))
        again = total - before
        console.print(
            f"{again} trained again; PCKh of one network between seeds: standard deviation "
            f"{confirmation.seed_deviation(experiment, study):.2f}"
            if again
            else "no network's place is uncertain: nothing to train again",
            soft_wrap=True,
        )


def _introduction(experiment: Experiment, trials: int, done: int, workers: int) -> str:
    config, schedule = experiment.config, experiment.config.short_schedule()
    size = config.data.input_size
    going = f", {done} done already" if done else ""
    return (
        f"study {config.name}: {trials} trials{going}, {workers} worker{'s' if workers > 1 else ''}, "
        f"{format_count(experiment.space.size)} points of {experiment.space.path.name}, "
        f"{schedule.images:,} pictures of {size}×{size} each\nkept in {mask_password(experiment.url)}"
    )


def _conclude(experiment: Experiment, study: Study, seconds: float) -> None:
    counts, points = count(study), points_of(study)
    print_tables(front_table(experiment, study), comparison_table(experiment, study))
    console.print(
        f"{counts.complete} finished, {counts.pruned} stopped early, in {seconds / 60:.1f} minutes; "
        f"hypervolume {hypervolume(points, experiment.scale):.4f}"
    )
    name = experiment.config.name
    console.print("next:")
    console.print(f"  python -m nas.dashboard --study {name}{experiment.location_flags}", soft_wrap=True)
    page = f"--html {name}.html"
    console.print(f"  python -m nas.report --study {name} {page}{experiment.location_flags}", soft_wrap=True)
    console.print(f"  python -m nas.retrain --study {name} --pick knee{experiment.location_flags}", soft_wrap=True)


if __name__ == "__main__":
    run(app)
