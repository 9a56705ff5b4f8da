"""Train found or published networks in full: ``python -m nas.retrain --study quickstart --pick knee``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from nas.console import Quiet, console, format_count, format_duration, progress, run
from nas.errors import UserError
from nas.options import command, new_app
from nas.study.analysis.baselines import Limits
from nas.study.execution.full_training import Result, choose, processes, retrain
from nas.study.experiment import load
from nas.training.devices import device_named, use_threads
from nas.training.loop import Epoch

app = new_app()


@command(app)
def main(
    study: Annotated[str, typer.Option(help="Name of a study that was searched.")] = "quickstart",
    trial: Annotated[int | None, typer.Option(help="Train this trial's network.")] = None,
    pick: Annotated[
        str | None, typer.Option(help="knee (best compromise), best (most accurate) or tradeoff (document A's score).")
    ] = None,
    all_front: Annotated[bool, typer.Option("--all-front", help="Train every network of the front.")] = False,
    max_params: Annotated[str | None, typer.Option(help="Pick among networks of at most so many, e.g. 1M.")] = None,
    max_madds: Annotated[str | None, typer.Option(help="Pick among networks of at most so many, e.g. 3G.")] = None,
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Pick among those that take at most so long a picture here.")
    ] = None,
    published: Annotated[str | None, typer.Option(help="Train a published network, e.g. hg2.")] = None,
    storage: Annotated[str | None, typer.Option(help="Database URL; by default the study's own SQLite.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each process.")] = 1,
    images: Annotated[int | None, typer.Option(help="Pictures to train on; the study's [full], if left out.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Equal parts, a checkpoint after each.")] = None,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train networks under the study's full schedule and store their PCKh back.

    --max-params, --max-madds and --max-latency leave out what is larger or slower, then --pick or --all-front choose.

    Stop it at any moment and give the same command again: it goes on from the last epoch. Several processes:
    torchrun --nproc-per-node 2 -m nas.retrain …

    Example: python -m nas.retrain --study quickstart --pick knee
    """
    place = device_named(device)
    if threads < 1:
        raise UserError(f"--threads {threads}: must be at least 1")
    experiment, opened = load(study, runs, storage)
    try:
        schedule = experiment.config.full_schedule()
        if images is not None or epochs is not None:
            schedule = replace(
                schedule,
                images=schedule.images if images is None else images,
                epochs=schedule.epochs if epochs is None else epochs,
            )
    except ValueError as error:
        raise UserError(f"--images {images}, --epochs {epochs}: {error}") from error
    limits = Limits.of(max_params, max_madds, max_latency, place)
    choices = choose(experiment, opened, trial, pick, all_front, published, limits)
    use_threads(threads)
    results = []
    with processes(place) as (rank, mine):
        talk = rank == 0 and not as_json
        for choice in choices:
            if talk:
                cost = experiment.cost(choice.candidate)
                console.print(
                    f"{choice.label}: {choice.candidate}: {format_count(cost.params)} params, "
                    f"{format_count(cost.madds)} MAdds, {schedule.steps * schedule.batch:,} pictures on {mine}",
                    soft_wrap=True,
                )

            def say(epoch: Epoch) -> None:
                if talk and not quiet and epoch.evaluation is not None:
                    console.print(
                        f"  epoch {epoch.number} of {schedule.epochs}: loss {epoch.loss:.3f}, "
                        f"PCKh {epoch.evaluation.accuracy.mean:.1f}, "
                        f"{epoch.images / max(epoch.seconds, 1e-9):,.0f} pictures/s"
                    )

            with progress("training", schedule.steps * schedule.batch, every=30.0) as advance:
                result = retrain(
                    experiment,
                    opened,
                    choice,
                    schedule,
                    mine,
                    rank,
                    after_epoch=say,
                    after_step=(lambda step: advance(step * schedule.batch)) if talk else (lambda step: None),
                )
            results.append(result)
            if talk:
                _show(result)
    if rank == 0 and as_json:
        print(json.dumps([asdict(result) for result in results]))


def _show(result: Result) -> None:
    before = "" if result.short_pckh is None else f" (search: {result.short_pckh:.1f} on its hold-out people)"
    console.print(
        f"{result.label}: PCKh@0.5 {result.pckh:.2f}{before}, with the flipped copy {result.pckh_flipped:.2f}, "
        f"joints by count {result.pckh_by_count:.2f}; {result.people} validation people; "
        f"trained {format_duration(result.seconds)}",
        soft_wrap=True,
    )
    console.print("  " + ", ".join(f"{group} {value:.1f}" for group, value in result.groups.items()), soft_wrap=True)
    console.print(f"  weights: {result.checkpoint}", soft_wrap=True)


if __name__ == "__main__":
    run(app)
