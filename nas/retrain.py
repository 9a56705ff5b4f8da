"""Train found or published networks in full: ``python -m nas.retrain --study quickstart --pick knee``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from nas import interrupts
from nas.console import console, format_count, format_duration, progress, run
from nas.errors import UserError
from nas.options import (
    CodeOptions,
    LocationOptions,
    OutputOptions,
    People,
    ScheduleOptions,
    SelectionOptions,
    command,
    new_app,
)
from nas.study.files import check_study_exists

if TYPE_CHECKING:
    from optuna.study import Study

    from nas.study.execution.full_training import RetrainResult
    from nas.study.execution.network_selection import SelectedNetwork
    from nas.study.experiment import Experiment
    from nas.training.loop import Epoch
    from nas.training.schedule import ScheduleConfig

app = new_app()


@command(app)
def main(
    selection: SelectionOptions,
    length: ScheduleOptions,
    code: CodeOptions,
    location: LocationOptions,
    output: OutputOptions,
    study: Annotated[str, typer.Option(help="Name of a study that was searched.")] = "quickstart",
    data: People = None,
    all_front: Annotated[bool, typer.Option("--all-front", help="Train every network of the front.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each process.")] = 1,
) -> None:
    """Train networks under the study's full schedule and store their PCKh with the study.

    --max-params, --max-madds and --max-latency leave out what is larger or slower, then --pick or --all-front choose.

    Stop it at any moment and give the same command again: it resumes after the last epoch. Several processes:
    torchrun --nproc-per-node 2 -m nas.retrain …

    Example: python -m nas.retrain --study quickstart --pick knee
    """
    if threads < 1:
        raise UserError(f"--threads {threads}: must be at least 1")
    check_study_exists(study, location.runs, location.storage)

    from nas.study.execution.full_training import processes
    from nas.study.execution.network_selection import select_networks
    from nas.study.experiment import load
    from nas.training.devices import resolve_device, use_threads

    limits = selection.limits(device)
    experiment, opened = load(study, location.runs, location.storage, data)
    schedule = _schedule(experiment, length)
    networks = select_networks(
        experiment, opened, selection.trial, selection.pick, all_front, selection.published, limits
    )
    use_threads(threads)
    interrupts.work_begins()
    with processes(resolve_device(device)) as (rank, own_device):
        printed = _Progress(experiment, schedule, output, silent=rank != 0 or output.as_json)
        results = [_train(experiment, opened, network, own_device, rank, printed) for network in networks]
    if rank == 0 and output.as_json:
        print(json.dumps([asdict(result) for result in results]))


def _schedule(experiment: Experiment, length: ScheduleOptions) -> ScheduleConfig:
    """The study's full schedule, with the length that flags ask for.

    Raises:
        UserError: such a schedule is impossible.
    """
    schedule = experiment.config.full_schedule()
    try:
        return replace(
            schedule,
            images=schedule.images if length.images is None else length.images,
            epochs=schedule.epochs if length.epochs is None else length.epochs,
        )
    except ValueError as error:
        raise UserError(f"--images {length.images}, --epochs {length.epochs}: {error}") from error


def _train(
    experiment: Experiment, study: Study, network: SelectedNetwork, device: str, rank: int, printed: _Progress
) -> RetrainResult:
    """Train one network, printing what it is, its epochs and its result."""
    from nas.study.execution.full_training import retrain
    from nas.training.loop import TrainingHooks

    schedule = printed.schedule
    printed.network(network, device)
    with progress("training", schedule.steps * schedule.batch, every=30.0) as advance:
        result = retrain(
            experiment,
            study,
            network,
            schedule,
            device,
            rank,
            TrainingHooks(
                after_epoch=printed.epoch,
                after_step=lambda step: None if printed.silent else advance(step * schedule.batch),
            ),
        )
    printed.result(result)
    return result


class _Progress:
    """Prints networks, epochs and results as training goes on; nothing if silent."""

    def __init__(self, experiment: Experiment, schedule: ScheduleConfig, output: OutputOptions, silent: bool) -> None:
        self.experiment, self.schedule, self.quiet, self.silent = experiment, schedule, output.quiet, silent

    def network(self, network: SelectedNetwork, device: str) -> None:
        """The network that is trained next."""
        if self.silent:
            return
        cost = self.experiment.cost(network.candidate)
        console.print(
            f"{network.label}: {network.candidate}: {format_count(cost.params)} params, "
            f"{format_count(cost.madds)} MAdds, {self.schedule.steps * self.schedule.batch:,} images on {device}",
            soft_wrap=True,
        )

    def epoch(self, epoch: Epoch) -> None:
        """Print one epoch of it."""
        if self.silent or self.quiet or epoch.evaluation is None:
            return
        console.print(
            f"  epoch {epoch.number} of {self.schedule.epochs}: loss {epoch.loss:.3f}, "
            f"PCKh {epoch.evaluation.accuracy.mean:.1f}, "
            f"{epoch.images / max(epoch.seconds, 1e-9):,.0f} images/s"
        )

    def result(self, result: RetrainResult) -> None:
        """What it reached."""
        if self.silent:
            return
        searched = "" if result.short_pckh is None else f" (search: {result.short_pckh:.1f} on its hold-out people)"
        groups = ", ".join(f"{group} {value:.1f}" for group, value in result.groups.items())
        for line in (
            f"{result.label}: PCKh@0.5 {result.pckh:.2f}{searched}, with the flipped copy {result.pckh_flipped:.2f}, "
            f"joints by count {result.pckh_by_count:.2f}; {result.people} validation people; "
            f"trained {format_duration(result.seconds)}",
            f"  {groups}",
            f"  weights: {result.checkpoint}",
        ):
            console.print(line, soft_wrap=True)


if __name__ == "__main__":
    run(app)
