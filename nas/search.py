"""Search for networks: ``python -m nas.search --trials 50``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas import interrupts
from nas.console import parse_count, print_note, run
from nas.errors import UserError
from nas.options import CodeOptions, LocationOptions, OutputOptions, ScheduleOptions, command, new_app
from nas.study.files import checkpoint_folder, find

if TYPE_CHECKING:
    from nas.study.config import StudyConfig

app = new_app()

MAX_WORKERS = 1024
"""Largest number of processes on one machine: more is a slip of the finger."""


@dataclass(frozen=True)
class OverrideOptions(ScheduleOptions):
    """Values that replace those of the study file."""

    space: Annotated[str | None, typer.Option(help="A space file, or the name of one in search_spaces/.")] = None
    name: Annotated[str | None, typer.Option(help="Name to store it under; by default the file's.")] = None
    data: Annotated[Path | None, typer.Option(help="Packed people (nas.prepare) instead of the study's.")] = None
    sampler: Annotated[str | None, typer.Option(help="front, tpe, nsga2, gp or random.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of proposals, weights and synthetic people.")] = None
    max_params: Annotated[str | None, typer.Option(help="Train nothing larger, e.g. 1.5M.")] = None
    max_madds: Annotated[str | None, typer.Option(help="Train nothing costlier, e.g. 3G.")] = None
    max_layers: Annotated[int | None, typer.Option(help="Train nothing with more layers, which take time.")] = None
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Train nothing slower per image, measured here.")
    ] = None

    def values(self) -> dict[str, Any]:
        """The values by their dotted keys in a study file; None where the file's stands.

        Raises:
            UserError: there is no such space, or a limit is not a positive count.
        """
        return {
            "name": self.name,
            "space": None if self.space is None else str(find(self.space, "search_spaces").resolve()),
            "seed": self.seed,
            "data.file": str(self.data.resolve()) if self.data else None,
            "schedule.images": self.images,
            "schedule.epochs": self.epochs,
            "budget.max_params": parse_count(self.max_params, "--max-params"),
            "budget.max_madds": parse_count(self.max_madds, "--max-madds"),
            "budget.max_layers": self.max_layers,
            "budget.max_latency_ms": self.max_latency,
            "sampler.name": self.sampler,
        }


@dataclass(frozen=True)
class WorkerOptions:
    """Which processes train, and where they save unfinished trials."""

    workers: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Processes; default: one per core/GPU; auto: measured.")
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"
    checkpoints: Annotated[str | None, typer.Option(help="Folder or URL for unfinished trials; remembered.")] = None

    def __post_init__(self) -> None:
        if self.workers not in (None, "auto") and not (self.workers.isdecimal() and int(self.workers) > 0):
            raise UserError(f"--workers {self.workers}: must be a number of processes from 1 on, or auto")
        if self.workers not in (None, "auto") and int(self.workers) > MAX_WORKERS:
            raise UserError(f"--workers {self.workers}: at most {MAX_WORKERS} on one machine")


@dataclass(frozen=True)
class CheckOptions:
    """What to do instead of searching: check how far the results can be trusted."""

    calibrate: Annotated[int | None, typer.Option(help="Instead: rank N architectures after a longer schedule.")] = None
    confirm: Annotated[int | None, typer.Option(help="Instead: train the N least certain networks again.")] = None

    def __post_init__(self) -> None:
        if self.calibrate is not None and self.calibrate < 3:
            raise UserError(f"--calibrate {self.calibrate}: must be at least 3; 12 give a usable estimate")
        if self.confirm is not None and self.confirm < 1:
            raise UserError(f"--confirm {self.confirm}: must be at least 1")
        if self.confirm is not None and self.calibrate is not None:
            raise UserError("give either --calibrate or --confirm")


@command(app)
def main(
    location: LocationOptions,
    overrides: OverrideOptions,
    workers: WorkerOptions,
    checks: CheckOptions,
    code: CodeOptions,
    output: OutputOptions,
    trials: Annotated[int, typer.Option(help="Trials of the study, over all workers and sessions.")] = 50,
    study: Annotated[str, typer.Option(help="A study file, or the name of one in studies/.")] = "quickstart",
) -> None:
    """Search a space for the Pareto front of PCKh against params and MAdds.

    Stop it at any moment and give the same command again: it resumes.

    --calibrate 12 trains 12 architectures, from small to large, under the
    study's schedule and one four times longer, and prints the rank correlation.
    --confirm 5 trains the 5 least certain of the front under two more seeds.

    Example: python -m nas.search --study mpii --data mpii.h5 --trials 50
    """
    if trials < 1:
        raise UserError(f"--trials {trials}: must be at least 1")
    file, values = find(study, "studies"), overrides.values()

    from nas.consent import allow_code
    from nas.study.config import StudyConfig
    from nas.study.execution.preflight import check_trainable
    from nas.study.execution.worker_pool import devices_for
    from nas.study.experiment import prepare
    from nas.study.reporting.search_session import SearchSession, calibrate, confirm, run_search, worker_count
    from nas.study.space.space_file import blocks_of_ones_own
    from nas.training.devices import resolve_device

    device = resolve_device(workers.device)
    if overrides.space is not None:  # who names a space here trusts its blocks
        allow_code(blocks_of_ones_own(Path(values["space"])))
    config = _override(StudyConfig.read(file), values)
    folder = None if workers.checkpoints is None else checkpoint_folder(workers.checkpoints, "--checkpoints")
    experiment = prepare(config, location.runs, location.storage, folder)
    check_trainable(experiment)
    opened = experiment.open_study()
    changes = experiment.store_changes(opened)
    if changes and not output.quiet:
        print_note(f"from now on, {'; '.join(changes)}")
    processes = worker_count(workers.workers, experiment, device, output.quiet or output.as_json)
    interrupts.work_begins()
    session = SearchSession(experiment, opened, devices_for(device, processes), output.quiet, output.as_json)
    if checks.calibrate is not None:
        calibrate(session, checks.calibrate)
    elif checks.confirm is not None:
        confirm(session, checks.confirm)
    else:
        run_search(session, trials)


def _override(config: StudyConfig, values: dict[str, Any]) -> StudyConfig:
    """Replace values of a study, given by dotted keys, and validate it again.

    Raises:
        UserError: a value is not allowed; the message names the flag.
    """
    from pydantic import ValidationError

    raw = config.model_dump(exclude_none=True)
    for key, value in values.items():
        if value is None:
            continue
        *tables, last = key.split(".")
        table = raw
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = value
    try:
        return type(config).model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        flag = str(problem["loc"][-1]) if problem["loc"] else "study"
        flag = {"max_latency_ms": "max_latency", "file": "data"}.get(flag, flag)
        if flag == "name" and "sampler" in problem["loc"]:
            flag = "sampler"
        shown = "" if isinstance(problem.get("input"), dict) else f" {problem.get('input')}"
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"--{flag.replace('_', '-')}{shown}: {message}") from error


if __name__ == "__main__":
    run(app)
