"""Training with too little memory, full disks and interruptions."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_runs import SHORT, build, same_weights
from upath import UPath

from nas.architecture.spec import Architecture
from nas.data.packed.reader import PackedPeople
from nas.errors import UserError
from nas.training.checkpoint import load_checkpoint
from nas.training.evaluation import evaluate
from nas.training.loop import InterruptedTrainingError, TrainingResult
from nas.training.losses import Losses
from nas.training.step import accumulate_gradients

Run = Callable[..., TrainingResult]


class SmallMemory:
    """A forward hook that raises an out-of-memory error for batches above a limit."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.shown: list[int] = []

    def __call__(self, network: nn.Module, given: tuple[Tensor]) -> None:
        self.shown.append(len(given[0]))
        if len(given[0]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_the_micro_batch_is_halved_until_it_fits(run: Run, tiny: Architecture) -> None:
    memory, network = SmallMemory(5), build(tiny)
    network.register_forward_pre_hook(memory)
    result, reference = run(network=network), run()
    assert (result.micro_batch, reference.micro_batch) == (4, 8)
    training = memory.shown[:-1]
    assert training[:3] == [8, 4, 4]  # only the first step is repeated
    assert set(training[1:]) == {4}
    assert len(result.history) == 3
    # The same images in the same order; only batch norm sees fewer of them.
    losses = [[epoch["loss"] for epoch in one.history] for one in (result, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert not same_weights(result.network, reference.network)


def test_accumulated_gradients_equal_those_of_the_batch(tiny: Architecture) -> None:
    torch.manual_seed(0)
    network = build(tiny).eval()  # without batch statistics
    images, target = torch.randn(8, 3, 32, 32), torch.rand(8, 16, 8, 8)
    results = []
    for micro_batch in (8, 4, 3):
        network.zero_grad()
        loss = accumulate_gradients(
            network, images, target, torch.ones(8, 16) > 0, Losses((), 0.7), "cross_entropy", micro_batch
        )
        results.append([loss, *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    for parts in results[1:]:
        for a, b in zip(results[0], parts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_too_little_memory_for_the_smallest_micro_batch_is_an_error(run: Run, tiny: Architecture) -> None:
    network = build(tiny)
    network.register_forward_pre_hook(memory := SmallMemory(3))
    with pytest.raises(torch.OutOfMemoryError):
        run(network=network)
    assert memory.shown == [8, 4]


def test_evaluation_halves_its_batch_too(tiny: Architecture, small_held_out: PackedPeople) -> None:
    network = build(tiny)
    expected = evaluate(network, small_held_out, SHORT, 32, flip=True)
    network.register_forward_pre_hook(memory := SmallMemory(5))
    parts = evaluate(network, small_held_out, SHORT, 32, flip=True)
    assert memory.shown[-1] <= 4
    torch.testing.assert_close(parts.predictions, expected.predictions, rtol=1e-3, atol=1e-2)
    network.register_forward_pre_hook(SmallMemory(0))
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(network, small_held_out, SHORT, 32)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["disk", "memory://checkpoints"])
@pytest.mark.parametrize("steps", [(1,), (6,), (8,), (5, 6, 7)])
def test_a_stopped_run_resumes_at_the_same_step(run: Run, tmp_path: Path, storage: str, steps: tuple[int, ...]) -> None:
    uninterrupted = run()
    folder = tmp_path if storage == "disk" else UPath(storage) / tmp_path.name
    checkpoint = folder / "a.pt"
    done: list[int] = []
    for step in steps:
        with pytest.raises(InterruptedTrainingError):
            run(checkpoint=checkpoint, after_step=done.append, should_stop=lambda step=step: done[-1] >= step)
    result = run(checkpoint=checkpoint, after_step=done.append)
    assert done == list(range(1, 13))  # no step is done twice
    assert (result.resumed_step, result.resumed_at) == (steps[-1], steps[-1] // 4)
    assert same_weights(result.network, uninterrupted.network, 1e-6)
    assert [epoch["loss"] for epoch in result.history] == pytest.approx(
        [epoch["loss"] for epoch in uninterrupted.history]
    )
    seconds = [epoch["seconds"] for epoch in result.history]
    assert seconds == sorted(seconds)
    assert [file.name for file in folder.iterdir()] == ["a.pt"]


@pytest.mark.slow
def test_a_full_disk_only_prevents_the_checkpoint(run: Run, tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.pt"
    with largest_file(1000):
        with pytest.raises(UserError, match=r"a\.pt: cannot be written: File too large; free some space"):
            run(checkpoint=checkpoint)
        failures: list[str] = []
        result = run(checkpoint=checkpoint, on_checkpoint_failure=failures.append)
    assert failures == [f"{checkpoint}: cannot be written: File too large"] * 3
    assert same_weights(result.network, run().network)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_older_checkpoint(run: Run, tmp_path: Path) -> None:
    run(checkpoint=tmp_path / "a.pt", after_epoch=lambda epoch: "enough")
    with largest_file(1000), pytest.raises(UserError, match="cannot be written"):
        run(checkpoint=tmp_path / "a.pt")
    assert len(load_checkpoint(tmp_path / "a.pt")["history"]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.slow
def test_a_removed_folder_is_created_again(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "checkpoints"
    folder.mkdir(parents=True)
    run(checkpoint=folder / "a.pt", after_epoch=lambda epoch: shutil.rmtree(tmp_path / "deep", ignore_errors=True))
    run(checkpoint=folder / "a.pt")
    assert len(load_checkpoint(folder / "a.pt")["history"]) == 3


def test_an_unreadable_checkpoint_is_replaced_if_failures_are_handled(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK damaged")
    failures: list[str] = []
    result = run(checkpoint=tmp_path / "a.pt", on_checkpoint_failure=failures.append)
    assert [("not a readable checkpoint" in failure) for failure in failures] == [True]
    assert (result.resumed_at, result.resumed_step, len(result.history)) == (0, 0, 3)
    assert len(load_checkpoint(tmp_path / "a.pt")["history"]) == 3


@pytest.mark.slow
def test_out_of_memory_on_a_cpu_halves_the_micro_batch(run: Run, tiny: Architecture) -> None:
    network = build(tiny)

    def allocate(module: nn.Module, given: tuple[Tensor]) -> Any:
        if len(given[0]) > 4:
            torch.empty(10**15)

    network.register_forward_pre_hook(allocate)
    assert run(network=network).micro_batch == 4


def test_other_runtime_errors_are_raised(run: Run, tiny: Architecture) -> None:
    network = build(tiny)

    def fail(module: nn.Module, given: tuple[Tensor]) -> None:
        raise RuntimeError("another error")

    network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="another error"):
        run(network=network, schedule=replace(SHORT, batch=32))
