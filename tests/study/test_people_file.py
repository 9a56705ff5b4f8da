"""The packed file of a study."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from nas.data.people import SPLITS
from nas.errors import UserError
from nas.study.config import StudyConfig
from nas.study.execution.full_training import retrain
from nas.study.execution.network_selection import SelectedNetwork
from nas.study.experiment import prepare
from nas.study.people_file import people_file


def test_synthetic_people_of_earlier_versions_are_found_again() -> None:
    # The name that 0.7.0 gives the quickstart's people.
    file = people_file(StudyConfig.read("quickstart"), Path("runs/quickstart"))
    assert file == Path("runs/data/synthetic-64-5ed42856.h5")


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    config = StudyConfig.read("quickstart")
    config = config.model_copy(update={"data": config.data.model_copy(update={"file": str(tmp_path / "people.h5")})})
    assert people_file(config, Path("runs/quickstart")) == tmp_path / "people.h5"


def test_people_of_whom_no_joint_counts_are_refused_before_training(config: StudyConfig, tmp_path: Path) -> None:
    prepare(config, tmp_path / "runs")
    unlabelled = tmp_path / "unlabelled.h5"
    shutil.copy(people_file(config, tmp_path / "runs" / config.name), unlabelled)
    with h5py.File(unlabelled, "r+") as file:
        holdout = np.flatnonzero(file["split"][:] == SPLITS.index("holdout"))
        labelled = file["labelled"][:]
        labelled[holdout] = False
        labelled[holdout, 6] = True  # the pelvis, which is not scored
        file["labelled"][:] = labelled
    data = config.data.model_copy(update={"file": str(unlabelled), "synthetic": None})
    with pytest.raises(UserError, match=r"unlabelled\.h5: no joint that counts is labelled among its holdout people"):
        prepare(config.model_copy(update={"data": data}), tmp_path / "other")


def test_validation_people_of_whom_no_joint_counts_are_refused_before_full_training(
    config: StudyConfig, tmp_path: Path
) -> None:
    experiment = prepare(config, tmp_path / "runs")
    study = experiment.open_study()
    file = people_file(config, experiment.folder)
    with h5py.File(file, "r+") as content:
        labelled = content["labelled"][:]
        labelled[np.flatnonzero(content["split"][:] == SPLITS.index("valid"))] = False
        content["labelled"][:] = labelled
    schedule = config.full_schedule()
    (candidate, *_) = experiment.sample()
    with pytest.raises(UserError, match="no joint that counts is labelled among its valid people"):
        retrain(experiment, study, SelectedNetwork("chosen", candidate, None), schedule, "cpu", 0)
    assert not (experiment.folder / "full").exists()
