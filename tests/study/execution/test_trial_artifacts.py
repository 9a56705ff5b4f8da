"""Notes and images that trials leave on the dashboard: stored once, and optional for the trial."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import TrialState
from optuna_dashboard import get_note

from nas.architecture.spec import Architecture, BlockChoice
from nas.architecture.summary import diagram
from nas.data.augmentation import fit_to_input
from nas.study.config import StudyConfig
from nas.study.execution import trial_session as objective
from nas.study.execution.learning_curve import learning_curve
from nas.study.execution.trial_artifacts import TrainingSummary, best_median_worst, save_artifacts
from nas.study.execution.trial_session import TrialSession
from nas.study.experiment import prepare
from nas.study.storage.trial_queue import claim

FILES = ["config.json", "heatmaps.jpg", "learning-curve.svg", "people.jpg"]


def names(study: Study, number: int) -> list[str]:
    return sorted(m.filename for m in get_all_artifact_meta(study.trials[number], storage=study._storage))


def note_of(study: Study, number: int) -> str:
    return get_note(optuna.Trial(study, study.trials[number]._trial_id))


@pytest.mark.slow
def test_a_trial_leaves_a_note_and_images(
    write_study: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = StudyConfig.read(write_study())
    experiment = prepare(config, tmp_path / "runs")
    study = experiment.open_study(RandomSampler(seed=0))
    people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 32) for split in ("train", "holdout"))
    summaries: list[TrainingSummary] = []

    def save_twice(*arguments: object) -> None:
        """As after a connection that broke when everything was stored."""
        for _ in range(2):
            save_artifacts(*arguments)  # type: ignore[arg-type]
        summaries.append(arguments[3])  # type: ignore[arg-type]

    monkeypatch.setattr(objective, "save_artifacts", save_twice)

    def run_trial() -> int:
        trial = claim(study, 9, experiment.space.choices)
        assert trial is not None
        return TrialSession(study, trial, experiment, people, held_out).run().number

    number = run_trial()
    stored = study.trials[number]
    assert stored.state == TrialState.COMPLETE
    folder = tmp_path / "runs" / "tiny" / "artifacts"
    assert names(study, number) == FILES, "once each"
    assert len(list(folder.iterdir())) == len(FILES)
    note = note_of(study, number)
    ids = {m.filename: m.artifact_id for m in get_all_artifact_meta(stored, storage=study._storage)}
    for name in FILES:
        path = f"/artifacts/{study._study_id}/{stored._trial_id}/{ids[name]}"
        assert (f"![{name}]({path})" in note) == (name != "config.json")
    cost = stored.user_attrs["cost"]
    assert f"**PCKh {stored.values[0]:.1f}** · {cost['params']:,} params" in note
    assert f"{cost['layers']} layers · 64 images" in note
    assert all(f"{name} {value:.1f}" in note for name, value in stored.user_attrs["groups"].items())
    written = json.loads((folder / ids["config.json"]).read_text())
    assert written["candidate"] == stored.user_attrs["candidate"]
    assert written["study"] == config.model_dump(mode="json")
    for name, least in (("people.jpg", 2 * 128), ("heatmaps.jpg", 2 * 96)):
        image = cv2.imdecode(np.frombuffer((folder / ids[name]).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape[0] > least
        assert image.std() > 10, "something is drawn"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000

    # A trial that was requeued accepts nothing.
    lost = claim(study, 9, experiment.space.choices)
    assert lost is not None
    study._storage.set_trial_state_values(lost._trial_id, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        save_artifacts(study, lost, experiment, summaries[0], held_out, folder)
    assert (names(study, lost.number), note_of(study, lost.number)) == ([], "")

    # A rejected trial has only a note.
    study.enqueue_trial(stored.params)
    rejected = run_trial()
    assert study.trials[rejected].state == TrialState.PRUNED
    assert names(study, rejected) == []
    assert f"**Ended:** the network of trial {number}: not trained again" in note_of(study, rejected)

    # Where no image can be written, trials continue, and the message is printed once.
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    capsys.readouterr()
    numbers = [run_trial(), run_trial()]
    assert all(study.trials[n].state in (TrialState.COMPLETE, TrialState.PRUNED) for n in numbers)
    assert all("No images: " in note_of(study, n) and names(study, n) == [] for n in numbers)
    assert capsys.readouterr().err.count(f"note: {folder}: images of trials cannot be written") == 1


def test_all_studies_of_a_storage_share_a_folder_of_artifacts(write_study: Callable[..., Path], tmp_path: Path) -> None:
    experiment = prepare(StudyConfig.read(write_study()), tmp_path / "runs")
    study = experiment.open_study()
    assert experiment.artifacts_of(study) == tmp_path / "runs" / "tiny" / "artifacts"
    assert experiment.beside("repeats").artifacts_of(study) == experiment.artifacts_of(study), (
        "one dashboard, one folder"
    )
    remote = prepare(experiment.config, tmp_path / "runs", "postgresql+psycopg://me@host/nas")
    assert remote.artifacts_of(study) == tmp_path / "runs" / "artifacts"
    study.set_user_attr("checkpoints", "/shared")
    assert remote.artifacts_of(study) == Path("/shared/artifacts")
    study.set_user_attr("checkpoints", "s3://bucket/checkpoints")
    assert remote.artifacts_of(study) == tmp_path / "runs" / "artifacts"


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.5, 0.1, 0.9, 0.2, math.nan, 0.8, 0.4], {"best": [1, 3], "median": [6, 0], "worst": [5, 2]}),
        ([0.5, 0.1, 0.9], {"best": [1], "median": [0], "worst": [2]}),
        ([0.5, 0.1], {"best": [1], "median": [], "worst": [0]}),
        ([0.5, math.nan], {"best": [0], "median": [], "worst": []}),
        ([math.nan], {"best": [], "median": [], "worst": []}),
    ],
)
def test_best_median_and_worst_people_are_distinct(errors: list[float], expected: dict[str, list[int]]) -> None:
    found = best_median_worst(np.array(errors))
    assert len({person for _, person in found}) == len(found)
    order = [person for _, person in found]
    assert order == sorted(order, key=lambda person: errors[person])
    assert {kind: [p for k, p in found if k == kind] for kind in expected} == expected


def test_a_learning_curve_has_a_point_for_each_epoch() -> None:
    history = [{"images": 10 * n, "loss": 5 / n, **({"pckh": 20.0 * n} if n > 1 else {})} for n in range(1, 4)]
    tree = ElementTree.fromstring(learning_curve(history))
    space = "{http://www.w3.org/2000/svg}"
    lines = [line.attrib["points"].split() for line in tree.iter(f"{space}polyline")]
    assert [len(line) for line in lines] == [2, 3]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights[1] < heights[0], "more PCKh is higher up"
    # A flat curve, and one of a single epoch, can be drawn too.
    for flat in ([{"images": 1, "loss": 0.0, "pckh": 0.0}], [{"images": n, "loss": 2.0} for n in (1, 2)]):
        assert "nan" not in learning_curve(flat)


def test_a_diagram_names_every_level() -> None:
    levels = (BlockChoice("ghost"), BlockChoice("separable"), BlockChoice("shuffle"))
    lines = diagram(Architecture(depth=2, stacks=3, levels=levels), 16, 64)
    assert [line.split()[0] for line in lines[1:-1]] == ["16×16", "8×8", "4×4"]
    for line, block in zip(lines[1:-1], levels, strict=True):
        assert line.endswith(str(block))
    assert "3 of these" in lines[-1]
