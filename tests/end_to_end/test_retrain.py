"""``python -m nas.retrain`` from outside: which networks it trains, what it writes, how it is killed and taken up."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FrozenTrial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from workplace import Workplace, until

from nas.architecture.spec import Architecture
from nas.errors import UserError
from nas.study.execution.network_selection import full_training_checkpoint, select_networks
from nas.study.experiment import load, points_of
from nas.study.pareto import best, front, knee
from nas.study.space.published import named

pytestmark = pytest.mark.slow

RESULT = {"label", "network", "pckh", "pckh_flipped", "pckh_by_count", "groups", "stages", "params", "madds"}
LONG = ("--images", 320, "--epochs", 8)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, finished: Workplace) -> Workplace:
    """A copy of the finished search that the tests of this file train from, each other networks or schedules."""
    return Workplace(tmp_path_factory.mktemp("searched")).copy_of(finished, "data").copy_of(finished, "tiny")


def picked(place: Workplace) -> tuple[int, int, list[int]]:
    """Trials at the knee, of the best PCKh, and on the whole front."""
    experiment, study = load_here(place)
    points = points_of(study)
    return knee(points, experiment.scale).number, best(points).number, [p.number for p in front(points)]


def load_here(place: Workplace) -> Any:
    with chdir(place.folder):
        return load("tiny", Path("runs"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checked(place: Workplace, label: str, trial: FrozenTrial | None, epochs: int = 3) -> dict[str, Any]:
    """Check everything that one full training leaves behind, and return its result."""
    folder = place.path("tiny", "full", label)
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    for weights in ("network", "average"):
        assert all(torch.isfinite(v).all() for v in content[weights].values() if v.is_floating_point())
    assert [line["epoch"] for line in lines(folder)] == list(range(1, epochs + 1))
    assert all({"images", "loss", "learning_rate", "seconds", "pckh", "groups"} <= set(line) for line in lines(folder))
    assert list(folder.glob("*.part")) == []

    board = EventAccumulator(str(folder))
    board.Reload()
    events = [(event.step, event.value) for event in board.Scalars("pckh")]
    assert events == [(line["images"], pytest.approx(line["pckh"], rel=1e-5)) for line in lines(folder)]

    written = json.loads((folder / "result.json").read_text())
    result: dict[str, Any] = written["result"]
    assert set(result) >= RESULT
    assert result["pckh"] == lines(folder)[-1]["pckh"]
    assert {"candidate", "schedule", "record"} <= set(written)
    if trial is not None:
        assert written["candidate"] == trial.user_attrs["candidate"]
        assert content["architecture"] == trial.user_attrs["candidate"]["architecture"]
        assert (result["params"], result["madds"]) == tuple(trial.values[1:])
        assert result["short_pckh"] == trial.values[0]

    stored = [t for t in place.trials("tiny-full") if t.user_attrs["label"] == label]
    assert stored[-1].values == [result["pckh"], result["params"], result["madds"]]
    assert stored[-1].user_attrs["found_by_trial"] == (trial.number if trial else None)
    kept = [json.loads(v) for k, v in stored[-1].system_attrs.items() if k.startswith("artifacts:")]
    ids = {one["filename"]: one["artifact_id"] for one in kept}
    assert len(ids) == len(kept)
    assert set(ids) == {"checkpoint.pt", "config.json", "heatmaps.jpg", "learning-curve.svg", "people.jpg"}
    weights = place.path("tiny", "artifacts", ids["checkpoint.pt"])
    assert weights.read_bytes() == (folder / "checkpoint.pt").read_bytes()
    note = place.note("tiny-full", stored[-1])
    assert f"{result['pckh_flipped']:.1f} with the flipped copy" in note
    found_by = f"[trial {trial.number} of tiny](/dashboard/studies/1/trials?numbers={trial.number})" if trial else ""
    assert found_by in note
    return result


def test_a_retrained_network_is_found_again(going: Workplace) -> None:
    number = picked(going)[0]
    for length in ((), ("--images", 320, "--epochs", 2)):
        done = going.run("retrain", "--study", "tiny", "--trial", number, *length, "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert "  epoch " not in done.stdout
        assert "PCKh@0.5" in done.stdout
    experiment, study = load_here(going)
    with chdir(going.folder):
        (selected,) = select_networks(experiment, study, None, "knee", False, None)
        longest = full_training_checkpoint(experiment, study, selected)
        assert longest == Path("runs/tiny/full", f"trial-{number}-320x2", "checkpoint.pt")
        weights = longest.read_bytes()
        longest.unlink()
        copy = full_training_checkpoint(experiment, study, selected)
        assert copy.parent == Path("runs/tiny/artifacts")
        assert copy.read_bytes() == weights
        copy.unlink()
        with pytest.raises(UserError, match=rf"^--trial {number}: its checkpoint .* does not exist anymore; run"):
            full_training_checkpoint(experiment, study, selected)


def test_the_knee_then_the_whole_front_then_the_best(searched: Workplace) -> None:
    at_knee, at_best, whole = picked(searched)
    trials = searched.trials()
    done = searched.run("retrain", "--study", "tiny", "--pick", "knee")
    assert (done.returncode, done.stderr) == (0, "")
    result = checked(searched, f"trial-{at_knee}", trials[at_knee])
    assert [t.user_attrs["found_by_trial"] for t in searched.trials("tiny-full")] == [at_knee]
    assert done.stdout.count("  epoch ") == 3
    assert f"trial-{at_knee}: PCKh@0.5 {result['pckh']:.2f} (search: {trials[at_knee].values[0]:.1f}" in done.stdout
    assert "with the flipped copy" in done.stdout
    assert f"weights: runs/tiny/full/trial-{at_knee}/checkpoint.pt" in done.stdout

    done = searched.run("retrain", "--study", "tiny", "--all-front", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    assert [row["label"] for row in results] == [f"trial-{n}" for n in whole]
    for number in whole:
        assert checked(searched, f"trial-{number}", trials[number]) in results
    records = searched.trials("tiny-full")
    assert sorted(t.user_attrs["found_by_trial"] for t in records) == sorted(whole), "one record for each network"

    again = searched.run("retrain", "--study", "tiny", "--pick", "best", "--json")
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout) == [row for row in results if row["label"] == f"trial-{at_best}"]
    assert len(searched.trials("tiny-full")) == len(records)
    assert [t.values for t in searched.trials()] == [t.values for t in trials], "the search itself is left as it was"


def test_a_killed_retrain_gives_what_an_uninterrupted_one_gives(searched: Workplace, going: Workplace) -> None:
    number = picked(searched)[1]
    arguments = ("retrain", "--study", "tiny", "--trial", number, *LONG)
    folder = going.path("tiny", "full", f"trial-{number}-{LONG[1]}x{LONG[3]}")
    with going.begun(*arguments) as process:
        until(lambda: (folder / "metrics.jsonl").is_file() and len(lines(folder)) >= 2, "two epochs are done")
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = len(torch.load(folder / "checkpoint.pt", weights_only=True)["history"])
    assert 2 <= kept < 8
    # As if it had been killed between writing a checkpoint and that epoch's metrics.
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines(folder)[: kept - 1]))
    done = going.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(part.split()[0]) for part in done.stdout.split("  epoch ")[1:]] == list(range(kept + 1, 9))

    assert searched.run(*arguments).returncode == 0
    whole = searched.path("tiny", "full", folder.name)
    ours, theirs = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (folder, whole))
    for weights in ("network", "average"):
        assert ours[weights].keys() == theirs[weights].keys()
        for name, tensor in ours[weights].items():
            assert torch.allclose(tensor, theirs[weights][name], rtol=1e-4, atol=1e-6), name
    for mine, other in zip(lines(folder), lines(whole), strict=True):
        assert all(mine[key] == other[key] for key in ("epoch", "images", "learning_rate"))
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert mine["pckh"] == pytest.approx(other["pckh"], abs=0.5)
    assert len(going.trials("tiny-full")) == 1


def test_a_published_network_is_scaled_to_the_study(place: Workplace) -> None:
    people = next(place.path("data").glob("*.h5"))
    text = place.file.read_text().replace("width_scale = 1.0", "width_scale = 0.125")
    place.file.write_text(text.replace("input_size = 32", f'input_size = 64\nfile = "{people}"'))
    place.begin_study()

    done = place.run("retrain", "--study", "tiny", "--published", "hg1")
    assert (done.returncode, done.stderr) == (0, "")
    result = checked(place, "hg1", None)
    content = torch.load(place.path("tiny", "full", "hg1", "checkpoint.pt"), weights_only=True)
    assert Architecture.from_dict(content["architecture"]) == named("hg1").candidate.architecture.scaled(0.125)
    assert result["short_pckh"] is None


def test_two_processes_train_one_network_and_store_it_once(going: Workplace) -> None:
    number = picked(going)[0]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = going.run("retrain", "--study", "tiny", "--trial", number, launcher=torchrun)
    assert done.returncode == 0, done.stderr
    checked(going, f"trial-{number}", going.trials()[number])
    assert done.stdout.count("PCKh@0.5") == 1, "only one process speaks"
    assert len(going.trials("tiny-full")) == 1


def test_one_process_trains_a_network_and_the_other_says_who_does(going: Workplace) -> None:
    trial = going.done()[0].number
    again = ("retrain", "--study", "tiny", "--trial", trial, "--images", 4096, "--epochs", 16)
    folder = going.path("tiny", f"full/trial-{trial}-4096x16")
    with going.begun(*again, stdout=subprocess.DEVNULL) as first:
        until((folder / "checkpoint.pt").is_file, "the first epoch ends")
        first.send_signal(signal.SIGSTOP)
        second = going.run(*again)
        assert second.returncode == 2
        assert f"process {first.pid} on" in second.stderr
        assert "trains this network already" in second.stderr
        first.kill()
        first.wait(timeout=30)
    shorter = going.run("retrain", "--study", "tiny", "--trial", trial, "--images", 64, "--epochs", 2)
    assert (shorter.returncode, shorter.stderr) == (0, ""), "another schedule has a folder of its own"
