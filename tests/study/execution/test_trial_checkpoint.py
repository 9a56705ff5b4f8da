"""Checkpoints of unfinished trials, and what trials write to the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from rich.console import Console

from nas.data.augmentation import fit_to_input
from nas.errors import UserError
from nas.study.config import StudyConfig
from nas.study.execution.trial_checkpoint import adopt_checkpoint, checkpoint_path
from nas.study.execution.trial_session import TrialSession
from nas.study.experiment import prepare
from nas.study.reporting.progress import SearchProgress
from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import (
    claim,
    earlier_numbers,
    lease_of,
    requeue,
)

OBJECTIVES = ("pckh", "params", "madds")
CHOICES = {"width": IntDistribution(4, 1_000_000)}


@pytest.fixture
def study(url: str) -> Iterator[Study]:
    study = create_study(open_storage(url), "tiny", OBJECTIVES, RandomSampler(seed=0))
    yield study
    StudyStore(study).engine.dispose()


def test_a_checkpoint_moves_with_its_trial(study: Study, tmp_path: Path) -> None:
    numbers = []
    for _ in range(3):
        trial = claim(study, 1, CHOICES)
        assert trial is not None
        numbers.append(trial.number)
        requeue(study, study.trials[trial.number])
    last = claim(study, 1, CHOICES)
    assert last is not None
    folder = tmp_path / "checkpoints"
    trial = study.trials[last.number]
    assert earlier_numbers(trial) == numbers
    checkpoint = adopt_checkpoint(folder, trial)
    assert checkpoint == checkpoint_path(folder, last.number)
    assert not checkpoint.exists()
    for number in numbers[:2]:
        checkpoint_path(folder, number).write_text(str(number))
    assert adopt_checkpoint(folder, trial).read_text() == str(numbers[1])  # the latest one
    checkpoint_path(folder, numbers[1]).write_text("written by a suspended worker")
    assert adopt_checkpoint(folder, trial).read_text() == str(numbers[1])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--checkpoints .*file/checkpoints: cannot be written"):
        adopt_checkpoint(tmp_path / "file" / "checkpoints", trial)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_trials_resume_from_a_shared_folder_and_say_if_a_checkpoint_is_missing(
    write_study: Callable[..., Path], tmp_path: Path, url: str
) -> None:
    config = StudyConfig.read(write_study())
    shared = tmp_path / "shared"
    first = prepare(config, tmp_path / "runs", url, str(shared))
    study = first.open_study(RandomSampler(seed=0))
    second = prepare(config, tmp_path / "elsewhere", url)  # another machine, without the flag
    assert second.checkpoints_of(second.open_study()) == shared / "tiny"
    people, held_out = (fit_to_input(first.load_people(split, "cpu"), 32) for split in ("train", "holdout"))

    class KilledError(Exception):
        pass

    def raise_at_half(step: int) -> None:
        if step == 2 * steps // 4 + 1:
            raise KilledError

    steps = config.short_schedule().steps
    for lost in (False, True):
        lease = lease_of(study, "cpu", beat=60, lease=60)
        lease.start()
        trial = claim(study, 9, first.space.choices, lease)
        assert trial is not None
        with pytest.raises(KilledError):
            TrialSession(study, trial, first, people, held_out, after_step=raise_at_half, lease=lease).run()
        file = checkpoint_path(shared / "tiny", trial.number)
        assert file.is_file()
        if lost:
            file.unlink()
        else:
            with pytest.raises(UserError, match="trials are running whose checkpoints are kept in"):
                prepare(config, tmp_path / "runs", url, str(tmp_path / "other")).open_study()
        with StudyStore(study).lock():
            requeue(study, study.trials[trial.number])
        other = second.open_study()
        again = claim(other, 9, second.space.choices, lease)
        assert again is not None
        outcome = TrialSession(other, again, second, people, held_out, lease=lease).run()
        attributes = other.trials[again.number].user_attrs
        assert attributes.get("started_again", False) == lost
        assert attributes.get("resumed_after_epoch", 0) == (0 if lost else 2)
        progress = SearchProgress(second, other, 9, False, Console())
        line = progress.trial_line(again.number, outcome.pckh, outcome.reason)
        assert ("restarted from the first epoch" in line) == lost
        lease.end()
    assert list((shared / "tiny").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_database_writes_do_not_grow_with_epochs(write_study: Callable[..., Path], tmp_path: Path, url: str) -> None:
    written = {}
    for epochs in (4, 8):
        config = StudyConfig.read(write_study(("epochs = 4", f"epochs = {epochs}"), ('"tiny"', f'"tiny-{epochs}"')))
        experiment = prepare(config, tmp_path / "runs", url)
        study = experiment.open_study(RandomSampler(seed=0))
        people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 32) for split in ("train", "holdout"))
        trial = claim(study, 1, experiment.space.choices)
        assert trial is not None
        statements: list[str] = []
        engine = StudyStore(study).engine

        def note(_connection: object, _cursor: object, statement: str, *_: object, to: list[str] = statements) -> None:
            if statement.split()[0] != "SELECT":
                to.append(statement)

        sqlalchemy.event.listen(engine, "before_cursor_execute", note)
        TrialSession(study, trial, experiment, people, held_out).run()
        written[epochs] = sum(s.split()[0] in ("INSERT", "UPDATE", "DELETE") for s in statements)
    # Seven are of the note and four artifacts; a long note takes one more.
    assert written[8] == written[4] <= 24
