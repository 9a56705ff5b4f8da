"""Trials under faults: memory too small, checkpoints that fail, a request to stop, clocks that jump."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import TrialState
from torch import Tensor, nn

from nas.architecture import hourglass
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.errors import UserError
from nas.study.config import StudyConfig
from nas.study.execution.trial_session import REQUEUED, Outcome, TrialSession
from nas.study.execution.worker_pool import devices_for
from nas.study.experiment import Experiment, prepare
from nas.study.files import checkpoint_folder
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import MAX_ATTEMPTS, Counts, Owner, claim, count, requeue


@dataclass
class Place:
    """A tiny study and its people, in this process."""

    experiment: Experiment
    study: Study
    people: PackedPeople
    held_out: PackedPeople

    def claim(self) -> optuna.Trial:
        trial = claim(self.study, 9, self.experiment.space.choices)
        assert trial is not None
        return trial

    def run(self, trial: optuna.Trial, stop: Callable[[], bool] = lambda: False) -> Outcome:
        return TrialSession(self.study, trial, self.experiment, self.people, self.held_out, should_stop=stop).run()

    def steps_until(self, step: int) -> Callable[[], bool]:
        """Says yes when it is asked for the so manyth time."""
        asked = iter(range(1, 1000))
        return lambda: next(asked) >= step

    def kept(self) -> list[str]:
        folder = self.experiment.checkpoints_of(self.study)
        return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tiny study's people are kept, drawn once."""
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(params=["folder", "memory://kept"])
def place(
    request: pytest.FixtureRequest, write_study: Callable[..., Path], tmp_path: Path, drawn: Path
) -> Iterator[Place]:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "data").symlink_to(drawn)
    where = None if request.param == "folder" else f"{request.param}/{tmp_path.name}"
    experiment = prepare(StudyConfig.read(write_study()), tmp_path / "runs", checkpoints=where)
    study = experiment.open_study(RandomSampler(seed=0))
    people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 32) for split in ("train", "holdout"))
    yield Place(experiment, study, people, held_out)
    StudyStore(study).engine.dispose()


def no_room_for(monkeypatch: pytest.MonkeyPatch, more_than: int) -> None:
    """Let networks raise as they do on a GPU whose memory is too small for so many pictures."""

    def build(*arguments: object, **options: object) -> nn.Module:
        network = original(*arguments, **options)  # type: ignore[arg-type]
        network.register_forward_pre_hook(refuse)
        return network

    def refuse(network: nn.Module, given: tuple[Tensor]) -> None:
        if len(given[0]) > more_than:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    original = hourglass.build_network
    monkeypatch.setattr("nas.study.execution.trial_session.build_network", build)


@pytest.mark.slow
def test_a_trial_that_shows_parts_of_a_batch_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    no_room_for(monkeypatch, 5)
    trial = place.claim()
    outcome = place.run(trial)
    told = place.study.trials[trial.number]
    assert outcome.reason is None
    assert told.state == TrialState.COMPLETE
    assert told.user_attrs["pictures_at_once"] == 4


