"""What a trial leaves on the dashboard: a note, and images as artifacts.

They are stored before the trial ends, since a finished trial accepts none. No lock is held meanwhile.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.study import Study
from optuna_dashboard.artifact import get_artifact_path

from nas.architecture.cost import Cost
from nas.architecture.summary import diagram, structure
from nas.console import format_count, format_duration, print_note
from nas.data.augmentation import fit_to_input
from nas.data.media_io import encode_image
from nas.data.packed.reader import PackedPeople
from nas.data.visualization.prediction_grid import heatmap_sheet, prediction_grid
from nas.study.analysis.latency import MeasuredLatency
from nas.study.execution.learning_curve import learning_curve
from nas.study.experiment import Experiment
from nas.study.space.candidate import Candidate
from nas.study.storage.study_store import StudyStore
from nas.training.evaluation import predict_heatmaps
from nas.training.loop import TrainingResult
from nas.training.metrics import correct_joints, head_normalizer, mean_errors
from nas.training.schedule import ScheduleConfig

CURVE, PEOPLE, HEATMAPS, CONFIG = "learning-curve.svg", "people.jpg", "heatmaps.jpg", "config.json"
CHECKPOINT = "checkpoint.pt"
JPEG_QUALITY = 75
"""About 60 kB per trial in all."""
PEOPLE_PER_ROW = 2
"""People shown of the best, the median and the worst."""


@dataclass(frozen=True)
class TrainingSummary:
    """A training that has ended, or was rejected.

    Attributes:
        title: of the note.
        candidate: that was trained.
        cost: of the network.
        schedule: of the training.
        seed: of weights, order and augmentation.
        trained: the result; None if nothing was trained.
        reason: why it ended early; None if it ran to the end.
        latency: of the network, where it was measured.
        about: further lines of the note, in Markdown.
    """

    title: str
    candidate: Candidate
    cost: Cost
    schedule: ScheduleConfig
    seed: int
    trained: TrainingResult | None
    reason: str | None
    latency: MeasuredLatency | None = None
    about: Sequence[str] = ()


def save_artifacts(
    study: Study,
    trial: optuna.Trial,
    experiment: Experiment,
    summary: TrainingSummary,
    people: PackedPeople,
    folder: Path,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Store a running trial's note and artifacts for the dashboard. Repeating it replaces them.

    If artifacts cannot be written, the note says so, and the process prints it once.

    Args:
        study: of the trial.
        trial: running; a finished trial accepts no artifacts.
        experiment: of the study.
        summary: of the training.
        people: that the network was evaluated on, on the device.
        folder: of the artifacts.
        files: further artifacts, by name.

    Raises:
        UpdateFinishedTrialError: the trial no longer runs.
        UserError: the database stays unavailable.
    """
    store = StudyStore(study)
    artifacts = {**render_files(experiment, summary, people), **(files or {})}
    failure = None
    paths: dict[str, str] = {}
    if artifacts:
        try:
            paths = _upload(store, trial, folder, artifacts)
        except OSError as error:
            failure = f"{folder}: images of trials cannot be written: {error.strerror}"
            _warn_once(failure)
    text = note(experiment, summary, paths, failure)
    store.retry(lambda: optuna_dashboard.save_note(trial, text))


@cache
def _warn_once(text: str) -> None:
    print_note(f"{text}; trials continue without them")


