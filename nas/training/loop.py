"""The training loop.

uint8 crops on the device → one warp per batch → network → loss → weights: :mod:`nas.training.step`. The loop never
waits for the device within an epoch: losses are summed there and read once at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture.hourglass import HourglassNetwork
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.errors import UserError
from nas.training.batch_norm import trains_on_single_images
from nas.training.checkpoint import AnyPath, checkpoint_metadata
from nas.training.distributed import DistributedContext
from nas.training.evaluation import Evaluation, evaluate
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig
from nas.training.state import PartialEpoch, RunCheckpoint, TrainingState
from nas.training.step import TrainingStep

COLLAPSED = 1e-3
"""Spread of the predictions between people, in box sides, below which a network ignores its input."""


@dataclass(frozen=True)
class Epoch:
    """The outcome of one epoch.

    Attributes:
        number: from 1.
        images: shown so far, in all epochs.
        loss: mean over the epoch.
        seconds: of training so far, over all interruptions, without evaluation.
        evaluation: of the averaged weights, where one was made.
    """

    number: int
    images: int
    loss: float
    seconds: float
    evaluation: Evaluation | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as histories store them; ``pckh`` and what follows only where there was an evaluation."""
        values: dict[str, Any] = {
            "epoch": self.number,
            "images": self.images,
            "loss": self.loss,
            "seconds": self.seconds,
        }
        if self.evaluation is not None:
            accuracy = self.evaluation.accuracy
            values |= {
                "pckh": accuracy.mean,
                "pckh_by_count": accuracy.by_count,
                "groups": accuracy.groups,
                "stages": list(self.evaluation.stages),
            }
        return values


@dataclass(frozen=True)
class TrainingHooks:
    """Functions that :func:`train` calls.

    Attributes:
        evaluate_after: whether to evaluate after an epoch, from 1; the last one is always evaluated.
        after_epoch: called after each epoch; returns a reason to stop training, or None.
        after_step: called with the number of steps done.
        should_stop: called after each step of a single process. If true, the state is saved within the epoch and
            :class:`InterruptedTrainingError` raised. Several processes ignore it: they would have to agree.
        on_checkpoint_failure: called with what is wrong when a checkpoint cannot be read or written; training then
            starts from the beginning, or continues. None to raise an error.
    """

    evaluate_after: Callable[[int], bool] = lambda epoch: True
    after_epoch: Callable[[Epoch], str | None] = lambda epoch: None
    after_step: Callable[[int], None] = lambda steps: None
    should_stop: Callable[[], bool] = lambda: False
    on_checkpoint_failure: Callable[[str], None] | None = None


@dataclass
class TrainingResult:
    """The outcome of a training run.

    Attributes:
        network: the averaged weights, in evaluation mode.
        evaluation: the last one made.
        stopped: why training ended before its schedule, or None.
        history: one record per epoch, from :meth:`Epoch.to_dict`.
        resumed_at: epochs that the checkpoint held; 0 for a fresh start.
        resumed_step: steps that the checkpoint held.
        micro_batch: images per forward pass; less than this process's part of a batch where memory was too small.
    """

    network: nn.Module
    evaluation: Evaluation | None
    stopped: str | None
    history: list[dict[str, Any]]
    resumed_at: int = 0
    resumed_step: int = 0
    micro_batch: int = 0


class InterruptedTrainingError(Exception):
    """``should_stop`` ended training; the checkpoint holds its state."""


