"""Studies of others are refused, edited study files take effect or are refused, and checkpoints are not mixed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial

from nas.errors import UserError
from nas.study.config import StudyConfig
from nas.study.experiment import Experiment, load, prepare


@pytest.fixture
def begin(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Experiment]:
    """Prepares a study in a folder of its own; people are drawn once."""

    def begin(config: StudyConfig, folder: str = "runs", checkpoints: Path | None = None) -> Experiment:
        runs, people = tmp_path / folder, tmp_path_factory.getbasetemp() / "people-of-the-tiny-study"
        if people.is_dir() and not (runs / "data").is_dir():
            shutil.copytree(people, runs / "data")
        made = prepare(config, runs, None, None if checkpoints is None else str(checkpoints))
        if not people.is_dir():
            shutil.copytree(runs / "data", people)
        return made

    return begin


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "minimize", "minimize"], ["minimize"] * 3])
def test_the_study_of_another_project_is_refused_and_left_as_it_is(
    config: StudyConfig, begin: Callable[..., Experiment], directions: list[str]
) -> None:
    experiment = begin(config)
    experiment.folder.mkdir(parents=True)
    other = optuna.create_study(study_name="tiny", storage=experiment.url, directions=directions)
    other.add_trial(create_trial(values=[1.0] * len(directions)))
    with pytest.raises(UserError, match="not of nas"):
        experiment.open_study()
    with pytest.raises(UserError, match="not a study of nas"):
        load("tiny", experiment.folder.parent)
    assert other.user_attrs == {}
    assert other.metric_names is None


def test_an_empty_study_of_the_same_objectives_is_taken_over(
    config: StudyConfig, begin: Callable[..., Experiment]
) -> None:
    experiment = begin(config)
    experiment.folder.mkdir(parents=True)
    optuna.create_study(study_name="tiny", storage=experiment.url, directions=["maximize", "minimize", "minimize"])
    assert experiment.open_study().user_attrs["config"]["name"] == "tiny"


@pytest.mark.parametrize("kind", ["full", "repeats", "calibration"])
def test_names_of_companions_are_kept_for_them(
    config: StudyConfig, begin: Callable[..., Experiment], kind: str
) -> None:
    experiment = begin(config)
    study = experiment.open_study()
    with pytest.raises(UserError, match=f"names that end in -{kind}"):
        begin(config.model_copy(update={"name": f"tiny-{kind}"})).open_study()
    # A study of its own, begun under that name by an earlier version.
    directions = ["maximize", "minimize", "minimize"]
    other = optuna.create_study(study_name=f"tiny-{kind}", storage=experiment.url, directions=directions)
    for name in ("identity", "config"):
        other.set_user_attr(name, study.user_attrs[name])
    other.add_trial(create_trial(values=[50.0, 1000, 100000]))
    assert experiment.companion(study, kind) is None
    with pytest.raises(UserError, match="is one of its own"):
        experiment.check_companion(study, kind)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("images = 128", "images = 256", "full.images was 128, is 256"),
        ("[reference]", "[budget]\nmax_params = 90_000\n[reference]", "budget.max_params was None, is 90000"),
        ("[reference]", "[stopping]\nleast = 3\n[reference]", "stopping.least was 6, is 3"),
        ("[reference]", '[sampler]\nname = "random"\n[reference]', "sampler.name was 'front', is 'random'"),
        ("seed = 0\n\n", 'seed = 0\nbaselines = ["hg1"]\n\n', "baselines was [], is ['hg1']"),
    ],
)
def test_an_edited_study_file_takes_effect_and_is_said(
    write_study: Callable[..., Path], begin: Callable[..., Experiment], old: str, new: str, said: str
) -> None:
    size = ("input_size = 32", "input_size = 64") if "hg1" in new else ("input_size = 32", "input_size = 32")
    begin(StudyConfig.read(write_study(size))).open_study()
    edited = begin(StudyConfig.read(write_study(size, (old, new))))
    assert edited.store_changes(edited.open_study()) == [said]
    loaded, study = load("tiny", edited.folder.parent)
    assert loaded.config == edited.config
    assert edited.store_changes(study) == []


def test_another_corner_of_the_hypervolume_is_refused(
    write_study: Callable[..., Path], begin: Callable[..., Experiment]
) -> None:
    begin(StudyConfig.read(write_study())).open_study()
    edited = begin(StudyConfig.read(write_study(("params = [1_000, 100_000]", "params = [2_000, 100_000]"))))
    with pytest.raises(UserError, match=r"reference.params was \[1000, 100000\], is \[2000, 100000\]"):
        edited.open_study()


def test_two_databases_do_not_share_a_folder_of_checkpoints(
    config: StudyConfig, begin: Callable[..., Experiment], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    first, second = (begin(config, folder, shared) for folder in ("one", "two"))
    studies = [experiment.open_study() for experiment in (first, second)]
    folders = [e.checkpoints_of(study) for e, study in zip((first, second), studies, strict=True)]
    assert str(folders[0]) == str(shared / "tiny")
    assert folders[1] != folders[0]
    # Each finds its own again, with or without the flag.
    for experiment, folder in zip((first, second), folders, strict=True):
        again = replace(experiment, checkpoints=None)
        assert again.checkpoints_of(again.open_study()) == folder


def test_a_copied_database_gets_checkpoints_of_its_own_and_a_moved_one_keeps_them(
    config: StudyConfig, begin: Callable[..., Experiment], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    first = begin(config, "one", shared)
    study = first.open_study()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    copied = begin(config, "two")
    assert copied.checkpoints_of(copied.open_study()) != first.checkpoints_of(study)
    shutil.move(tmp_path / "one", tmp_path / "three")
    moved = begin(config, "three")
    assert str(moved.checkpoints_of(moved.open_study())) == str(shared / "tiny")


def test_stored_settings_that_cannot_be_read_are_one_line(
    config: StudyConfig, begin: Callable[..., Experiment]
) -> None:
    experiment = begin(config)
    study = experiment.open_study()
    study.set_user_attr("config", {**study.user_attrs["config"], "zzz": 1})
    with pytest.raises(UserError, match="its stored settings cannot be read: zzz"):
        load("tiny", experiment.folder.parent)
    experiment.store_changes(experiment.open_study())  # nas.search, with the study file
    assert load("tiny", experiment.folder.parent)[0].config == config
