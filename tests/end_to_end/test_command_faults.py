"""Commands under SIGTERM, with a removed folder and with a clock that jumps."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState
from workplace import ENVIRONMENT, LONGER, Workplace, essence, living, until

pytestmark = pytest.mark.slow

STOPPED = "stopped by SIGTERM; the same command resumes\n"
BROKEN = """
from torch import nn

class Broken(nn.Module):
    def __init__(self, in_channels, width):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 2 * width, 1)

    def forward(self, x):
        if self.training and len(x) > 1:
            raise RuntimeError("no such luck")
        return self.convolution(x)
"""
JUMPS = """
import os, time
_steady, _real, _began = time.monotonic, time.time, time.monotonic()
# An hour ahead, then a day back, then correct, changing every three seconds.
time.time = lambda: _real() + (3600, -86400, 0)[int((_steady() - _began) / 3) % 3]
"""


@pytest.mark.parametrize("to", ["the coordinator", "all processes"])
def test_a_terminated_search_requeues_its_trials_with_their_checkpoints(place: Workplace, to: str) -> None:
    arguments = ("--study", "tiny.toml", "--trials", 4, "--workers", 2, *LONGER)
    with place.begun("search", *arguments) as process:
        until(lambda: len(place.half_way()) == 2, "two trials are past their first epoch")
        (os.killpg if to == "all processes" else os.kill)(process.pid, signal.SIGTERM)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (143, STOPPED)
        assert time.monotonic() - began < 20
        until(lambda: not living(process.pid), "nothing is left running", 20)
    trials = place.trials()
    assert not any(trial.state == TrialState.RUNNING for trial in trials)
    handed_back = [trial for trial in trials if trial.state == TrialState.WAITING]
    assert len(handed_back) == 2
    reached = {}
    for trial in handed_back:
        before = trial.user_attrs["earlier"][-1]
        state = torch.load(place.path("tiny", "checkpoints", f"trial-{before}.pt"), weights_only=True)
        within = state.get("within")
        reached[trial.number] = len(state["history"]) * 8 + (within["step"] if within else 0)  # 512 / 8 / 8 steps
    assert all(step > 0 for step in reached.values())
    done = [essence(trial) for trial in place.done()]

    place.search("--trials", 4, "--workers", 2, *LONGER)
    again = {trial.number: trial for trial in place.trials()}
    assert len(place.done()) == 4
    assert [essence(again[trial[0]]) for trial in done] == done
    assert {number: again[number].user_attrs["resumed_after_step"] for number in reached} == reached
    assert list(place.path("tiny", "checkpoints").iterdir()) == []


def test_a_terminated_worker_is_replaced(place: Workplace) -> None:
    arguments = ("--study", "tiny.toml", "--trials", 1, "--workers", 1, *LONGER)
    with place.begun("search", *arguments) as process:
        trial = until(place.half_way, "a trial past its first epoch")[0]
        os.kill(trial.user_attrs["owner"]["pid"], signal.SIGTERM)
        _, errors = process.communicate(timeout=200)
        assert (process.returncode, errors) == (0, "")
    (done,) = place.done()
    assert done.user_attrs["earlier"] == [trial.number]
    assert done.user_attrs["resumed_after_step"] > 0


def test_a_terminated_full_training_resumes_at_the_same_step(going: Workplace) -> None:
    arguments = ("--study", "tiny", "--pick", "best", "--images", 1536, "--epochs", 4, "--json")
    full = going.path("tiny", "full")
    with going.begun("retrain", *arguments) as process:
        until(lambda: list(full.glob("*/checkpoint.pt")), "an epoch is done")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors.endswith(STOPPED)) == (143, True)
    (file,) = full.glob("*/checkpoint.pt")
    assert 1 <= len(torch.load(file, weights_only=True)["history"]) < 4
    again = going.run("retrain", *arguments)
    assert again.returncode == 0, again.stderr
    history = torch.load(file, weights_only=True)["history"]
    assert [epoch["images"] for epoch in history] == [384, 768, 1152, 1536]
    assert json.loads(again.stdout)[0]["pckh"] == history[-1]["pckh"]


def test_a_study_whose_every_trial_raises_ends_with_the_reason(place: Workplace) -> None:
    (place.folder / "own.py").write_text(BROKEN)
    place.space.write_text(place.space.read_text().replace('["bottleneck", "separable"]', '["own:Broken"]'))
    for trials in (2, 2, 50):  # the second time, nothing is left to search
        done = place.run(
            "search", "--study", "tiny.toml", "--trials", trials, "--workers", 1, "--allow-code", "own:Broken"
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.count("RuntimeError: no such luck") == 1
    reasons = [trial.user_attrs["reason"] for trial in place.done()]
    assert reasons
    assert set(reasons) == {"given up: it raised RuntimeError: no such luck, twice"}
    assert "in forward" in place.path("tiny", "errors.log").read_text()


@pytest.mark.parametrize("what", ["DELETE FROM studies", "UPDATE studies SET study_name = 'other'"])
def test_a_search_whose_study_is_deleted_or_renamed_ends_with_an_error(place: Workplace, what: str) -> None:
    with place.begun("search", "--study", "tiny.toml", "--trials", 3, "--workers", 1, *LONGER) as process:
        until(place.half_way, "a trial past its first epoch")
        if what.startswith("DELETE"):
            optuna.delete_study(study_name="tiny", storage=f"sqlite:///{place.path('tiny', 'study.db')}")
        else:
            with closing(sqlite3.connect(place.path("tiny", "study.db"), timeout=60)) as database:
                database.execute(what)
                database.commit()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "study tiny: was deleted or renamed in sqlite:///runs/tiny/study.db" in errors
    assert "Traceback" not in errors
    names = optuna.get_all_study_names(f"sqlite:///{place.path('tiny', 'study.db')}")
    assert names == ([] if what.startswith("DELETE") else ["other"])  # it is not made again


def test_a_search_whose_folder_is_removed_ends_with_an_error(place: Workplace) -> None:
    with place.begun("search", "--study", "tiny.toml", "--trials", 3, "--workers", 1, *LONGER) as process:
        until(place.half_way, "a trial past its first epoch")
        # In one step: removing file by file would race with the checkpoints that are written meanwhile.
        place.path("tiny").rename(place.folder / "elsewhere")
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "study.db was removed while in use" in errors
    assert "Traceback" not in errors
    assert not place.path("tiny", "study.db").exists()


def test_a_search_survives_clock_jumps(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "jumps").mkdir()
    (tmp_path / "jumps" / "sitecustomize.py").write_text(JUMPS)
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": f"{tmp_path / 'jumps'}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}",
        "HOURGLASS_BEAT": "0.5",
        "HOURGLASS_LEASE": "3",
    }
    arguments = ("--study", "tiny.toml", "--trials", 4, "--workers", 2, *LONGER)
    with place.begun("search", *arguments, env=environment) as process:
        _, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (0, "")
    trials = place.trials()
    assert [trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials] == [True] * 4
    assert not any("earlier" in trial.user_attrs for trial in trials)  # no worker was mistaken for dead
