"""Trials under faults: too little memory, unusable checkpoints, requests to stop."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
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
from nas.study.storage.trial_queue import MAX_ATTEMPTS, Counts, claim, count, requeue


@dataclass
class TinyStudy:
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

    def stop_after(self, steps: int) -> Callable[[], bool]:
        """Return a function that asks to stop once it was called ``steps`` times."""
        calls = iter(range(1, 1000))
        return lambda: next(calls) >= steps

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints."""
        folder = self.experiment.checkpoints_of(self.study)
        return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny study's people, which are rendered once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(params=["folder", "memory://checkpoints"])
def tiny(
    request: pytest.FixtureRequest, write_study: Callable[..., Path], tmp_path: Path, data_folder: Path
) -> Iterator[TinyStudy]:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "data").symlink_to(data_folder)
    checkpoints = None if request.param == "folder" else f"{request.param}/{tmp_path.name}"
    experiment = prepare(StudyConfig.read(write_study()), tmp_path / "runs", checkpoints=checkpoints)
    study = experiment.open_study(RandomSampler(seed=0))
    people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 32) for split in ("train", "holdout"))
    yield TinyStudy(experiment, study, people, held_out)
    StudyStore(study).engine.dispose()


def limit_batch(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Let networks raise for larger batches, like a GPU without enough memory."""

    def build(*arguments: object, **options: object) -> nn.Module:
        network = original(*arguments, **options)  # type: ignore[arg-type]
        network.register_forward_pre_hook(raise_if_larger)
        return network

    def raise_if_larger(network: nn.Module, arguments: tuple[Tensor]) -> None:
        if len(arguments[0]) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    original = hourglass.build_network
    monkeypatch.setattr("nas.study.execution.trial_session.build_network", build)


@pytest.mark.slow
def test_a_smaller_micro_batch_is_stored(tiny: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_batch(monkeypatch, 5)
    trial = tiny.claim()
    outcome = tiny.run(trial)
    stored = tiny.study.trials[trial.number]
    assert outcome.reason is None
    assert stored.state == TrialState.COMPLETE
    assert stored.user_attrs["pictures_at_once"] == 4


@pytest.mark.slow
def test_a_trial_that_does_not_fit_into_memory_is_pruned(tiny: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_batch(monkeypatch, 3)
    trial = tiny.claim()
    tiny.run(trial)
    stored = tiny.study.trials[trial.number]
    assert stored.state == TrialState.PRUNED  # not failed: samplers see pruned trials
    assert stored.user_attrs["reason"].startswith(
        "out of memory, with the smallest micro-batch too: CUDA out of memory."
    )
    assert tiny.checkpoints() == []
    assert count(tiny.study).done == 1


@pytest.mark.slow
def test_a_stopped_trial_is_requeued_and_resumes_at_its_step(tiny: TinyStudy) -> None:
    trial = tiny.claim()
    outcome = tiny.run(trial, tiny.stop_after(5))
    assert outcome.reason == REQUEUED
    assert tiny.study.trials[trial.number].state == TrialState.FAIL
    assert count(tiny.study) == Counts(complete=0, pruned=0, running=0, waiting=1)
    assert tiny.checkpoints() == [f"trial-{trial.number}.pt"]
    again = tiny.claim()
    assert again.params == trial.params
    assert again.user_attrs["attempt"] == 1  # not a failed attempt
    tiny.run(again)
    stored = tiny.study.trials[again.number]
    assert (stored.state, stored.user_attrs["resumed_after_step"]) == (TrialState.COMPLETE, 5)
    assert stored.user_attrs["resumed_after_epoch"] == 2  # two steps an epoch
    assert "started_again" not in stored.user_attrs
    assert tiny.checkpoints() == []


@pytest.mark.slow
def test_a_trial_stopped_in_its_first_epoch_resumes(tiny: TinyStudy) -> None:
    tiny.run(tiny.claim(), tiny.stop_after(1))
    again = tiny.claim()
    tiny.run(again)
    stored = tiny.study.trials[again.number].user_attrs
    assert stored["resumed_after_step"] == 1
    assert "started_again" not in stored


@pytest.mark.slow
def test_only_a_trial_without_progress_is_given_up(tiny: TinyStudy) -> None:
    def die(at: int) -> None:
        """Let a worker of the trial die at this step."""

        def raise_at(step: int) -> None:
            if step == at:
                raise KeyboardInterrupt

        trial = tiny.claim()
        with pytest.raises(KeyboardInterrupt):
            TrialSession(tiny.study, trial, tiny.experiment, tiny.people, tiny.held_out, after_step=raise_at).run()
        with StudyStore(tiny.study).lock():
            requeue(tiny.study, tiny.study.trials[trial.number])

    for at in (1, 1, 3, 3, 5, 5):  # an epoch has two steps
        die(at)
    assert count(tiny.study) == Counts(complete=0, pruned=0, running=0, waiting=1)
    for _ in range(MAX_ATTEMPTS - 2):  # two have died at this step already
        die(5)
    assert count(tiny.study) == Counts(complete=0, pruned=1, running=0, waiting=0)
    assert "given up" in tiny.study.trials[-1].user_attrs["reason"]


@pytest.mark.slow
def test_a_full_disk_does_not_end_a_trial(
    tiny: TinyStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nas.training.checkpoint.write_atomically", write)
    trial = tiny.claim()
    assert tiny.run(trial).reason is None
    stored = tiny.study.trials[trial.number].user_attrs
    assert stored["without_checkpoint"].endswith(": cannot be written: No space left on device")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"trial {trial.number} continues, but cannot be resumed from here: ")


@pytest.mark.slow
def test_a_trial_with_a_damaged_checkpoint_restarts(tiny: TinyStudy, capsys: pytest.CaptureFixture[str]) -> None:
    trial = tiny.claim()
    tiny.run(trial, tiny.stop_after(5))
    (tiny.experiment.checkpoints_of(tiny.study) / f"trial-{trial.number}.pt").write_bytes(b"PK damaged")
    again = tiny.claim()
    assert tiny.run(again).reason is None
    stored = tiny.study.trials[again.number].user_attrs
    assert stored["started_again"]
    assert "not a readable checkpoint" in stored["without_checkpoint"]
    assert "not a readable checkpoint" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("tiny", ["folder"], indirect=True)
def test_a_removed_database_is_not_created_again(tiny: TinyStudy, tmp_path: Path) -> None:
    trial = tiny.claim()
    database = tiny.experiment.folder / "study.db"
    database.unlink()
    with pytest.raises(UserError, match=r"study\.db was removed while in use"):
        tiny.run(trial)
    with pytest.raises(UserError, match="was removed"), StudyStore(tiny.study).lock():
        pass
    assert not database.exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://bucket", "cannot be written to: Unsupported filesystem"),
        ("file:///proc/nowhere", "cannot be written to"),
        ("adl://store/path", "a Python package, to use such a URL"),
        ("memory://checkpoints", "other processes cannot see it"),
        ("simplecache::memory://checkpoints", "other processes cannot see it"),
        ("https://host/checkpoints", "cannot be written to"),
    ],
)
def test_unusable_checkpoint_folders_are_rejected(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        checkpoint_folder(url, "--checkpoints")
    assert str(caught.value).startswith(f"--checkpoints {url}: ")


@pytest.mark.parametrize("scheme", ["sftp", "ftp", "s3"])
def test_a_password_in_a_checkpoint_url_is_refused_and_not_shown(scheme: str) -> None:
    with pytest.raises(UserError, match=r"would be stored .* environment") as caught:
        checkpoint_folder(f"{scheme}://me:s3cr:et@host/checkpoints", "--checkpoints")
    assert f"{scheme}://me:***@host/checkpoints" in str(caught.value)
    assert "s3cr" not in str(caught.value)
    assert "et@" not in str(caught.value)


def test_checking_a_checkpoint_folder_leaves_nothing_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/checkpoints"
    assert checkpoint_folder(url, "--checkpoints") == url
    assert list((tmp_path / "checkpoints").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("checkpoints", "--checkpoints") == str(tmp_path / "checkpoints")


def test_workers_use_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_for("cuda", 5) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert devices_for("cpu", 2) == ["cpu", "cpu"]
