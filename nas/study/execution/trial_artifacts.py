"""What a trial leaves behind for people to see on the dashboard: a note, and pictures as artifacts.

All of it is made before the trial is told, since a trial that has ended takes no more. Drawing holds no lock.
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
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna_dashboard.artifact import get_artifact_path

from nas.architecture.cost import Cost
from nas.architecture.summary import diagram, structure
from nas.console import format_count, format_duration, stderr
from nas.data.augmentation import fit_to_input
from nas.data.media_io import encode_image
from nas.data.packed.reader import PackedPeople
from nas.data.visualization.prediction_grid import heatmap_sheet, prediction_grid
from nas.study.analysis.latency import MeasuredLatency
from nas.study.execution.learning_curve import learning_curve
from nas.study.experiment import Experiment
from nas.study.space.candidate import Candidate
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import masked_url
from nas.training.evaluation import predict_heatmaps
from nas.training.loop import TrainingResult
from nas.training.metrics import correct_joints, head_normalizer, mean_errors
from nas.training.schedule import ScheduleConfig

CURVE, PEOPLE, HEATMAPS, CONFIG = "learning-curve.svg", "people.jpg", "heatmaps.jpg", "config.json"
CHECKPOINT = "checkpoint.pt"
QUALITY = 75
"""Of JPEGs: sixty kilobytes a trial in all."""
EACH = 2
"""People shown of each kind: the best, the median, the worst."""


@dataclass(frozen=True)
class TrainingSummary:
    """A training that has ended, or was refused.

    Attributes:
        title: of its note.
        candidate: that was trained.
        cost: its costs.
        schedule: of the training.
        seed: of weights, order and augmentation.
        trained: what training gave; None if there was none.
        reason: why it ended early; None if it ran to its end.
        speed: how long it takes, where that was measured.
        about: further lines of the note, in Markdown.
    """

    title: str
    candidate: Candidate
    cost: Cost
    schedule: ScheduleConfig
    seed: int
    trained: TrainingResult | None
    reason: str | None
    speed: MeasuredLatency | None = None
    about: Sequence[str] = ()


def save_artifacts(
    trial: optuna.Trial,
    experiment: Experiment,
    ended: TrainingSummary,
    people: PackedPeople,
    folder: Path,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Put a running trial's note and artifacts where the dashboard finds them; not twice if it is done again.

    Where artifacts cannot be written, the note says so, and this process once.

    Args:
        trial: running.
        experiment: of its study.
        ended: what is to be told.
        people: that it was scored on, on the device.
        folder: of the artifacts.
        files: further artifacts, by name.

    Raises:
        UpdateFinishedTrialError: the trial runs no longer.
        UserError: the database stays away.
    """
    url = masked_url(trial.storage)
    drawn = {**render_files(experiment, ended, people), **(files or {})}
    lost = None
    paths: dict[str, str] = {}
    if drawn:
        try:
            paths = _upload(trial, folder, drawn, url)
        except OSError as error:
            lost = f"{folder}: pictures of trials cannot be written here: {error.strerror}"
            _warn_once(lost)
    text = note(experiment, ended, paths, lost)
    retry_while_unavailable(url, lambda: optuna_dashboard.save_note(trial, text))


@cache
def _warn_once(text: str) -> None:
    stderr.print(f"note: {text}; trials go on without", soft_wrap=True, markup=False)


