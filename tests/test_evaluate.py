"""``python -m nas.evaluate``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from nas import evaluate
from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture
from nas.console import run
from nas.data.packed.format import MARGIN, PackedHeader
from nas.data.packed.reader import PackedPeople
from nas.data.packed.writer import PackedPerson, PackedWriter
from nas.data.readers.mpii_evaluation import read_predictions
from nas.data.skeletons import LSP, MPII, Skeleton
from nas.data.synthetic.render import render_person
from nas.data.synthetic.scene import SceneConfig
from nas.training.checkpoint import checkpoint_metadata, load_network, save_checkpoint
from nas.training.evaluation import predict
from nas.training.loop import train
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

Evaluate = Callable[..., tuple[int, str, str]]
Command = Callable[..., CompletedProcess[str]]

TINY = Architecture(stem=4, width=8, stacks=2, depth=1)
SCHEDULE = ScheduleConfig(32, epochs=1, batch=8, loss="cross_entropy", decoder="quarter")
SIZE = 32
KEYS = {"metric", "threshold", "mean", "interval", "by_count", "by_count_interval", "groups", "joints", "people"}


def write_people(path: Path, skeleton: Skeleton = MPII, box: int = SIZE) -> Path:
    """Write 32 training and 24 validation people, each in a rotated image of their own."""
    with PackedWriter(path, PackedHeader(skeleton, box, {}), 56) as writer:
        for i in range(56):
            person = render_person(0, i, box, MARGIN, SceneConfig(clutter=0.1, occluders=0))
            count = len(skeleton.joints)
            back = np.array([[0.0, -2.5, 300 + i], [2.5, 0.0, 20]])
            writer.put(
                i,
                PackedPerson(
                    person.crop,
                    person.joints[:count],
                    person.labelled[:count],
                    2.5 * person.head_size,
                    back,
                    "train" if i < 32 else "valid",
                    f"im{i}.jpg",
                ),
            )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A checkpoint as training writes it, its people, and the evaluation that training made."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    data = write_people(folder / "people.h5")
    people, valid = (PackedPeople.load(data, split) for split in ("train", "valid"))
    network = build_network(TINY, 16, (SIZE, SIZE), seed=0)
    done = train(network, Losses(), SCHEDULE, people, valid, seed=0, checkpoint=folder / "checkpoint.pt")
    return SimpleNamespace(checkpoint=folder / "checkpoint.pt", data=data, valid=valid, evaluation=done.evaluation)


@pytest.fixture
def evaluated(capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Runs the command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run(evaluate.app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def as_json(evaluated: Evaluate) -> Callable[..., dict[str, Any]]:
    def call(*arguments: object) -> dict[str, Any]:
        code, out, _ = evaluated(*arguments, "--json")
        assert code == 0
        record: dict[str, Any] = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        return record

    return call


def test_a_network_scores_what_training_measured(trained, as_json) -> None:
    record = as_json(trained.checkpoint, "--data", trained.data, "--no-flip")
    wanted = trained.evaluation
    assert record["mean"] == pytest.approx(wanted.accuracy.mean)
    assert record["by_count"] == pytest.approx(wanted.accuracy.by_count)
    assert record["groups"] == pytest.approx(wanted.accuracy.groups)
    assert (record["metric"], record["threshold"], record["people"], record["left_out"]) == ("PCKh", 0.5, 24, 0)
    stages = [score["mean"] for score in record["scores"] if score["threshold"] == 0.5]
    assert stages == pytest.approx(list(wanted.stages))
    assert (record["input_size"], record["decoder"], record["split"]) == (SIZE, "quarter", "valid")
    assert record["network"] == str(TINY)


def test_every_hourglass_threshold_and_flip_has_a_score(trained, as_json) -> None:
    record = as_json(trained.checkpoint, "--data", trained.data)
    scores = record["scores"]
    assert [(s["threshold"], s["flip"], s["stage"]) for s in scores] == [
        (threshold, flip, stage) for threshold in (0.5, 0.1) for flip in (False, True) for stage in (1, 2)
    ]
    for score in scores:
        assert set(score) >= KEYS
        assert list(score["joints"]) == list(MPII.joints)
        assert list(score["groups"]) == list(MPII.groups)
        low, high = score["interval"]
        assert 0 <= low <= score["mean"] <= high <= 100
    assert {key: record[key] for key in scores[3]} == scores[3], "the headline: flipped copy, last hourglass, @0.5"
    assert scores[1] != scores[3]
    for flag, flip in (("--flip", True), ("--no-flip", False)):
        only = as_json(trained.checkpoint, "--data", trained.data, flag)
        assert only["scores"] == [s for s in scores if s["flip"] is flip]


def test_the_table(trained, evaluated: Evaluate) -> None:
    code, out, err = evaluated(trained.checkpoint, "--data", trained.data)
    assert (code, err) == (0, "")
    for text in (
        "24 valid people of skeleton mpii",
        "input 32×32, decoder quarter",
        "PCKh@0.5, 24 people",
        "PCKh@0.1, 24 people",
        "mean of joints",
        "by count",
        "hourglass 1 of 2 ",
        "hourglass 2 of 2, flipped copy",
        "pelvis (in no mean)",
    ):
        assert text in out
    assert f"{trained.evaluation.accuracy.mean:.3f}" in out


@pytest.mark.slow
def test_predictions_are_saved_in_the_official_layout(trained, evaluated: Evaluate, tmp_path: Path) -> None:
    file = tmp_path / "new" / "preds.mat"
    network, _ = load_network(trained.checkpoint)
    plain, flipped = predict(network, trained.valid, SCHEDULE, SIZE, flips=(False, True))
    for flags, wanted in (([], flipped), (["--no-flip"], plain)):
        code, out, _ = evaluated(trained.checkpoint, "--data", trained.data, "--save-predictions", file, *flags)
        assert code == 0
        assert str(file) in out
        raw = scipy.io.loadmat(file)
        assert raw["preds"].shape == (24, 16, 2)
        assert np.allclose(raw["preds"], wanted.positions[-1].numpy() + 0.5, atol=1e-3)
        assert [name[0][0] for name in raw["images"]] == [f"im{i}.jpg" for i in range(32, 56)]
        assert np.allclose(read_predictions(file), wanted.positions[-1].numpy(), atol=1e-3)
        assert os.listdir(file.parent) == ["preds.mat"]


@pytest.mark.slow
def test_torsos(trained, as_json, evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    torso = MPII.joints.index("left shoulder"), MPII.joints.index("right hip")
    monkeypatch.setattr(Skeleton, "torso", property(lambda self: torso, lambda self, value: None), raising=False)
    record = as_json(trained.checkpoint, "--data", trained.data, "--no-flip", "--metric", "pck")
    assert [(s["metric"], s["threshold"], s["stage"]) for s in record["scores"]] == [("PCK", 0.2, 1), ("PCK", 0.2, 2)]
    measured = int(trained.valid.labelled[:, list(torso)].all(dim=1).sum())
    assert (record["people"], record["left_out"]) == (measured, 24 - measured)
    heads = as_json(trained.checkpoint, "--data", trained.data, "--no-flip")
    assert heads["mean"] == pytest.approx(trained.evaluation.accuracy.mean), "as the training said"
    assert "PCK@0.2" in evaluated(trained.checkpoint, "--data", trained.data, "--metric", "auto")[1]


def test_a_note_warns_about_people_seen_in_training(trained, evaluated: Evaluate) -> None:
    code, out, err = evaluated(trained.checkpoint, "--data", trained.data, "--split", "train", "--json")
    assert code == 0
    assert json.loads(out)["people"] == 32
    assert "it may have seen its train people" in err


@pytest.mark.slow
def test_a_note_warns_about_enlarged_people(trained, evaluated: Evaluate, tmp_path: Path) -> None:
    small = write_people(tmp_path / "small.h5", box=24)
    code, _, err = evaluated(trained.checkpoint, "--data", small)
    assert code == 0
    assert "was packed at 24 pixels" in err
    large = write_people(tmp_path / "large.h5", box=48)
    assert evaluated(trained.checkpoint, "--data", large)[::2] == (0, "")


def test_other_joints_are_refused(trained, evaluated: Evaluate, tmp_path: Path) -> None:
    other = write_people(tmp_path / "lsp.h5", LSP)
    code, out, err = evaluated(trained.checkpoint, "--data", other)
    assert (code, out) == (2, "")
    assert err.startswith(
        f"error: --data {other} has 14 joints (lsp), but {trained.checkpoint} was trained on 16 (mpii)"
    )
    turned = replace(MPII, name="turned", joints=MPII.joints[::-1])
    other = write_people(tmp_path / "turned.h5", turned)
    code, out, err = evaluated(trained.checkpoint, "--data", other)
    assert (code, out) == (2, "")
    assert "has 'left wrist' where" in err


def content() -> dict[str, Any]:
    weights = build_network(TINY, 16, (SIZE, SIZE), seed=0).state_dict()
    return {**checkpoint_metadata(TINY, Losses(), SCHEDULE, MPII, SIZE), "network": weights, "average": weights}


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_size": None},
        {"input_size": [33, 33]},
        {"input_size": [32]},
        {"input_size": ["a", "b"]},
        {"skeleton": None},
        {"skeleton": "{}"},
        {"skeleton": LSP.to_json()},
        {"architecture": None},
        {"architecture": {"block": "nonesuch"}},
        {"architecture": []},
        {"architecture": Architecture(stem=4, width=16, stacks=2, depth=1).to_dict()},
        {"schedule": None},
        {"schedule": {"images": "many"}},
        {"schedule": {**SCHEDULE.to_dict(), "decoder": "magic"}},
        {"average": None},
        {"average": {}},
        {"average": []},
        {"average": {"stem.0.weight": 3}},
    ],
)
def test_checkpoints_without_a_network_are_refused(
    wrong: dict[str, Any], trained, evaluated: Evaluate, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.pt"
    merged = {**content(), **wrong}
    save_checkpoint(path, {key: value for key, value in merged.items() if value is not None})
    code, out, err = evaluated(path, "--data", trained.data)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: its content does not make a network (")
    assert err.count("\n") == 1
    assert len(err) < 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a CHECKPOINT and --data, or --predictions and --ground-truth; given: neither"),
        (["CHECKPOINT"], "given: CHECKPOINT"),
        (["--data", "DATA"], "given: --data"),
        (["--predictions", "PREDS"], "given: --predictions"),
        (["CHECKPOINT", "--data", "DATA", "--predictions", "PREDS"], "given: CHECKPOINT, --data, --predictions"),
        (["CHECKPOINT", "--predictions", "PREDS"], "given: CHECKPOINT, --predictions"),
        (["nowhere.pt", "--data", "DATA"], "CHECKPOINT nowhere.pt does not exist"),
        (["CHECKPOINT", "--data", "nowhere.h5"], "--data nowhere.h5 does not exist"),
        (["DATA", "--data", "DATA"], "people.h5: not a readable checkpoint"),
        (["CHECKPOINT", "--data", "CHECKPOINT"], "checkpoint.pt: not HDF5"),
        (["CHECKPOINT", "--data", "DATA", "--split", "holdout"], "nobody in split holdout"),
        (["CHECKPOINT", "--data", "DATA", "--split", "best"], "split 'best' is unknown"),
        (["CHECKPOINT", "--data", "DATA", "--device", "tpu"], "--device tpu: must be"),
        (["CHECKPOINT", "--data", "DATA", "--batch", "0"], "--batch"),
        (["CHECKPOINT", "--data", "DATA", "--metric", "oks"], "--metric oks: must be"),
        (["CHECKPOINT", "--data", "DATA", "--metric", "pck"], "--metric pck: skeleton mpii"),
        (["CHECKPOINT", "--data", "DATA", "--variable", "x"], "--variable x belongs to --predictions"),
        (["CHECKPOINT", "--data", "DATA", "--save-predictions", "."], "--save-predictions . is a directory"),
        (["CHECKPOINT", "--data", "DATA", "--save-predictions", "DATA/x.mat"], "the folder of --save-predictions,"),
        (
            ["CHECKPOINT", "--data", "DATA", "--save-predictions", "/proc/x.mat"],
            "--save-predictions /proc/x.mat: cannot be written",
        ),
        (["--predictions", "nowhere", "--ground-truth", "TRUTH"], "--predictions nowhere does not exist"),
        (["--predictions", "PREDS", "--ground-truth", "nowhere"], "--ground-truth nowhere does not exist"),
        (["--predictions", "DATA", "--ground-truth", "TRUTH"], "people.h5: not MATLAB"),
        (["--predictions", "PREDS", "--ground-truth", "PREDS"], "holds no 'pos_gt_src'"),
        (["--predictions", "TRUTH", "--ground-truth", "TRUTH", "--variable", "jnt_missing"], "no predictions"),
        (["--predictions", "OTHERS", "--ground-truth", "TRUTH"], "has 7 people, --ground-truth"),
        (["--predictions", "PREDS", "--ground-truth", "TRUTH", "--flip"], "--flip/--no-flip belongs"),
        (["--predictions", "PREDS", "--ground-truth", "TRUTH", "--metric", "pck"], "--metric pck belongs"),
        (["--predictions", "PREDS", "--ground-truth", "TRUTH", "--split", "train"], "--split train belongs"),
        (
            ["--predictions", "PREDS", "--ground-truth", "TRUTH", "--save-predictions", "x"],
            "--save-predictions belongs",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str],
    message: str,
    trained,
    official: SimpleNamespace,
    evaluated: Evaluate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scipy.io.savemat(tmp_path / "others.mat", {"preds": np.ones((7, 16, 2))})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = {
        "CHECKPOINT": trained.checkpoint,
        "DATA": trained.data,
        "PREDS": official.predictions,
        "TRUTH": official.truth,
        "OTHERS": tmp_path / "others.mat",
    }
    for name, path in names.items():
        arguments = [
            argument.replace(name, str(path)) if argument.startswith(name) else argument for argument in arguments
        ]
    code, out, err = evaluated(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert os.listdir() == []


@pytest.fixture
def official(tmp_path: Path) -> SimpleNamespace:
    """Ten people with heads of 30 pixels (0.6 × 50); predictions are 2 pixels off in y."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(100, 400, (10, 16, 2))
    missing = np.zeros((16, 10))
    missing[0, :5] = 1
    boxes = np.stack([np.zeros((2, 10)), np.repeat([[30.0], [40.0]], 10, axis=1)])
    truth, predictions = tmp_path / "truth.mat", tmp_path / "preds.mat"
    scipy.io.savemat(truth, {"pos_gt_src": joints.transpose(1, 2, 0), "jnt_missing": missing, "headboxes_src": boxes})
    near = joints + np.array([0, 2.0])
    scipy.io.savemat(predictions, {"preds": near})
    return SimpleNamespace(truth=truth, predictions=predictions, positions=near)


