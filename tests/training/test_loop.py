from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from training_runs import LOSSES, SHORT, build, same_weights

from nas.architecture.hourglass import HourglassNetwork
from nas.architecture.spec import Architecture
from nas.data import augmentation
from nas.data.augmentation import Augmentation
from nas.data.packed.reader import PackedPeople
from nas.errors import UserError
from nas.training.checkpoint import load_checkpoint, load_network
from nas.training.evaluation import evaluate
from nas.training.loop import Epoch, TrainingHooks, TrainingResult, sample_order, train
from nas.training.losses import Losses
from nas.training.metrics import pckh
from nas.training.optimizer import optimizer_for
from nas.training.schedule import Optimizer, ScheduleConfig
from nas.training.weight_ema import WeightEMA


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_small_network_learns(
    run: Callable[..., TrainingResult], people: PackedPeople, held_out: PackedPeople, optimizer: Optimizer
) -> None:
    mean_pose = (people.joints * people.labelled.unsqueeze(-1)).sum(0) / people.labelled.sum(0).unsqueeze(-1)
    guess = mean_pose.expand_as(held_out.joints)
    chance = pckh(guess, held_out.original_joints(), held_out.labelled, held_out.head_size, held_out.skeleton).mean
    rate = {"adamw": 6e-3, "rmsprop": 1e-3}[optimizer]
    result = run(
        network=build(Architecture(stem=8, width=16, stacks=1, depth=3), 64),
        losses=Losses(),
        schedule=ScheduleConfig(1600, 2, 8, optimizer=optimizer, learning_rate=rate, loss="cross_entropy", sigma=0.8),
        people=people,
        held_out=held_out,
    )
    assert result.stopped is None
    assert result.evaluation is not None
    assert result.evaluation.accuracy.mean > chance + 10
    assert result.history[1]["loss"] < result.history[0]["loss"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_network(run: Callable[..., TrainingResult]) -> None:
    first, again, other = run(), run(), run(seed=1)
    assert same_weights(first.network, again.network)
    assert [epoch["loss"] for epoch in first.history] == [epoch["loss"] for epoch in again.history]
    assert not same_weights(first.network, other.network)


def test_seeds_may_be_as_large_as_a_time_in_nanoseconds(run: Callable[..., TrainingResult]) -> None:
    assert run(seed=1_764_273_600_123_456_789).stopped is None


def test_single_images_are_refused_where_batch_norm_sees_one_cell(people: PackedPeople, held_out: PackedPeople) -> None:
    schedule = replace(SHORT, batch=1)
    deep = build(Architecture(stem=4, width=4, stacks=1, depth=4), 64)
    with pytest.raises(UserError, match=r"batch 1: one image at a time is too few .* use a batch of at least 2"):
        train(deep, Losses(), schedule, people, held_out, seed=0)


def test_history_has_one_record_per_epoch(run: Callable[..., TrainingResult]) -> None:
    epochs: list[Epoch] = []
    steps: list[int] = []
    result = run(evaluate_after=lambda epoch: epoch == 2, after_epoch=epochs.append, after_step=steps.append)
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    assert [record["images"] for record in result.history] == [32, 64, 96]
    assert ["pckh" in record for record in result.history] == [False, True, True]  # the last one always is
    assert [epoch.evaluation is not None for epoch in epochs] == [False, True, True]
    assert steps == list(range(1, 13))
    assert json.loads(json.dumps(result.history)) == result.history
    assert all(math.isfinite(record["loss"]) for record in result.history)
    seconds = [record["seconds"] for record in result.history]
    assert seconds == sorted(seconds)
    assert len(result.history[-1]["stages"]) == 2
    assert result.evaluation is epochs[-1].evaluation
    assert (result.stopped, result.resumed_at) == (None, 0)
    assert not result.network.training


@pytest.mark.slow
def test_the_evaluated_network_is_returned(run: Callable[..., TrainingResult], small_held_out: PackedPeople) -> None:
    result = run()
    assert result.evaluation is not None
    assert evaluate(result.network, small_held_out, SHORT, 32).accuracy == result.evaluation.accuracy


def test_people_are_reduced_to_the_input_size(
    run: Callable[..., TrainingResult], people: PackedPeople, held_out: PackedPeople
) -> None:
    result, reduced_before = run(people=people, held_out=held_out), run()
    assert same_weights(result.network, reduced_before.network)
    assert result.evaluation is not None
    assert reduced_before.evaluation is not None
    assert torch.equal(result.evaluation.predictions, reduced_before.evaluation.predictions)


class InterruptedRunError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("where", ["after an epoch", "within an epoch", "within the first epoch"])
def test_an_interrupted_run_gives_the_same_result_as_an_uninterrupted_one(
    run: Callable[..., TrainingResult], tmp_path: Path, where: str, optimizer: Optimizer
) -> None:
    def raise_after(epoch: Epoch) -> None:
        if where == "after an epoch" and epoch.number == 2:
            raise InterruptedRunError

    def raise_within(step: int) -> None:
        if step == {"within an epoch": 7, "within the first epoch": 2}.get(where):
            raise InterruptedRunError

    schedule = replace(SHORT, optimizer=optimizer)
    checkpoint = tmp_path / "a.pt"
    uninterrupted = run(schedule=schedule)
    with pytest.raises(InterruptedRunError):
        run(schedule=schedule, checkpoint=checkpoint, after_epoch=raise_after, after_step=raise_within)
    result = run(schedule=schedule, checkpoint=checkpoint)
    assert result.resumed_at == {"after an epoch": 2, "within an epoch": 1, "within the first epoch": 0}[where]
    assert same_weights(result.network, uninterrupted.network, 1e-6)
    assert [epoch["loss"] for epoch in result.history] == pytest.approx(
        [epoch["loss"] for epoch in uninterrupted.history]
    )
    assert result.evaluation is not None
    assert uninterrupted.evaluation is not None
    assert result.evaluation.accuracy == uninterrupted.evaluation.accuracy
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.slow
def test_resuming_a_finished_run_trains_no_further(run: Callable[..., TrainingResult], tmp_path: Path) -> None:
    first = run(checkpoint=tmp_path / "a.pt")
    steps: list[int] = []
    again = run(checkpoint=tmp_path / "a.pt", after_step=steps.append)
    assert steps == []
    assert again.resumed_at == 3
    assert again.history == first.history
    assert same_weights(first.network, again.network)
    assert again.evaluation is not None
    assert first.evaluation is not None
    assert again.evaluation.accuracy == first.evaluation.accuracy


@pytest.mark.slow
def test_the_checkpoint_holds_the_averaged_network(run: Callable[..., TrainingResult], tmp_path: Path) -> None:
    result = run(checkpoint=tmp_path / "a.pt")
    network, content = load_network(tmp_path / "a.pt")
    assert same_weights(network, result.network)
    assert not torch.equal(content["network"]["stem.0.weight"], content["average"]["stem.0.weight"])
    assert content["history"] == result.history


@pytest.mark.slow
@pytest.mark.parametrize("change", ["schedule", "losses", "seed", "people", "network"])
def test_a_checkpoint_of_another_run_is_not_resumed(
    run: Callable[..., TrainingResult], tmp_path: Path, small_people: PackedPeople, tiny: Architecture, change: str
) -> None:
    checkpoint = tmp_path / "a.pt"
    run(checkpoint=checkpoint, after_epoch=lambda epoch: "enough")
    changes = {
        "schedule": replace(SHORT, learning_rate=1e-3),
        "losses": Losses(),
        "seed": 1,
        "people": replace(small_people, checksum="other"),
        "network": build(replace(tiny, narrow_res=False)),
    }
    result = run(checkpoint=checkpoint, **{change: changes[change]})
    assert result.resumed_at == 0
    assert len(result.history) == len(load_checkpoint(checkpoint)["history"]) == 3


def test_a_damaged_checkpoint_is_an_error(run: Callable[..., TrainingResult], tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=r"a\.pt: not a readable checkpoint"):
        run(checkpoint=tmp_path / "a.pt")


@pytest.mark.slow
def test_a_nonfinite_loss_stops_the_run(run: Callable[..., TrainingResult], tiny: Architecture, tmp_path: Path) -> None:
    network = build(tiny)

    def poison(step: int) -> None:
        if step == 5:
            next(network.parameters()).data.mul_(math.nan)

    result = run(network=network, after_step=poison, checkpoint=tmp_path / "a.pt")
    assert result.stopped == "diverged: the loss was not finite in epoch 2"
    assert len(result.history) == 1
    content = load_checkpoint(tmp_path / "a.pt")  # of the epoch before
    assert all(torch.isfinite(value).all() for value in content["network"].values())


def test_nonfinite_weights_in_the_last_step_are_detected(
    run: Callable[..., TrainingResult], tiny: Architecture
) -> None:
    network = build(tiny)

    def poison(step: int) -> None:
        if step == 11:
            for parameter in network.parameters():
                parameter.register_hook(lambda gradient: gradient * math.nan)

    result = run(network=network, after_step=poison, schedule=replace(SHORT, ema=0.0))
    assert result.stopped is not None
    assert "collapsed" in result.stopped


def test_constant_predictions_stop_the_run_as_collapsed(
    run: Callable[..., TrainingResult], tiny: Architecture, small_held_out: PackedPeople
) -> None:
    def constant() -> HourglassNetwork:
        network = build(tiny)
        for name, parameter in network.named_parameters():
            if ".heatmaps.weight" in name:
                nn.init.zeros_(parameter.requires_grad_(False))
        return network

    result = run(network=constant(), evaluate_after=lambda epoch: True)
    assert result.stopped == "collapsed: the same pose for everybody after 32 images"
    assert len(result.history) == 1
    names = ("crops", "joints", "labelled", "head_size", "to_original", "images")
    alone = replace(small_held_out, **{name: getattr(small_held_out, name)[:1] for name in names})
    assert run(network=constant(), held_out=alone).stopped is None  # a single person has no others to differ from


def test_a_reason_from_after_epoch_stops_the_run(run: Callable[..., TrainingResult], tmp_path: Path) -> None:
    result = run(
        after_epoch=lambda epoch: "out of reach" if epoch.number == 2 else None,
        evaluate_after=lambda epoch: epoch == 1,
        checkpoint=tmp_path / "a.pt",
    )
    assert result.stopped == "out of reach"
    assert len(result.history) == 2
    assert result.evaluation is not None  # the last one made, after the first epoch
    assert result.evaluation.accuracy.mean == result.history[0]["pckh"]
    assert len(load_checkpoint(tmp_path / "a.pt")["history"]) == 2


@pytest.mark.parametrize(("people_count", "start"), [(7, 0), (7, 3), (7, 7), (7, 30), (1, 5)])
def test_every_pass_contains_each_person_once_from_any_start(people_count: int, start: int) -> None:
    order = list(islice(sample_order(people_count, 3, 0), 10 * people_count))
    passes = [order[i : i + people_count] for i in range(0, len(order), people_count)]
    assert all(sorted(shown) == list(range(people_count)) for shown in passes)
    assert people_count == 1 or len({tuple(shown) for shown in passes}) > 5
    assert list(islice(sample_order(people_count, 3, start), 20)) == list(
        islice(sample_order(people_count, 3, 0), start, start + 20)
    )
    assert people_count == 1 or list(islice(sample_order(people_count, 4, 0), 70)) != order


def test_people_are_shown_in_this_order_with_different_augmentation(
    run: Callable[..., TrainingResult], small_people: PackedPeople, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    views: list[tuple[float, ...]] = []

    def spy(people: PackedPeople, indices: Tensor, size: int, to_crop: Tensor, mirrored: Tensor) -> Any:
        shown.extend(indices.tolist())
        views.extend(tuple(view) for view in to_crop.flatten(1).tolist())
        return original(people, indices, size, to_crop, mirrored)

    original = augmentation.cut_batch
    monkeypatch.setattr("nas.training.step.cut_batch", spy)
    run()
    assert shown == list(islice(sample_order(len(small_people), 0, 0), 96))
    assert len(set(views)) == 96  # every augmentation differs


@pytest.mark.slow
def test_joints_outside_the_map_are_ignored(run: Callable[..., TrainingResult], small_people: PackedPeople) -> None:
    away, unlabelled = small_people.joints.clone(), small_people.labelled.clone()
    away[:, 3], unlabelled[:, 3] = -500.0, False
    seen = run(people=replace(small_people, joints=away))
    want = run(people=replace(small_people, labelled=unlabelled))
    # A mirrored person's joint 3 is joint 2, in both.
    assert same_weights(seen.network, want.network, 1e-6)


def test_weight_decay_excludes_biases_and_norms(tiny: Architecture) -> None:
    network = build(tiny)
    decayed, others = optimizer_for(network, SHORT).param_groups
    assert decayed["weight_decay"] == SHORT.weight_decay
    assert others["weight_decay"] == 0
    assert all(p.ndim == 4 for p in decayed["params"])
    assert sum(p.numel() for group in (decayed, others) for p in group["params"]) == sum(
        p.numel() for p in network.parameters()
    )


def test_the_average_follows_weights_and_statistics() -> None:
    layer = nn.BatchNorm1d(1)
    average, last = WeightEMA(layer, horizon=10), WeightEMA(layer, horizon=0)
    want = 0.0
    for step in range(200):
        layer.weight.data.fill_(step)
        layer.load_state_dict({**layer.state_dict(), "running_mean": torch.tensor([-float(step)])})
        decay = min(0.9, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * step
        for ema in (average, last):
            ema.set_decay(step)
            ema.update()
    values, latest = average.network.state_dict(), last.network.state_dict()
    assert values["weight"].item() == pytest.approx(want, rel=1e-4) == pytest.approx(199 - 9, abs=0.1)
    assert values["running_mean"].item() == pytest.approx(-want, rel=1e-4)
    assert (latest["weight"].item(), latest["running_mean"].item()) == (199, -199)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_training_without_augmentation_and_clipping(run: Callable[..., TrainingResult]) -> None:
    schedule = replace(SHORT, augmentation=Augmentation(0, 0, 0, 0, 0), clip=0.0, ema=0.0, loss="mse")
    assert run(schedule=schedule).stopped is None


def train_as_rank(rank: int, folder: Path, people: PackedPeople, held_out: PackedPeople, tiny: Architecture) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", timeout=timeout, rank=rank, world_size=2)
    odd = replace(SHORT, batch=9)
    with pytest.raises(UserError, match="batch 9 cannot be divided among 2 processes"):
        train(build(tiny), LOSSES, odd, people, held_out, seed=0)

    def one(seed: int, checkpoint: Path | None, stop_after: int | None = None) -> TrainingResult:
        def stop(epoch: Epoch) -> str | None:
            return "enough" if epoch.number == stop_after and rank == 0 else None

        network = build(tiny)
        hooks = TrainingHooks(evaluate_after=lambda epoch: False, after_epoch=stop)
        return train(network, LOSSES, SHORT, people, held_out, seed=seed, checkpoint=checkpoint, hooks=hooks)

    # The second run finds a checkpoint of another seed, the third one its own, the last one is never interrupted.
    one(1, folder / "a.pt", stop_after=1)
    second = one(0, folder / "a.pt", stop_after=2)
    third = one(0, folder / "a.pt")
    uninterrupted = one(0, None)
    saved = {
        "stopped": second.stopped,
        "epochs": [second.resumed_at, len(second.history), third.resumed_at, len(third.history)],
        "losses": [epoch["loss"] for epoch in third.history],
        "third": third.network.state_dict(),
        "uninterrupted": uninterrupted.network.state_dict(),
    }
    torch.save(saved, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_one_network(
    tmp_path: Path, small_people: PackedPeople, small_held_out: PackedPeople, tiny: Architecture
) -> None:
    arguments = (tmp_path, small_people, small_held_out, tiny)
    torch.multiprocessing.spawn(train_as_rank, arguments, nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    a, b = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2))
    assert a["stopped"] == b["stopped"] == "enough"  # only the first process said so
    assert a["epochs"] == b["epochs"] == [0, 2, 2, 3]
    assert a["losses"] == b["losses"]
    for name, value in a["third"].items():
        if value.is_floating_point():  # batch norm statistics too
            assert torch.allclose(value, b["third"][name], atol=1e-6), name
            assert torch.allclose(value, a["uninterrupted"][name], atol=1e-5), name
    network, content = load_network(tmp_path / "a.pt")
    assert all(torch.equal(value, a["third"][name]) for name, value in network.state_dict().items())
    assert len(content["history"]) == 3
