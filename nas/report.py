"""What a study has found: ``python -m nas.report --study quickstart``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from optuna.study import Study

from nas.console import console, print_tables, run
from nas.errors import UserError
from nas.study.comparison import PICKS, pick
from nas.study.confirmation import noise_of
from nas.study.display import (
    comparison_records,
    comparison_table,
    elsewhere,
    front_records,
    front_table,
    near_records,
    near_table,
)
from nas.study.experiment import Experiment, images_of, load, points_of
from nas.study.front import hypervolume
from nas.study.storage import count

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    study: Annotated[str, typer.Option(help="Name of a study that was searched.")] = "quickstart",
    storage: Annotated[str | None, typer.Option(help="Database URL; by default the study's own SQLite.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the front, and row by row how near it comes to the published networks.

    The published networks are those of the study's `baselines`, trained under
    the same short schedule as every candidate. Trade-off is document A's score
    against the study's own hg2: 0.8 times the change of PCKh, 0.1 times the
    MAdds and 0.1 times the params saved, all in per cent. "On front" is the
    probability that no other network beats it, seeds being noisy; nas.search
    --confirm trains the least certain again.

    Example: python -m nas.report --study quickstart --json
    """
    experiment, opened = load(study, runs, storage)
    points, counts = points_of(opened), count(opened)
    images = images_of(opened)
    volume = hypervolume(points, experiment.scale)
    picks = _picks(experiment, opened)
    if as_json:
        about = {
            "study": study,
            "input_size": experiment.config.data.input_size,
            "width_scale": experiment.config.width_scale,
            "finished": counts.complete,
            "stopped": counts.pruned,
            "images": images,
            "hypervolume": volume,
            "picks": picks,
            "noise": noise_of(experiment, opened),
            "front": front_records(experiment, opened),
            "near": near_records(experiment, opened),
            "baselines": comparison_records(experiment, opened),
        }
        print(json.dumps(about))
        return
    schedule = experiment.config.short_schedule()
    console.print(
        f"study {study}: {counts.complete} finished, {counts.pruned} stopped early or for comparison only; "
        f"{images:,} pictures trained, {schedule.images:,} for each to the end; hypervolume {volume:.4f}",
        soft_wrap=True,
    )
    print_tables(front_table(experiment, opened), near_table(experiment, opened), comparison_table(experiment, opened))
    if picks:
        chosen = ", ".join(f"{pick} {number}" for pick, number in picks.items())
        command = f"python -m nas.retrain --study {study} --pick {next(iter(picks))}{elsewhere(experiment)}"
        console.print(f"picks, by trial: {chosen}; {command}", soft_wrap=True)


def _picks(experiment: Experiment, study: Study) -> dict[str, int]:
    """The trial that each way of picking chooses; a way that this study does not allow is left out."""
    picks = {}
    for how in PICKS:
        with suppress(UserError):
            picks[how] = pick(experiment, study, how).number
    return picks


if __name__ == "__main__":
    run(app)