def _upload(trial: optuna.Trial, folder: Path, files: Mapping[str, bytes], url: str) -> dict[str, str]:
    """Store files as a trial's artifacts; returns their addresses on the dashboard, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    with tempfile.TemporaryDirectory() as here:
        for name, data in files.items():
            Path(here, name).write_bytes(data)

        def upload() -> dict[str, str]:
            # What an earlier attempt has noted, whose answer was lost with the connection, is only written again.
            ids = {m.filename: m.artifact_id for m in get_all_artifact_meta(trial)}
            for name in files:
                if name in ids:
                    with open(Path(here, name), "rb") as file:
                        store.write(ids[name], file)
                else:
                    path = str(Path(here, name))
                    ids[name] = upload_artifact(artifact_store=store, file_path=path, study_or_trial=trial)
            return ids

        ids = retry_while_unavailable(url, upload)
    return {name: get_artifact_path(trial, ids[name]) for name in files}


def render_files(experiment: Experiment, ended: TrainingSummary, people: PackedPeople) -> dict[str, bytes]:
    """A trained network's pictures and its resolved config, as files."""
    trained = ended.trained
    if trained is None:
        return {}
    config = {
        "study": experiment.config.model_dump(mode="json"),
        "schedule": ended.schedule.to_dict(),
        "seed": ended.seed,
        "candidate": ended.candidate.to_dict(),
    }
    files = {CONFIG: json.dumps(config, indent=1).encode()}
    if trained.history:
        files[CURVE] = learning_curve(trained.history).encode()
    if trained.evaluation is not None:
        people = fit_to_input(people, experiment.config.data.input_size)
        predicted = trained.evaluation.predictions
        normalizer = head_normalizer(people.head_size, people.labelled)
        truth = people.original_joints()
        errors = mean_errors(predicted, truth, normalizer).cpu().numpy()
        missed = people.labelled & ~correct_joints(predicted, truth, normalizer, 0.5)
        chosen = best_median_worst(errors)
        if chosen:
            labels = [f"{kind} {errors[person]:.2f}" for kind, person in chosen]
            sheet = prediction_grid(people, [person for _, person in chosen], predicted, missed, labels)
            files[PEOPLE] = encode_image(sheet, PEOPLE, QUALITY)
            typical = chosen[len(chosen) // 2][1]
            size = experiment.config.data.input_size
            maps, picture = predict_heatmaps(trained.network, people, typical, ended.schedule, size)
            sheet = heatmap_sheet(picture.numpy(), maps.numpy(), people.skeleton)
            files[HEATMAPS] = encode_image(sheet, HEATMAPS, QUALITY)
    return files


def best_median_worst(errors: np.ndarray[Any, np.dtype[np.float64]]) -> list[tuple[str, int]]:
    """The people with the least, the median and the largest errors, nobody twice; nan counts nowhere.

    Args:
        errors: (N,).

    Returns:
        kind and index of each, by kind, then from the least error on.
    """
    order = [int(person) for person in np.argsort(errors, kind="stable") if math.isfinite(errors[person])]
    each = min(EACH, -(-len(order) // 3))
    best, worst = order[:each], order[each:][-each:]
    between = order[len(best) : len(order) - len(worst)]
    middle = between[(len(between) - each + 1) // 2 :][:each]
    kinds = (("best", best), ("median", middle), ("worst", worst))
    return [(kind, person) for kind, people in kinds for person in people]


def note(experiment: Experiment, ended: TrainingSummary, paths: Mapping[str, str], lost: str | None) -> str:
    """A trial's note in Markdown.

    Args:
        experiment: of its study.
        ended: what is to be told.
        paths: addresses of its artifacts, by name.
        lost: why there are no artifacts, if they could not be written.
    """
    size, cost = experiment.config.data.input_size, ended.cost
    history = ended.trained.history if ended.trained else []
    measured = [h for h in history if "pckh" in h]
    facts = [f"{cost.params:,} params", f"{format_count(cost.madds)} MAdds at {size}×{size}", f"{cost.layers} layers"]
    if ended.speed is not None:
        facts.append(escape_markdown(str(ended.speed)))
    if history:
        facts.append(f"{history[-1]['images']:,} pictures in {format_duration(history[-1]['seconds'])} of training")
    pckh = [f"**PCKh {measured[-1]['pckh']:.1f}**"] if measured else []
    lines = [f"## {escape_markdown(ended.title)}", "", " · ".join([*pckh, *facts])]
    if ended.reason is not None:
        lines += ["", f"**Ended:** {escape_markdown(ended.reason)}"]
    for line in ended.about:
        lines += ["", line]
    if measured:
        groups = measured[-1]["groups"]
        said = [
            f"{escape_markdown(name)} {'–' if math.isnan(value) else f'{value:.1f}'}" for name, value in groups.items()
        ]
        lines += ["", f"PCKh by joint: {' · '.join(said)}"]
    captions = {
        CURVE: "",
        PEOPLE: "Held-out people: labelled above, predicted below, lines where a joint was missed; numbers: mean error "
        "in head sizes",
        HEATMAPS: "Heatmaps of a median person, each scaled to its own maximum",
    }
    for name, caption in captions.items():
        if name in paths:
            lines += ["", f"![{name}]({paths[name]})", *(["", f"*{caption}*"] if caption else [])]
    if lost is not None:
        lines += ["", f"No pictures: {escape_markdown(lost)}"]
    architecture = ended.candidate.architecture
    lines += ["", "```", *diagram(architecture, experiment.joints, size), "```", ""]
    lines += [
        f"{'  ' if line.startswith(' ') else ''}- {escape_markdown(line.strip())}"
        for line in structure(architecture, experiment.joints, size)
    ]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """A text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#&!~" else letter for letter in text)
