"""A finished study is read without the files that it began with, and moves into another database."""

from __future__ import annotations

import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.study import Study
from optuna_dashboard import get_note, save_note
from optuna_dashboard.artifact import get_artifact_path

from nas.errors import UserError
from nas.study.analysis.results import load_results
from nas.study.config import OBJECTIVES, StudyConfig
from nas.study.experiment import Experiment, load, prepare
from nas.study.reporting.dashboard import save_panels, serve_dashboard
from nas.study.reporting.html_report import render_html
from nas.study.reporting.study_move import copy_study_to, repair_copied_notes
from nas.study.space.space_file import read_space
from nas.study.space.stored_space import space_of_identity, space_text
from nas.study.storage.backend import create_study, default_url, open_storage
from nas.study.storage.study_store import StudyStore


@pytest.fixture
def begin(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Experiment]:
    """Prepares a study in a folder of its own; people are drawn once."""

    def begin(config: StudyConfig) -> Experiment:
        people = tmp_path_factory.getbasetemp() / "people-of-the-tiny-study"
        if people.is_dir():
            shutil.copytree(people, tmp_path / "w" / "runs" / "data")
        made = prepare(config, tmp_path / "w" / "runs")
        if not people.is_dir():
            shutil.copytree(tmp_path / "w" / "runs" / "data", people)
        return made

    return begin


@pytest.mark.parametrize("with_people", [True, False])
def test_a_study_is_read_without_its_space_and_its_data(
    config: StudyConfig, begin: Callable[..., Experiment], space_file: Path, tmp_path: Path, with_people: bool
) -> None:
    experiment = begin(config)
    packed = next((tmp_path / "w" / "runs" / "data").glob("*.h5")).rename(tmp_path / "w" / "people.h5")
    data = config.data.model_copy(update={"file": str(packed)})
    named = prepare(config.model_copy(update={"data": data, "name": "real"}), tmp_path / "w" / "runs")
    study = named.open_study()
    add_finished(named, study)
    if not with_people:  # as earlier versions stored it
        study.set_user_attr("people", None)
    StudyStore(study).engine.dispose()
    space_file.write_text(space_file.read_text().replace("width = [4, 8]", "width = [4, 8, 16]"))
    (tmp_path / "w").rename(tmp_path / "moved")  # found again below the folder's new place
    runs = tmp_path / "moved" / "runs"
    loaded, again = load("real", runs)
    assert loaded.space.content == named.space.content == experiment.space.content
    assert "real" in render_html(load_results(loaded, again))
    assert len(loaded.load_people("holdout", "cpu")) == 16
    (tmp_path / "moved" / "people.h5").rename(tmp_path / "elsewhere.h5")
    with pytest.raises(UserError, match="--data PATH"):
        load("real", runs)[0].load_people("holdout", "cpu")
    there, _ = load("real", runs, None, tmp_path / "elsewhere.h5")
    assert len(there.load_people("holdout", "cpu")) == 16


