"""Measure how fast networks train on this machine: ``python -m nas.bench``."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from itertools import count
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from nas.benchmark.concurrency import COUNTS, ConcurrencyMeasurement, best_workers, measure_concurrency
from nas.benchmark.dataloader_baseline import write_images
from nas.benchmark.measure import EVALUATED, Case, measure
from nas.benchmark.roofline import Rates, measure_rates
from nas.benchmark.targets import Target, targets
from nas.benchmark.task import Task
from nas.console import Quiet, console, default_workers, print_tables, progress, run
from nas.data.packed.options import PackOptions
from nas.data.packed.synthetic import pack_synthetic
from nas.data.synthetic.scene import SceneConfig
from nas.errors import UserError
from nas.options import command, new_app
from nas.study.experiment import record
from nas.study.files import CHECKOUT
from nas.study.space.candidate import Candidate
from nas.study.space.published import named
from nas.training.checkpoint import write_atomically
from nas.training.devices import resolve_device, use_threads
from nas.training.schedule import ScheduleConfig

app = new_app()

NETWORKS = "hg2,separable_resconcat_narrowres,multidilated,shuffle,dice"
PEOPLE, PICTURES = 256, 64
FULL_WIDTH = 256
"""Pictures of this side have the papers' widths; smaller ones have narrower networks, as in the quickstart."""


