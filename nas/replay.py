"""Compare samplers and stopping rules on recorded results: ``python -m nas.replay --record FILE``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.console import console, default_workers, existing_file, progress, run
from nas.errors import UserError
from nas.options import CodeOptions, LocationOptions, OutputOptions, command, new_app
from nas.study.files import check_study_exists, find, write_file

if TYPE_CHECKING:
    from nas.study.analysis.replay import BenchmarkTable
    from nas.study.space.search_space import SearchSpace

app = new_app()

POLICIES = ("random", "nsga2", "tpe", "front", "front+reach", "front+halving")
"""Replayed where none is named: GP, which takes seconds for a proposal, is left out."""


@dataclass(frozen=True)
class RecordOptions:
    """Which results are replayed, and where they are saved."""

    record: Annotated[Path | None, typer.Option(help="Recorded results, of studies/records or of --save.")] = None
    study: Annotated[str | None, typer.Option(help="Instead: a study that was searched.")] = None
    save: Annotated[Path | None, typer.Option(help="Write the study's results as a record, and stop.")] = None
    how: Annotated[str, typer.Option(help="How they were made, for --save.")] = ""

    def __post_init__(self) -> None:
        if (self.record is None) == (self.study is None):
            raise UserError("give either --record FILE or --study NAME")
        if self.save is not None and self.study is None:
            raise UserError(f"--save {self.save} belongs to --study; a record is saved already")


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed, and how often."""

    policy: Annotated[
        list[str] | None, typer.Option(help="Sampler, or sampler+stopping, such as tpe or front+reach; repeat it.")
    ] = None
    trials: Annotated[int, typer.Option(help="Trials of each replay.")] = 150
    seeds: Annotated[int, typer.Option(help="Replays of each policy.")] = 20
    quantile: Annotated[float, typer.Option(help="Of the gains that reach expects.")] = 0.5
    workers: Annotated[int | None, typer.Option(help="Processes; by default one per core.")] = None

    def __post_init__(self) -> None:
        counts = (("--trials", self.trials, 2), ("--seeds", self.seeds, 1), ("--workers", self.workers or 1, 1))
        for flag, value, least in counts:
            if value < least:
                raise UserError(f"{flag} {value}: must be at least {least}")
        if not 0 <= self.quantile <= 1:
            raise UserError(f"--quantile {self.quantile:g}: must be from 0 to 1")


@command(app)
def main(
    replays: ReplayOptions,
    source: RecordOptions,
    location: LocationOptions,
    code: CodeOptions,
    output: OutputOptions,
) -> None:
    """Search recorded results again, with other samplers and stopping rules.

    Samplers: front, tpe, nsga2, gp, random. Stopping: reach (the study's rule: a
    trial ends when it can no longer reach a finished network that costs no more)
    or halving (successive halving by non-dominated rank); none if not named.
    Every proposal is replaced by the recorded network nearest to it.

    Example: python -m nas.replay --study landscape --policy tpe --policy front+reach
    """
    if source.study is not None:
        check_study_exists(source.study, location.runs, location.storage)
    if source.record is not None:
        existing_file(source.record, "--record")

    from nas.study.analysis.replay import TabularBenchmark
    from nas.study.analysis.replay_comparison import ReplaySettings, parse_policy, replay_policies
    from nas.study.reporting.replay_tables import policy_record, print_comparison

    record, space = _recorded(source, location)
    if source.save is not None:
        write_file(source.save, record.to_json().encode(), "--save")
        console.print(f"{source.save}: {len(record.rows)} networks", soft_wrap=True)
        return
    TabularBenchmark(record, space)  # refuses a space that has changed before any process starts
    policies = list(dict.fromkeys(replays.policy or POLICIES))
    for policy in policies:
        parse_policy(policy)
    trials, workers = min(replays.trials, len(record.rows)), replays.workers or default_workers()
    settings = ReplaySettings(trials, replays.seeds, replays.quantile, workers)
    with progress("replaying", len(policies) * settings.seeds) as advance:
        results = replay_policies(record, space, policies, settings, advance)
    if output.as_json:
        print(json.dumps({"noise": record.noise, "policies": [policy_record(*each) for each in results.items()]}))
        return
    print_comparison(record, results, settings.seeds)


def _recorded(source: RecordOptions, location: LocationOptions) -> tuple[BenchmarkTable, SearchSpace]:
    """The results of a record or of a study, and the space that they were drawn from."""
    from nas.study.analysis.replay import BenchmarkTable
    from nas.study.experiment import load
    from nas.study.space.space_file import read_space

    if source.record is not None:
        record = BenchmarkTable.read(source.record)
        return record, read_space(find(record.space, "search_spaces"))
    assert source.study is not None
    experiment, study = load(source.study, location.runs, location.storage)
    about = {"what": f"study {source.study}", "how": source.how}
    return BenchmarkTable.of(experiment, study, about), experiment.space


if __name__ == "__main__":
    run(app)