def train(
    network: HourglassNetwork,
    losses: Losses,
    schedule: ScheduleConfig,
    people: PackedPeople,
    held_out: PackedPeople,
    *,
    seed: int,
    checkpoint: AnyPath | None = None,
    hooks: TrainingHooks = TrainingHooks(),
) -> TrainingResult:
    """Train one network under one schedule.

    With several processes (``torch.distributed`` is initialized), each one trains on its part of every batch, and all
    return the same network. Rank 0 writes the checkpoint, which all of them read, and decides whether to stop.

    Where the device's memory is too small for a batch, gradients are accumulated over micro-batches
    (:class:`nas.training.step.TrainingStep`).

    Args:
        network: new, on the CPU; moved to the people's device.
        losses: weights of the loss terms, canonical for this network.
        schedule: the hyperparameters.
        people: to train on, on the device to train on; their crops may be on the host
            (:mod:`nas.training.host_prefetch`).
        held_out: to evaluate on; on the same device.
        seed: of order and augmentation.
        checkpoint: where the state is saved after each epoch. If the file exists, training resumes from it; one of
            another network, schedule, seed or other people is removed.
        hooks: called during training.

    Raises:
        UserError: the checkpoint cannot be read or written, the batch cannot be divided equally, or one image at a time
            is too few for the network.
        InterruptedTrainingError: ``hooks.should_stop`` returned true.
        torch.OutOfMemoryError: even the smallest micro-batch is too large for the device.
    """
    device, input_size = people.joints.device, network.input_size[0]
    people, held_out = fit_to_input(people, input_size), fit_to_input(held_out, input_size)
    context = DistributedContext.current()
    if context.divide(schedule.batch) == 1 and not trains_on_single_images(
        network.architecture, len(people.skeleton.joints), network.input_size
    ):
        each = f" in each of {context.world_size} processes" if context.is_distributed else ""
        raise UserError(
            f"batch {schedule.batch}: one image at a time{each} is too few for {network.architecture}, "
            f"whose batch norm sees one cell at this input size; use a batch of at least {2 * context.world_size}"
        )
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    state = TrainingState(network, schedule)
    step = TrainingStep(state, losses, schedule, people, input_size, context)
    identity = checkpoint_metadata(network.architecture, losses, schedule, people.skeleton, input_size)
    identity |= {"seed": seed, "people": [people.checksum, len(people)]}
    saved = RunCheckpoint(checkpoint, identity, context, hooks.on_checkpoint_failure)
    saved.restore(state, device)
    resumed_at, resumed_step = len(state.history), state.steps

    evaluation, stopped = None, None
    for number in range(resumed_at + 1, schedule.epochs + 1):
        # Order and augmentation depend on seed and epoch only, so that a resumed run sees the same images.
        step.generator.manual_seed(_generator_seed((seed * 1_000_003 + number) * context.world_size + context.rank))
        batches = epoch_batches(people, schedule, seed, number)[:, context.rank :: context.world_size]
        try:
            loss, seconds = run_epoch(number, state, step, batches, hooks)
        except InterruptedTrainingError:
            saved.save(state)
            raise
        if not math.isfinite(loss):
            stopped = f"diverged: the loss was not finite in epoch {number}"
            break
        # Each process has batch norm statistics of its own images only.
        context.average_((*network.buffers(), *state.average.network.buffers()))
        last = number == schedule.epochs
        scores = None
        if last or hooks.evaluate_after(number):
            scores = evaluation = evaluate(state.average.network, held_out, schedule, input_size)
        epoch = Epoch(number, number * schedule.steps_per_epoch * schedule.batch, loss, seconds, scores)
        state.history.append(epoch.to_dict())
        saved.save(state)
        # One decision for all processes: if they disagreed, some would wait for the others forever.
        stopped = context.from_rank_0(_collapse(epoch) or hooks.after_epoch(epoch))
        if stopped:
            break
        if not (context.is_distributed or last) and hooks.should_stop():
            raise InterruptedTrainingError

    if evaluation is None and not stopped:  # resumed after the last epoch
        evaluation = evaluate(state.average.network, held_out, schedule, input_size)
    return TrainingResult(
        state.average.network, evaluation, stopped, state.history, resumed_at, resumed_step, step.micro_batch
    )


def run_epoch(
    number: int, state: TrainingState, step: TrainingStep, batches: Tensor, hooks: TrainingHooks
) -> tuple[float, float]:
    """Run the steps of one epoch, or the rest of them if it was interrupted.

    Args:
        number: of the epoch, from 1.
        state: to train.
        step: of this state, its generator seeded for this epoch.
        batches: (steps, B) indices of the people in every batch of the epoch.
        hooks: ``after_step`` and ``should_stop`` are called after every step.

    Returns:
        the mean loss, over all processes, and the seconds of training so far.

    Raises:
        InterruptedTrainingError: ``hooks.should_stop`` returned true; ``state.partial_epoch`` is set.
    """
    done, seconds_before = 0, 0.0
    step.loss_sum.zero_()
    if state.partial_epoch is not None:
        done, seconds_before = state.partial_epoch.steps, state.partial_epoch.seconds
        step.loss_sum.copy_(state.partial_epoch.loss_sum)
        step.generator.set_state(state.partial_epoch.generator.cpu())
        state.partial_epoch = None
    first, total = (number - 1) * len(batches), len(batches)
    remaining: Sequence[Tensor] = batches[done:].unbind()
    started = time.perf_counter()
    for batch, next_batch in zip_longest(remaining, remaining[1:]):
        step(batch, first + done, next_batch)
        done += 1
        hooks.after_step(first + done)
        if not step.context.is_distributed and done < total and hooks.should_stop():
            seconds = seconds_before + time.perf_counter() - started
            state.partial_epoch = PartialEpoch(done, step.loss_sum, step.generator.get_state(), seconds)
            raise InterruptedTrainingError
    # The only synchronization with the device in an epoch. One loss that is not finite makes the sum not finite.
    mean_loss = float(step.context.mean(step.loss_sum)) / total
    return mean_loss, state.seconds + seconds_before + time.perf_counter() - started


def epoch_batches(people: PackedPeople, schedule: ScheduleConfig, seed: int, epoch: int) -> Tensor:
    """The people of every batch of an epoch (from 1): (steps, batch) indices, where the crops are."""
    steps, batch = schedule.steps_per_epoch, schedule.batch
    indices = islice(sample_order(len(people), seed, (epoch - 1) * steps * batch), steps * batch)
    return torch.tensor(list(indices), device=people.crops.device).view(steps, batch)


def sample_order(count: int, seed: int, start: int) -> Iterator[int]:
    """Endless order of indices below ``count``, from position ``start`` on.

    Each pass contains every index once, shuffled by seed and pass.
    """
    while True:
        generator = torch.Generator().manual_seed(_generator_seed(seed * 1_000_003 + start // count))
        permutation = torch.randperm(count, generator=generator).tolist()
        yield from permutation[start % count :]
        start += count - start % count


def _generator_seed(number: int) -> int:
    """A number as PyTorch takes seeds, which have 63 bits here; smaller ones are kept."""
    return number % 2**63


def _collapse(epoch: Epoch) -> str | None:
    evaluation = epoch.evaluation
    # A single person has no others to differ from.
    if evaluation is not None and evaluation.accuracy.people > 1 and not evaluation.spread >= COLLAPSED:
        return f"collapsed: the same pose for everybody after {epoch.images} images"
    return None
