"""What ``nas.report`` prints: a study's front, its comparison with published networks, and what to do next."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from optuna.study import Study

from nas.console import console, print_tables
from nas.errors import UserError
from nas.study.analysis.baselines import PICKS, pick
from nas.study.analysis.seed_noise import mean_points, seed_deviation, seed_statistics
from nas.study.experiment import Experiment, images_of
from nas.study.pareto import hypervolume
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


def study_record(experiment: Experiment, study: Study) -> dict[str, Any]:
    """The report as plain values for JSON."""
    counts = count(study)
    return {
        "study": experiment.config.name,
        "input_size": experiment.config.data.input_size,
        "width_scale": experiment.config.width_scale,
        "finished": counts.complete,
        "stopped": counts.pruned,
        "images": images_of(study),
        "hypervolume": hypervolume(mean_points(experiment, study), experiment.scale),
        "picks": _picks(experiment, study),
        "noise": seed_deviation(experiment, study),
        "front": front_records(experiment, study),
        "near": near_records(experiment, study),
        "baselines": comparison_records(experiment, study),
    }


def print_study(experiment: Experiment, study: Study) -> None:
    """Print the figures of a study, its front, the comparison with published networks, and the trials to retrain."""
    counts, schedule, name = count(study), experiment.config.short_schedule(), experiment.config.name
    volume = hypervolume(mean_points(experiment, study), experiment.scale)
    console.print(
        f"study {name}: {counts.complete} finished, {counts.pruned} stopped early or for comparison only; "
        f"{images_of(study):,} images trained, {schedule.images:,} for each full trial; hypervolume {volume:.4f}",
        soft_wrap=True,
    )
    print_tables(front_table(experiment, study), near_table(experiment, study), comparison_table(experiment, study))
    picks = _picks(experiment, study)
    if picks:
        chosen = ", ".join(f"{way} {number}" for way, number in picks.items())
        command = f"python -m nas.retrain --study {name} --pick {next(iter(picks))}{experiment.location_flags}"
        console.print(f"picks, by trial: {chosen}; {command}", soft_wrap=True)


def print_trial(experiment: Experiment, study: Study, number: int, as_json: bool) -> None:
    """Print one finished trial, and the command that trains its network in full.

    Raises:
        UserError: the study has no finished trial of that number.
    """
    name = experiment.config.name
    statistics = next((each for each in seed_statistics(experiment, study) if each.number == number), None)
    if statistics is None:
        raise UserError(f"--trial {number}: study {name} has no finished trial of that number")
    if as_json:
        print(json.dumps(records(experiment, study, [statistics])[0]))
        return
    print_tables(measured_table(f"study {name}", experiment, study, [statistics]))
    command = f"python -m nas.retrain --study {name} --trial {number}{experiment.location_flags}"
    console.print(command, soft_wrap=True)


def _picks(experiment: Experiment, study: Study) -> dict[str, int]:
    """The trial that each way of picking chooses; ways that this study does not support are left out."""
    picks = {}
    for way in PICKS:
        with suppress(UserError):
            picks[way] = pick(experiment, study, way).number
    return picks