def test_a_study_on_a_read_only_share_is_read(
    config: StudyConfig, begin: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = begin(config)
    study = experiment.open_study()
    add_finished(experiment, study)  # part of it is still in the write-ahead log
    kept = {file: file.read_bytes() for file in experiment.folder.glob("study.db*")}
    # Whoever runs the tests may be root, who can write everywhere but on a read-only share.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(experiment.folder)))
    loaded, again = load("tiny", experiment.folder.parent)
    results = load_results(loaded, again)
    save_panels(results)
    assert [p.pckh for p in results.points] == [10.0, 11.0, 12.0]
    assert {file: file.read_bytes() for file in experiment.folder.glob("study.db*")} == kept


@pytest.mark.parametrize(
    "text",
    [
        None,
        "[choices]\nstem = { low = 4, high = 16, step = 4 }\nwidth = [4]\nalpha = { low = 0.5, high = 1.0 }\n",
        '[choices]\nblock = ["bottleneck"]\nwidth = [4, 8]\n[limits]\nmax_params = 900_000\n',
    ],
)
def test_a_stored_space_is_the_space(
    config: StudyConfig, write_space: Callable[..., Path], text: str | None, tmp_path: Path
) -> None:
    space = read_space(write_space() if text is None else write_space(text=text))
    stored = space_of_identity(config.identity(space, "0"), space.path)
    assert (stored.choices, stored.encoded, stored.limits) == (space.choices, space.encoded, space.limits)
    (tmp_path / "again.toml").write_text(space_text(stored))
    assert read_space(tmp_path / "again.toml").content == space.content


def add_finished(experiment: Experiment, study: Study, trials: int = 3) -> None:
    """Finished trials with a note and an image each, the second without image; other studies' trials lie between."""
    store = FileSystemArtifactStore(_folder(experiment, study))
    for number in range(trials):
        trial = study.ask(dict(experiment.space.choices))
        text = f"note of trial {number}"
        if number != 1:
            file = experiment.folder / f"{number}.txt"
            file.write_text(f"image of trial {number}")
            image = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial)
            text += f" ![]({get_artifact_path(trial, image)})"
        save_note(trial, text)
        cost = experiment.cost(experiment.problem.candidate(trial.params))
        study.tell(trial, [10.0 + number, cost.params, cost.madds])


def _folder(experiment: Experiment, study: Study) -> Path:
    folder = experiment.artifacts_of(study)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_notes(study: Study, folder: Path) -> None:
    """Every trial has its own note, whose image is its own and there."""
    store = StudyStore(study)
    for trial in study.trials:
        note = get_note(store.open_trial(trial))
        assert note.startswith(f"note of trial {trial.number}")
        for meta in store.artifacts(trial):
            assert get_artifact_path(store.open_trial(trial), meta.artifact_id) in note
            assert (folder / meta.artifact_id).read_text() == f"image of trial {trial.number}"


def occupy(url: str) -> None:
    """A database that has studies and trials already."""
    optuna.create_study(study_name="other", storage=open_storage(url)).optimize(lambda trial: 0.0, n_trials=5)


def test_a_study_moves_with_notes_images_and_companions(
    config: StudyConfig, begin: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = begin(config)
    study = experiment.open_study()
    add_finished(experiment, study)
    create_study(StudyStore(study).database, "tiny-full", OBJECTIVES, kind="full")
    url = default_url(tmp_path / "new")
    occupy(url)
    loaded, opened = load("tiny", experiment.folder.parent)
    assert copy_study_to(load_results(loaded, opened), url) == ["tiny", "tiny-full"]
    moved, copy = load("tiny", experiment.folder.parent, url)
    results = load_results(moved, copy)
    assert [p.pckh for p in results.points] == [10.0, 11.0, 12.0]
    repair_copied_notes(results)  # nothing to repair
    check_notes(copy, tmp_path / "new" / "artifacts")
    assert copy.user_attrs["id"] != study.user_attrs["id"]
    with pytest.raises(UserError, match="holds a study 'tiny' already"):
        copy_study_to(load_results(loaded, opened), url)


def test_notes_of_a_study_that_optuna_copied_are_put_right(
    config: StudyConfig, begin: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = begin(config)
    study = experiment.open_study()
    add_finished(experiment, study)
    url = default_url(tmp_path / "new")
    occupy(url)
    optuna.copy_study(from_study_name="tiny", from_storage=experiment.url, to_storage=open_storage(url))
    moved, copy = load("tiny", experiment.folder.parent, url)
    repair_copied_notes(load_results(moved, copy))
    check_notes(copy, experiment.artifacts_of(study))
    # The dashboard of the copy shows the images that lie with the first database; a missing one is not found.
    image = next(part for part in get_note(StudyStore(copy).open_trial(copy.trials[2])).split("(") if part[0] == "/")
    with serve_dashboard(moved, copy, 0) as (address, serve):
        threading.Thread(target=serve, daemon=True).start()
        server = address.partition("/dashboard")[0]
        with urllib.request.urlopen(server + image.removesuffix(")")) as answer:
            assert answer.read() == b"image of trial 2"
        shutil.rmtree(experiment.artifacts_of(study))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(server + image.removesuffix(")"))
