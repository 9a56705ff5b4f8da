"""What ``nas.report`` prints: a study's front, its comparison with published networks, and what to do next."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from nas.console import console, print_tables
from nas.errors import UserError
from nas.study.analysis.results import StudyResults
from nas.study.analysis.selection import PICKS, pick
from nas.study.experiment import images_of
from nas.study.reporting.tables import (
    baseline_records,
    baseline_table,
    front_records,
    front_table,
    near_front_records,
    near_front_table,
    trial_records,
    trial_table,
)


def study_record(results: StudyResults) -> dict[str, Any]:
    """The report as plain values for JSON."""
    return {
        "study": results.name,
        "input_size": results.experiment.config.data.input_size,
        "width_scale": results.experiment.config.width_scale,
        "finished": results.counts.complete,
        "stopped": results.counts.pruned,
        "images": images_of(results.study),
        "hypervolume": results.volume,
        "picks": _picks(results),
        "noise": results.noise,
        "front": front_records(results),
        "near": near_front_records(results),
        "baselines": baseline_records(results),
        **({"left_out": results.left_out} if results.left_out else {}),
    }


def print_study(results: StudyResults) -> None:
    """Print a study's counts, its front, the comparison with published networks, and the trials to retrain."""
    counts, schedule = results.counts, results.experiment.config.short_schedule()
    console.print(
        f"study {results.name}: {counts.complete} finished, {counts.pruned} stopped early or for comparison only; "
        f"{images_of(results.study):,} images trained, {schedule.images:,} for each full trial; "
        f"hypervolume {results.volume:.4f}",
        soft_wrap=True,
    )
    print_tables(front_table(results), near_front_table(results), baseline_table(results))
    picks = _picks(results)
    if picks:
        chosen = ", ".join(f"{way} {number}" for way, number in picks.items())
        flags = results.experiment.location_flags
        command = f"python -m nas.retrain --study {results.name} --pick {next(iter(picks))}{flags}"
        console.print(f"picks, by trial: {chosen}; {command}", soft_wrap=True)


def print_trial(results: StudyResults, number: int, as_json: bool) -> None:
    """Print one finished trial, and the command that trains its network in full.

    Raises:
        UserError: the study has no finished trial of that number.
    """
    network = next((m for m in results.measured if m.number == number), None)
    if network is None:
        raise UserError(f"--trial {number}: study {results.name} has no finished trial of that number")
    if as_json:
        print(json.dumps(trial_records(results, [network])[0]))
        return
    print_tables(trial_table(f"study {results.name}", results, [network]))
    flags = results.experiment.location_flags
    console.print(f"python -m nas.retrain --study {results.name} --trial {number}{flags}", soft_wrap=True)


def _picks(results: StudyResults) -> dict[str, int]:
    """The trial that each way of picking chooses; ways that this study does not support are left out."""
    picks = {}
    for way in PICKS:
        with suppress(UserError):
            picks[way] = pick(results.experiment, results.study, way).number
    return picks
