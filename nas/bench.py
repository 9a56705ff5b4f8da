"""Measure how fast networks train on this machine: ``python -m nas.bench``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.console import console, default_workers, print_json, print_tables, progress, run
from nas.errors import UserError
from nas.options import OutputOptions, command, new_app
from nas.study.files import CHECKOUT, write_file

if TYPE_CHECKING:
    from nas.benchmark.suite import SuiteResults, SuiteSettings

app = new_app()

NETWORKS = "hg2,separable_resconcat_narrowres,multidilated,shuffle,dice"


@dataclass(frozen=True)
class CaseOptions:
    """What is measured."""

    networks: Annotated[str, typer.Option(help="Published names, with commas.")] = NETWORKS
    sizes: Annotated[str, typer.Option(help="Heights = widths; the channels are those of 256, × SIZE / 256.")] = (
        "256,64"
    )
    batches: Annotated[str, typer.Option(help="Images per step.")] = "32,128"
    workers: Annotated[bool, typer.Option("--workers", help="Find how many workers a device serves best.")] = False


@dataclass(frozen=True)
class MeasurementOptions:
    """How it is measured."""

    seconds: Annotated[float, typer.Option(help="For each measurement.")] = 5.0
    rounds: Annotated[int, typer.Option(help="In which the workloads take turns.")] = 5
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"
    threads: Annotated[int, typer.Option(help="CPU threads of each process.")] = 1

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rounds < 1 or self.threads < 1:
            raise UserError("--seconds, --rounds and --threads must be above 0")


@dataclass(frozen=True)
class FileOptions:
    """Files to write."""

    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file.")] = None
    keep: Annotated[bool, typer.Option("--record", help="Write it to studies/records/, by device and date.")] = False

    def __post_init__(self) -> None:
        if self.out is not None and not self.out.parent.is_dir():
            raise UserError(f"--out {self.out}: there is no folder {self.out.parent}; give a file in one that exists")
        if self.keep and not RECORDS.is_dir():
            raise UserError("--record: there is no studies/records/ beside an installed package; give --out FILE")

    def paths(self, device: str) -> list[tuple[str, Path]]:
        """The files to write, each with the flag that asks for it; ``device`` names the record."""
        paths = [("--out", self.out)] if self.out is not None else []
        return [*paths, ("--record", _new_record(device))] if self.keep else paths


RECORDS = CHECKOUT / "studies" / "records"


@command(app)
def main(cases: CaseOptions, measurement: MeasurementOptions, files: FileOptions, output: OutputOptions) -> None:
    """Time training here, beside plain PyTorch and the least time possible.

    In turns: the bare step, full training, a plain PyTorch loop that decodes
    JPEGs, evaluation; how long a trial takes to start; and the device's own
    limits. With the targets for their ratios, met or not.

    Example: python -m nas.bench --networks hg2,shuffle --sizes 64 --seconds 2
    """
    from nas.benchmark.suite import run_suite
    from nas.study.provenance import record
    from nas.training.devices import use_threads

    settings = _settings(cases, measurement)
    use_threads(settings.threads)
    machine = record()
    paths = files.paths(str(machine["device"]))

    with progress("measuring", settings.cases) as advance:

        def save(results: SuiteResults) -> None:
            for flag, path in paths:
                write_file(path, f"{_to_json(results, machine)}\n".encode(), flag)
            advance(results.done)

        results = run_suite(settings, save)
    if output.as_json:
        print_json(results.to_dict(machine), indent=1)
    else:
        _print(results)
        for _, path in paths:
            console.print(f"written to {path}", soft_wrap=True)


def _settings(cases: CaseOptions, measurement: MeasurementOptions) -> SuiteSettings:
    """The suite that flags describe.

    Raises:
        UserError: there is no such network or device, or a size or batch is wrong.
    """
    from nas.benchmark.suite import SuiteSettings
    from nas.study.space.published import named
    from nas.training.devices import resolve_device

    candidates = {name: named(name).candidate for name in cases.networks.split(",")}
    return SuiteSettings(
        networks={name: (candidate.architecture, candidate.losses) for name, candidate in candidates.items()},
        sizes=_numbers(cases.sizes, "--sizes", 64),
        batches=_numbers(cases.batches, "--batches", 2),
        seconds=measurement.seconds,
        rounds=measurement.rounds,
        device=resolve_device(measurement.device),
        threads=measurement.threads,
        cores=default_workers(),
        concurrency=cases.workers,
    )


def _to_json(results: SuiteResults, machine: Any) -> str:
    return json.dumps(results.to_dict(machine), indent=1, ensure_ascii=False)


def _print(results: SuiteResults) -> None:
    from nas.benchmark.tables import case_title, concurrency_table, device_line, speed_table, target_table

    console.print(device_line(results), soft_wrap=True)
    print_tables(speed_table(results), target_table(results), concurrency_table(results))
    for case in results.cases:
        if case.skipped:
            console.print(f"{case_title(case)}: skipped: {case.skipped}", soft_wrap=True)


def _numbers(text: str, flag: str, multiple: int) -> list[int]:
    """The numbers of a flag's value, separated by commas."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or any(value < 1 or value % multiple for value in values):
        raise UserError(f"{flag} {text}: must be multiples of {multiple} with commas between them, such as 64,256")
    return values


def _new_record(device: str) -> Path:
    """A new file in studies/records/, named by device and date, with a number from the second one of a day on."""
    plain = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    name = f"bench-{plain}-{date.today().isoformat()}"
    paths = (RECORDS / f"{name}{f'-{number}' if number > 1 else ''}.json" for number in count(1))
    return next(path for path in paths if not path.exists())


if __name__ == "__main__":
    run(app)