@pytest.mark.slow
def test_a_trial_that_never_fits_is_pruned_with_its_reason(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    no_room_for(monkeypatch, 3)
    trial = place.claim()
    place.run(trial)
    told = place.study.trials[trial.number]
    assert told.state == TrialState.PRUNED  # not failed: samplers see these
    assert told.user_attrs["reason"].startswith("out of memory, with the smallest micro-batch too: CUDA out of memory.")
    assert place.kept() == []
    assert count(place.study).done == 1


@pytest.mark.slow
def test_who_is_asked_to_stop_hands_its_trial_back_as_it_is(place: Place) -> None:
    trial = place.claim()
    outcome = place.run(trial, place.steps_until(5))
    assert outcome.reason == REQUEUED
    assert place.study.trials[trial.number].state == TrialState.FAIL
    assert count(place.study) == Counts(complete=0, pruned=0, running=0, waiting=1)
    assert place.kept() == [f"trial-{trial.number}.pt"]
    again = place.claim()
    assert again.params == trial.params
    assert again.user_attrs["attempt"] == 1  # no fault of the trial's
    place.run(again)
    told = place.study.trials[again.number]
    assert (told.state, told.user_attrs["resumed_after_step"]) == (TrialState.COMPLETE, 5)
    assert told.user_attrs["resumed_after_epoch"] == 2  # two steps an epoch
    assert "started_again" not in told.user_attrs
    assert place.kept() == []


@pytest.mark.slow
def test_a_trial_within_its_first_epoch_is_taken_up_as_well(place: Place) -> None:
    place.run(place.claim(), place.steps_until(1))
    again = place.claim()
    place.run(again)
    told = place.study.trials[again.number].user_attrs
    assert told["resumed_after_step"] == 1
    assert "started_again" not in told


@pytest.mark.slow
def test_only_a_trial_that_stands_still_is_given_up(place: Place) -> None:
    def die(at: int) -> None:
        """One more worker of the same trial dies after so many steps in all."""

        def killed(step: int) -> None:
            if step == at:
                raise KeyboardInterrupt

        trial = place.claim()
        with pytest.raises(KeyboardInterrupt):
            TrialSession(place.study, trial, place.experiment, place.people, place.held_out, after_step=killed).run()
        with StudyStore(place.study).lock():
            requeue(place.study, place.study.trials[trial.number])

    for at in (1, 1, 3, 3, 5, 5):  # an epoch has two steps
        die(at)
    assert count(place.study) == Counts(complete=0, pruned=0, running=0, waiting=1)
    for _ in range(MAX_ATTEMPTS - 2):  # two have died there already
        die(5)
    assert count(place.study) == Counts(complete=0, pruned=1, running=0, waiting=0)
    assert "given up" in place.study.trials[-1].user_attrs["reason"]


@pytest.mark.slow
def test_a_disk_that_is_full_costs_no_trial(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nas.training.checkpoint.write_atomically", full)
    trial = place.claim()
    assert place.run(trial).reason is None
    told = place.study.trials[trial.number].user_attrs
    assert told["without_checkpoint"].endswith(": cannot be written: No space left on device")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"trial {trial.number} continues, but cannot be resumed from here: ")


@pytest.mark.slow
def test_a_checkpoint_that_was_damaged_costs_its_epochs_only(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    trial = place.claim()
    place.run(trial, place.steps_until(5))
    (place.experiment.checkpoints_of(place.study) / f"trial-{trial.number}.pt").write_bytes(b"PK damaged")
    again = place.claim()
    assert place.run(again).reason is None
    told = place.study.trials[again.number].user_attrs
    assert told["started_again"]
    assert "not a readable checkpoint" in told["without_checkpoint"]
    assert "not a readable checkpoint" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_study_that_was_removed_is_not_made_again(place: Place, tmp_path: Path) -> None:
    trial = place.claim()
    database = place.experiment.folder / "study.db"
    database.unlink()
    with pytest.raises(UserError, match=r"study\.db was removed while in use"):
        place.run(trial)
    with pytest.raises(UserError, match="was removed"), StudyStore(place.study).lock():
        pass
    assert not database.exists()


def test_a_process_is_the_same_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        me = Owner.me()
        # What psutil says of when a process began moves with the time of day.
        began = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: began(self) + 3600)
        monkeypatch.setattr("time.time", lambda: 0.0)
        assert not me.gone()
        assert Owner.me() == me
        assert Owner(me.host, me.pid, me.born + 5).gone()  # another process of that number
        process.communicate(b"\n")
    assert Owner(me.host, process.pid, me.born).gone()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("foo://bucket", "cannot be written to: Unsupported filesystem"),
        ("file:///proc/nowhere", "cannot be written to"),
        ("adl://store/path", "a Python package, to use such a URL"),
    ],
)
def test_places_for_checkpoints_that_cannot_be_used_are_refused(given: str, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong) as caught:
        checkpoint_folder(given, "--checkpoints")
    assert str(caught.value).startswith(f"--checkpoints {given}: ")


def test_a_place_for_checkpoints_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/kept"
    assert checkpoint_folder(url, "--checkpoints") == url
    assert list((tmp_path / "kept").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("kept", "--checkpoints") == str(tmp_path / "kept")


def test_workers_are_given_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_for("cuda", 5) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert devices_for("cpu", 2) == ["cpu", "cpu"]
