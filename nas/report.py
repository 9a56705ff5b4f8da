"""What a study has found: ``python -m nas.report --study quickstart``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from optuna.study import Study

from nas.console import Quiet, console, print_tables, run
from nas.errors import UserError
from nas.options import command, new_app
from nas.study.analysis.baselines import PICKS, Limits, pick, trial_of
from nas.study.analysis.results import load_results
from nas.study.analysis.seed_noise import mean_points, seed_deviation, seed_statistics
from nas.study.experiment import Experiment, images_of, load
from nas.study.pareto import hypervolume
from nas.study.reporting.dashboard import save_panels
from nas.study.reporting.html_report import write_page
from nas.study.reporting.paper_export import write_csv, write_figures
from nas.study.reporting.progress import (
    comparison_records,
    comparison_table,
    front_records,
    front_table,
    measured_table,
    near_records,
    near_table,
    records,
)
from nas.study.storage.study_store import count
from nas.training.devices import device_named

app = new_app()


@command(app)
def main(
    study: Annotated[str, typer.Option(help="Name of a study that was searched.")] = "quickstart",
    storage: Annotated[str | None, typer.Option(help="Database URL; by default the study's own SQLite.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    html: Annotated[Path | None, typer.Option(help="Write one page that explains the study, for a browser.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all finished trials as a table.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Write PNG and SVG figures for a paper into a folder.")] = None,
    how: Annotated[str | None, typer.Option("--pick", help="Print one choice: knee, best or tradeoff.")] = None,
    trial: Annotated[int | None, typer.Option(help="Print this finished trial.")] = None,
    published: Annotated[str | None, typer.Option(help="Print the trial of this published network.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Pick among networks of at most so many, e.g. 1M.")] = None,
    max_madds: Annotated[str | None, typer.Option(help="Pick among networks of at most so many, e.g. 3G.")] = None,
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Pick among those that take at most so long a picture here.")
    ] = None,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the front, and row by row how near it comes to the published networks.

    The published networks are those of the study's `baselines`, trained under
    the same short schedule as every candidate. Trade-off is document A's score
    against the study's own hg2: 0.8 times the change of PCKh, 0.1 times the
    MAdds and 0.1 times the params saved, all in per cent. "On front" is the
    probability that no other network beats it, seeds being noisy; nas.search
    --confirm trains the least certain again. Panels of the study's dashboard are
    brought up to date as well.

    Example: python -m nas.report --study quickstart --html quickstart.html
    """
    limits = Limits.of(max_params, max_madds, max_latency, device_named("auto"))
    one = [how is not None, trial is not None, published is not None]
    if sum(one) > 1:
        raise UserError("give one of --pick, --trial and --published")
    if limits and how is None:
        raise UserError(f"{limits}: say what to pick within it: --pick {'|'.join(PICKS)}")
    experiment, opened = load(study, runs, storage)
    if any(one):
        if how is not None:
            trial = pick(experiment, opened, how, limits).number
        elif published is not None:
            trial = trial_of(experiment, opened, published)
        assert trial is not None
        _print_one(experiment, opened, trial, as_json)
        return
    found = None
    if html is not None or csv is not None or figures is not None:
        found = load_results(experiment, opened)
    if found is not None and html is not None:
        write_page(found, html)
    if found is not None and csv is not None:
        write_csv(found, csv)
    if found is not None and figures is not None:
        write_figures(found, figures)
    points, counts = mean_points(experiment, opened), count(opened)
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
            "noise": seed_deviation(experiment, opened),
            "front": front_records(experiment, opened),
            "near": near_records(experiment, opened),
            "baselines": comparison_records(experiment, opened),
        }
        print(json.dumps(about))
        return
    save_panels(experiment, opened)
    schedule = experiment.config.short_schedule()
    console.print(
        f"study {study}: {counts.complete} finished, {counts.pruned} stopped early or for comparison only; "
        f"{images:,} pictures trained, {schedule.images:,} for each to the end; hypervolume {volume:.4f}",
        soft_wrap=True,
    )
    print_tables(front_table(experiment, opened), near_table(experiment, opened), comparison_table(experiment, opened))
    if picks:
        chosen = ", ".join(f"{pick} {number}" for pick, number in picks.items())
        command = f"python -m nas.retrain --study {study} --pick {next(iter(picks))}{experiment.location_flags}"
        console.print(f"picks, by trial: {chosen}; {command}", soft_wrap=True)
    for path in (html, csv, figures):
        if path is not None:
            console.print(f"wrote {path}", soft_wrap=True)


def _print_one(experiment: Experiment, study: Study, number: int, as_json: bool) -> None:
    """One finished network, and how to train it."""
    measured = next((m for m in seed_statistics(experiment, study) if m.number == number), None)
    if measured is None:
        raise UserError(f"--trial {number}: study {experiment.config.name} has no finished trial of that number")
    if as_json:
        print(json.dumps(records(experiment, study, [measured])[0]))
        return
    print_tables(measured_table(f"study {experiment.config.name}", experiment, study, [measured]))
    command = f"python -m nas.retrain --study {experiment.config.name} --trial {number}{experiment.location_flags}"
    console.print(command, soft_wrap=True)


def _picks(experiment: Experiment, study: Study) -> dict[str, int]:
    """The trial that each way of picking chooses; a way that this study does not allow is left out."""
    picks = {}
    for how in PICKS:
        with suppress(UserError):
            picks[how] = pick(experiment, study, how).number
    return picks


if __name__ == "__main__":
    run(app)