@command(app)
def main(
    networks: Annotated[str, typer.Option(help="Published names, with commas.")] = NETWORKS,
    sizes: Annotated[
        str, typer.Option(help="Heights = widths; the channels are those of 256, × SIZE / 256.")
    ] = "256,64",
    batches: Annotated[str, typer.Option(help="Pictures a step.")] = "32,128",
    seconds: Annotated[float, typer.Option(help="For each measurement.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="In which rivals take turns.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each process.")] = 1,
    workers: Annotated[bool, typer.Option("--workers", help="Find how many workers a device serves best.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file.")] = None,
    keep: Annotated[bool, typer.Option("--record", help="Write it to studies/records/, by device and date.")] = False,
    quiet: Quiet = False,
) -> None:
    """Time training here, beside plain PyTorch and the least time possible.

    In turns: the bare step, full training, a plain PyTorch loop that decodes
    JPEGs, evaluation; how long a trial takes to begin; and the device's own
    limits. With the ratios that are wanted of them, met or not.

    Example: python -m nas.bench --networks hg2,shuffle --sizes 64 --seconds 2
    """
    place = resolve_device(device)
    chosen = {name: named(name).candidate for name in networks.split(",")}
    sides, counts = _numbers(sizes, "--sizes", 64), _numbers(batches, "--batches", 2)
    if seconds <= 0 or rounds < 1 or threads < 1:
        raise UserError("--seconds, --rounds and --threads must be above 0")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; give a file in one that exists")
    use_threads(threads)
    cores = default_workers()
    rates = measure_rates(torch.device(place))
    about = record()
    where = torch.cuda.get_device_name() if place == "cuda" else "cpu"
    files = [out] if out is not None else []
    if keep:
        records = CHECKOUT / "studies" / "records"
        if not records.is_dir():
            raise UserError("--record: there is no studies/records/ beside an installed package; give --out FILE")
        files.append(_free(records, str(about["device"]) if where == "cpu" else where))
    settings = {"device": where, "threads": threads, "cores": cores, "seconds": seconds, "rounds": rounds}
    cases: list[Case] = []
    shared: list[_Shared] = []
    found: list[Target] = []
    text = ""
    total = len(chosen) * len(sides) * len(counts)
    with tempfile.TemporaryDirectory(prefix="nas-bench-") as folder, progress("measuring", total) as advance:
        for name, scale, task, images in _tasks(Path(folder), chosen, sides, counts, place, cores):
            if workers:
                tried = [number for number in COUNTS if place != "cpu" or number <= cores]
                sharing = measure_concurrency(task, images, counts=tried, seconds=seconds, rounds=rounds)
                shared.append(_Shared(name, task.input_size, task.schedule.batch, sharing))
            else:
                cases.append(measure(name, task, scale, rates, images, seconds=seconds, rounds=rounds, cores=cores))
                found += targets(cases[-1], where, cores)
            content = {
                "date": date.today().isoformat(),
                "record": dict(about),
                **settings,
                "rates": asdict(rates),
                "cases": [case.to_dict() for case in cases],
                "goals": [asdict(goal) for goal in found],
                "sharing": [asdict(each) for each in shared],
            }
            text = json.dumps(content, indent=1, ensure_ascii=False)
            for file in files:  # each time: a large network takes long, and what was measured stays measured
                write_atomically(file, f"{text}\n".encode())
            advance(len(cases) + len(shared))
    if as_json:
        print(text)
    else:
        console.print(_limits(where, threads, cores, rates), soft_wrap=True)
        print_tables(_speeds(cases), _ratios(cases, found) if cases else None, _sharing(shared))
        for case in cases:
            if case.skipped:
                console.print(f"{_title(case)}: skipped: {case.skipped}", soft_wrap=True)
        for file in files:
            console.print(f"written to {file}", soft_wrap=True)


@dataclass(frozen=True)
class _Shared:
    """How well workers share the device when they train one network."""

    network: str
    input_size: int
    batch: int
    tried: list[ConcurrencyMeasurement]


def _tasks(
    folder: Path, chosen: Mapping[str, Candidate], sides: list[int], batches: list[int], device: str, cores: int
) -> Iterator[tuple[str, float, Task, int]]:
    """Every network at every size and batch, with its people drawn: name, width scale, task, pictures of a trial."""
    pictures = folder / "pictures"
    pictures.mkdir()
    write_images(pictures, PICTURES)
    for side in sides:
        packed, scale = folder / f"{side}.h5", side / FULL_WIDTH
        pack_synthetic(packed, {"train": PEOPLE}, 0, SceneConfig(), PackOptions(side, cores))
        for name, candidate in chosen.items():
            for batch in batches:
                architecture, schedule = candidate.architecture.scaled(scale), _schedule(side, batch)
                task = Task(architecture, candidate.losses, schedule, packed, pictures, side, device)
                yield name, scale, task, _trial_images(side)


def _schedule(side: int, batch: int) -> ScheduleConfig:
    """The recipe of studies/quickstart.toml, and above its size that of studies/mpii.toml; of any length."""
    rate, sigma = (6e-3, 0.6) if side <= 64 else (2e-3, 1.5)
    return ScheduleConfig(batch, 1, batch, learning_rate=rate, loss="cross_entropy", sigma=sigma)


def _trial_images(side: int) -> int:
    """Pictures of a short trial, as in the same studies."""
    return 4_000 if side <= 64 else 44_000


def _numbers(text: str, flag: str, multiple: int) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or any(value < 1 or value % multiple for value in values):
        raise UserError(f"{flag} {text}: must be multiples of {multiple} with commas between them, such as 64,256")
    return values


def _free(folder: Path, device: str) -> Path:
    """A record's file, by device and date; a second one of a day has a number."""
    plain = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    name = f"bench-{plain}-{date.today().isoformat()}"
    there = (folder / f"{name}{f'-{number}' if number > 1 else ''}.json" for number in count(1))
    return next(file for file in there if not file.exists())


def _title(case: Case) -> str:
    return f"{case.name} {case.input_size}×{case.input_size} batch {case.batch}"


def _limits(device: str, threads: int, cores: int, rates: Rates) -> str:
    on_cpu = f", {threads} thread{'s'[: threads > 1]} of {cores} cores" if device == "cpu" else ""
    return (
        f"{device}{on_cpu}: {rates.madds / 1e9:,.0f} G multiply-adds/s in {rates.dtype}, "
        f"{rates.bytes / 1e9:,.1f} GB/s read and written"
    )


def _speeds(cases: list[Case]) -> Table | None:
    measured = [case for case in cases if not case.skipped]
    if not measured:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), title="images/s, median of the rounds", title_justify="left")
    table.add_column("network")
    ways = list(dict.fromkeys(way for case in measured for way in case.rates))
    for way in ("floor", *ways, f"{EVALUATED:,} people", "first trial", "later"):
        table.add_column(way, justify="right")
    for case in measured:
        shown = [f"{case.rates[way].median:,.4g}" if way in case.rates else "–" for way in ways]
        times = (case.evaluation_seconds, case.first, case.later.median if case.later else None)
        table.add_row(
            _title(case),
            f"{case.floor_rate:,.4g}",
            *shown,
            *("–" if value is None else f"{value:.2g} s" for value in times),
        )
    return table


def _ratios(cases: list[Case], found: list[Target]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title="goals", title_justify="left")
    table.add_column("network")
    table.add_column("what")
    for column in ("measured", "wanted"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    spreads = {(_title(case), name): spread for case in cases for name, spread in case.ratios.items()}
    for goal in found:
        value = spreads.get((goal.case, goal.what)) or goal.value
        shown = "–" if value is None else str(value) if not isinstance(value, float) else f"{value:,.3g}"
        table.add_row(goal.case, goal.what, shown, goal.wanted, goal.verdict)
    return table


def _sharing(shared: list[_Shared]) -> Table | None:
    if not shared:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), title="workers on one device", title_justify="left")
    table.add_column("network")
    for column in ("workers", "images/s", "a trial begins in", "trials/hour"):
        table.add_column(column, justify="right")
    table.add_column("")
    for each in shared:
        best = best_workers(each.tried) if each.tried else None
        for tried in each.tried:
            table.add_row(
                f"{each.network} {each.input_size}×{each.input_size} batch {each.batch}",
                str(tried.workers),
                f"{tried.images_per_second:,.4g}",
                f"{tried.beginning:.2g} s",
                f"{tried.trials_per_hour:,.4g}",
                "best" if tried is best else "",
            )
    return table


if __name__ == "__main__":
    run(app)