def test_real_predictions_score_what_is_published(shared_data: Path, command: Command) -> None:
    file = shared_data / "mpii" / "annot" / "valid_head_boxes.mat"
    done = command("evaluate", "--predictions", file, "--ground-truth", file, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert set(record) >= KEYS
    assert f"{record['mean']:.3f} {record['by_count']:.3f}" == "81.458 82.337"
    assert (record["metric"], record["threshold"], record["people"]) == ("PCKh", 0.5, 2958)
    low, high = record["interval"]
    assert low < record["mean"] < high
    assert 1 < high - low < 2
    assert (record["missing_people"], record["missing_joints"]) == (0, 0)
    text = command("evaluate", "--predictions", file, "--ground-truth", file)
    assert "81.458" in text.stdout
    assert "82.337" in text.stdout


@pytest.mark.slow
def test_predictions_in_either_layout(official: SimpleNamespace, as_json, tmp_path: Path) -> None:
    arguments = ("--ground-truth", official.truth, "--predictions")
    record = as_json(*arguments, official.predictions)
    assert (record["mean"], record["by_count"], record["people"]) == (100, 100, 10)
    assert [s["mean"] for s in record["scores"]] == [100, 100]  # 2 of 30 pixels is below 0.1
    assert record["interval"] == [100, 100]
    other = tmp_path / "other.mat"
    scipy.io.savemat(other, {"mine": official.positions.transpose(1, 2, 0)})
    assert as_json(*arguments, other)["scores"] == [{**s, "name": "other.mat"} for s in record["scores"]]
    scipy.io.savemat(other, {"preds": official.positions + 10, "mine": official.positions})
    assert as_json(*arguments, other)["scores"][1]["mean"] == 0
    assert as_json(*arguments, other, "--variable", "mine")["scores"][1]["mean"] == 100


@pytest.mark.slow
def test_missing_predictions_count_as_wrong(official: SimpleNamespace, as_json, evaluated: Evaluate) -> None:
    positions = official.positions.copy()
    positions[9] = np.nan
    positions[0, :2] = np.nan  # the first of them is not labelled
    scipy.io.savemat(official.predictions, {"preds": positions})
    arguments = ("--ground-truth", official.truth, "--predictions", official.predictions)
    record = as_json(*arguments)
    assert (record["missing_people"], record["missing_joints"]) == (1, 17)
    assert record["people"] == 10
    assert record["joints"]["right ankle"] == pytest.approx(80)  # 4 of 5
    assert record["joints"]["right knee"] == pytest.approx(80)
    assert record["joints"]["left wrist"] == pytest.approx(90)
    assert record["mean"] == pytest.approx((80 + 80 + 12 * 90) / 14)
    assert record["by_count"] == pytest.approx(100 * (4 + 8 + 12 * 9) / (5 + 13 * 10))
    assert "1 people, 17 labelled joints" in evaluated(*arguments)[1]


@pytest.mark.slow
def test_joints_without_labels_are_null(official: SimpleNamespace, as_json, evaluated: Evaluate) -> None:
    truth = scipy.io.loadmat(official.truth)
    truth["jnt_missing"][[0, 5]] = 1
    arguments = ("--ground-truth", official.truth, "--predictions", official.predictions)
    scipy.io.savemat(official.truth, {k: v for k, v in truth.items() if not k.startswith("_")})
    record = as_json(*arguments)
    assert record["groups"]["ankle"] is record["joints"]["left ankle"] is None
    assert record["mean"] == 100
    assert "–" in evaluated(*arguments)[1]
    truth["jnt_missing"][:] = 1
    scipy.io.savemat(official.truth, {k: v for k, v in truth.items() if not k.startswith("_")})
    record = as_json(*arguments)
    assert record["mean"] is record["by_count"] is None
    assert record["interval"] == [None, None]
    assert math.isfinite(record["people"])
    assert evaluated(*arguments)[0] == 0