def _upload(store: StudyStore, trial: optuna.Trial, folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Store files as a trial's artifacts; return their paths on the dashboard, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact_store = FileSystemArtifactStore(folder)
    with tempfile.TemporaryDirectory() as temporary:
        for name, data in files.items():
            Path(temporary, name).write_bytes(data)

        def upload() -> dict[str, str]:
            # Artifacts of an earlier attempt, whose answer was lost with the connection, are written again.
            ids = {meta.filename: meta.artifact_id for meta in store.artifacts(trial)}
            for name in files:
                if name in ids:
                    with open(Path(temporary, name), "rb") as file:
                        artifact_store.write(ids[name], file)
                else:
                    path = str(Path(temporary, name))
                    ids[name] = upload_artifact(artifact_store=artifact_store, file_path=path, study_or_trial=trial)
            return ids

        ids = store.retry(upload)
    return {name: get_artifact_path(trial, ids[name]) for name in files}


def render_files(experiment: Experiment, summary: TrainingSummary, people: PackedPeople) -> dict[str, bytes]:
    """Render a trained network's images and its resolved configuration, as files by name."""
    trained = summary.trained
    if trained is None:
        return {}
    config = {
        "study": experiment.config.model_dump(mode="json"),
        "schedule": summary.schedule.to_dict(),
        "seed": summary.seed,
        "candidate": summary.candidate.to_dict(),
    }
    files = {CONFIG: json.dumps(config, indent=1).encode()}
    if trained.history:
        files[CURVE] = learning_curve(trained.history).encode()
    if trained.evaluation is not None:
        files |= _render_people(experiment.config.data.input_size, summary.schedule, trained, people)
    return files


def _render_people(
    input_size: int, schedule: ScheduleConfig, trained: TrainingResult, people: PackedPeople
) -> dict[str, bytes]:
    """Render the best, median and worst predictions, and the heatmaps of a median person."""
    assert trained.evaluation is not None
    people = fit_to_input(people, input_size)
    predicted = trained.evaluation.predictions
    normalizer = head_normalizer(people.head_size, people.labelled)
    truth = people.original_joints()
    errors = mean_errors(predicted, truth, normalizer).cpu().numpy()
    missed = people.labelled & ~correct_joints(predicted, truth, normalizer, 0.5)
    chosen = best_median_worst(errors)
    if not chosen:
        return {}
    labels = [f"{kind} {errors[person]:.2f}" for kind, person in chosen]
    grid = prediction_grid(people, [person for _, person in chosen], predicted, missed, labels)
    median_person = chosen[len(chosen) // 2][1]
    maps, image = predict_heatmaps(trained.network, people, median_person, schedule, input_size)
    heatmaps = heatmap_sheet(image.numpy(), maps.numpy(), people.skeleton)
    return {
        PEOPLE: encode_image(grid, PEOPLE, JPEG_QUALITY),
        HEATMAPS: encode_image(heatmaps, HEATMAPS, JPEG_QUALITY),
    }


def best_median_worst(errors: np.ndarray[Any, np.dtype[np.float64]]) -> list[tuple[str, int]]:
    """Select the people with the smallest, the median and the largest errors.

    Args:
        errors: (N,); NaN for people without a labelled joint, who are never selected.

    Returns:
        kind ("best", "median" or "worst") and index of each person, nobody twice, ordered by error.
    """
    order = [int(person) for person in np.argsort(errors, kind="stable") if math.isfinite(errors[person])]
    count = min(PEOPLE_PER_ROW, -(-len(order) // 3))
    best, worst = order[:count], order[count:][-count:]
    between = order[len(best) : len(order) - len(worst)]
    median = between[(len(between) - count + 1) // 2 :][:count]
    kinds = (("best", best), ("median", median), ("worst", worst))
    return [(kind, person) for kind, people in kinds for person in people]


def note(experiment: Experiment, summary: TrainingSummary, paths: Mapping[str, str], failure: str | None) -> str:
    """Write a trial's note, in Markdown.

    Args:
        experiment: of the study.
        summary: of the training.
        paths: of the artifacts on the dashboard, by name.
        failure: why there are no artifacts, if they could not be written.
    """
    size, cost = experiment.config.data.input_size, summary.cost
    history = summary.trained.history if summary.trained else []
    evaluated = [epoch for epoch in history if "pckh" in epoch]
    facts = [f"{cost.params:,} params", f"{format_count(cost.madds)} MAdds at {size}×{size}", f"{cost.layers} layers"]
    if summary.latency is not None:
        facts.append(escape_markdown(str(summary.latency)))
    if history:
        facts.append(f"{history[-1]['images']:,} images in {format_duration(history[-1]['seconds'])} of training")
    pckh = [f"**PCKh {evaluated[-1]['pckh']:.1f}**"] if evaluated else []
    lines = [f"## {escape_markdown(summary.title)}", "", " · ".join([*pckh, *facts])]
    if summary.reason is not None:
        lines += ["", f"**Ended:** {escape_markdown(summary.reason)}"]
    for line in summary.about:
        lines += ["", line]
    if evaluated:
        groups = {
            escape_markdown(name): "–" if math.isnan(value) else f"{value:.1f}"
            for name, value in evaluated[-1]["groups"].items()
        }
        by_group = " · ".join(f"{name} {value}" for name, value in groups.items())
        lines += ["", f"PCKh by joint: {by_group}"]
    captions = {
        CURVE: "",
        PEOPLE: "Held-out people: labels above, predictions below, lines at missed joints; numbers: mean error in head "
        "sizes",
        HEATMAPS: "Heatmaps of a median person, each scaled to its own maximum",
    }
    for name, caption in captions.items():
        if name in paths:
            lines += ["", f"![{name}]({paths[name]})", *(["", f"*{caption}*"] if caption else [])]
    if failure is not None:
        lines += ["", f"No images: {escape_markdown(failure)}"]
    architecture = summary.candidate.architecture
    lines += ["", "```", *diagram(architecture, experiment.joints, size), "```", ""]
    lines += [
        f"{'  ' if line.startswith(' ') else ''}- {escape_markdown(line.strip())}"
        for line in structure(architecture, experiment.joints, size)
    ]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#&!~" else letter for letter in text)
