"""The training loop. It reads from top to bottom; everything that it needs is an argument.

Resident uint8 crops → one warp a batch on the device → network → loss → weights: :mod:`nas.training.step`. Nothing in
the loop waits for the device: the loss is summed there and looked at once an epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas.architecture.hourglass import HourglassNetwork
from nas.data.augmentation import fit_to_input
from nas.data.packed.format import PackedPeople
from nas.errors import UserError
from nas.training.checkpoint import AnyPath, description, load_checkpoint, save_checkpoint
from nas.training.evaluation import Evaluation, evaluate
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig
from nas.training.step import TrainingStep, WeightEMA, optimizer_for, restore_optimizer

COLLAPSED = 1e-3
"""Predictions that differ less than this between people, in box sides, have nothing to do with the pictures."""


@dataclass(frozen=True)
class Epoch:
    """What is known after one epoch.

    Attributes:
        number: epochs done, from 1.
        images: pictures shown so far.
        loss: mean over the epoch.
        seconds: spent training so far, over all interruptions; evaluation is not in it.
        evaluation: of the averaged weights, where one was asked for.
    """

    number: int
    images: int
    loss: float
    seconds: float
    evaluation: Evaluation | None


@dataclass
class TrainingResult:
    """What a training run gives back.

    Attributes:
        network: the averaged weights, in evaluation mode.
        evaluation: the last one made.
        stopped: why it ended before its schedule did, or None.
        history: one record an epoch, plain values.
        resumed_at: the epoch that it was taken up after; 0 for a fresh start.
        resumed_step: the step that it was taken up after.
        at_once: pictures of a step that are shown at once; fewer than the batch where memory was too small for it.
        without_graph: why a CUDA device had to do without a graph of the step, or None.
    """

    network: nn.Module
    evaluation: Evaluation | None
    stopped: str | None
    history: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: int = 0
    resumed_step: int = 0
    at_once: int = 0
    without_graph: str | None = None


class InterruptedTrainingError(Exception):
    """Training was asked to stop; what it had done is in its checkpoint."""


def order(people: int, seed: int, start: int) -> Iterator[int]:
    """An endless order of people from any point on: every pass shows each one once, shuffled by seed and pass."""
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start // people)
        permutation = torch.randperm(people, generator=generator).tolist()
        yield from permutation[start % people :]
        start += people - start % people


def train(
    network: HourglassNetwork,
    losses: Losses,
    schedule: ScheduleConfig,
    people: PackedPeople,
    held_out: PackedPeople,
    *,
    seed: int,
    checkpoint: AnyPath | None = None,
    evaluate_after: Callable[[int], bool] = lambda epoch: True,
    after_epoch: Callable[[Epoch], str | None] = lambda epoch: None,
    after_step: Callable[[int], None] = lambda step: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
    without_checkpoint: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train one network under one schedule.

    With several processes (``torch.distributed`` initialised), each one trains on its share of every batch; the
    result is the same network in all of them. The first one writes the checkpoint, which all of them read, and
    decides whether to stop.

    Where the device's memory is too small for a batch, half of it is shown at once and the gradients are added up, and
    so on down to :data:`nas.training.step.FEWEST`. The step is the same but for batch norm, which sees fewer pictures,
    and for joints that are not labelled: the loss is the mean of the parts' means.

    Args:
        network: freshly built, on the CPU; moved to the people's device.
        losses: the terms' weights, canonical for this network.
        schedule: the recipe.
        people: to train on; on the device to train on, but for crops that it has no memory for
            (:mod:`nas.training.host_prefetch`).
        held_out: to evaluate on; on the same device.
        seed: of order and augmentation.
        checkpoint: where to keep the state after each epoch, and to take it up from where it is there already; one
            of another network, schedule, seed or other people is removed.
        evaluate_after: which epochs (from 1) are followed by an evaluation; the last one always is.
        after_epoch: called after each epoch; a text stops the training for that reason.
        after_step: called with the number of steps done.
        asked_to_stop: asked after each step; once it says yes, the state is saved as it is, within the epoch, and
            training ends. Not with several processes, which would have to agree.
        without_checkpoint: told why a checkpoint cannot be read or written; training then begins anew, or goes on.
            Without it, that is an error.

    Raises:
        UserError: the checkpoint at ``checkpoint`` cannot be read or written, or a batch cannot be shared equally.
        InterruptedTrainingError: it was asked to stop.
        torch.OutOfMemoryError: even the smallest part of a batch is too large for the device.
    """
    device = people.joints.device
    input_size = network.input_size[0]
    people, held_out = fit_to_input(people, input_size), fit_to_input(held_out, input_size)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if schedule.batch % world:
        raise UserError(f"batch {schedule.batch} cannot be shared by {world} processes; choose a multiple of {world}")
    share = schedule.batch // world

    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = WeightEMA(network, schedule.ema * schedule.steps)
    optimizer = optimizer_for(network, schedule)
    about = description(network.architecture, losses, schedule, people.skeleton, input_size)
    about |= {"seed": seed, "people": [people.checksum, len(people)]}
    result = TrainingResult(network, None, None, at_once=share)
    within: dict[str, Any] | None = None
    foreign = False
    if checkpoint is not None and checkpoint.exists():
        try:
            state = load_checkpoint(checkpoint, device)
            foreign = any(state.get(key) != value for key, value in about.items())
        except UserError as error:
            if without_checkpoint is None:
                raise
            foreign = True
            without_checkpoint(str(error))
        if not foreign:
            network.load_state_dict(state["network"])
            average.network.load_state_dict(state["average"])
            restore_optimizer(optimizer, state["optimizer"])
            result.history, result.resumed_at = state["history"], len(state["history"])
            within = state.get("within")
    if world > 1:
        dist.barrier()  # all have read the checkpoint before it is removed or replaced
    if checkpoint is not None and foreign and rank == 0:
        checkpoint.unlink(missing_ok=True)
    learner: nn.Module = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    one_step = TrainingStep(
        learner, network, average, optimizer, losses, schedule, people, input_size, share, alone=world == 1
    )
    seconds = result.history[-1]["seconds"] if result.history else 0.0
    result.resumed_step = result.resumed_at * schedule.steps_per_epoch + (within["step"] if within else 0)

    def save(**more: Any) -> None:
        if checkpoint is None or rank:
            return
        state: dict[str, Any] = {"network": network.state_dict(), "average": average.network.state_dict()}
        state |= {"optimizer": optimizer.state_dict(), "history": result.history, **more}
        try:
            save_checkpoint(checkpoint, {**about, **state})
        except OSError as error:
            trouble = f"{checkpoint}: cannot be written: {error.strerror or error}"
            if without_checkpoint is None:
                remedy = "make room there and give the same command again, which goes on from the last one"
                raise UserError(f"{trouble}; {remedy}") from error
            without_checkpoint(trouble)

    for epoch in range(result.resumed_at + 1, schedule.epochs + 1):
        # Order and augmentation depend on seed and epoch alone, so a resumed run sees what it would have seen.
        one_step.generator.manual_seed((seed * 1_000_003 + epoch) * world + rank)
        first = (epoch - 1) * schedule.steps_per_epoch
        shown = islice(order(len(people), seed, first * schedule.batch), schedule.steps_per_epoch * schedule.batch)
        batches = torch.tensor(list(shown), device=people.crops.device).view(schedule.steps_per_epoch, schedule.batch)
        one_step.summed.zero_()
        done_before = 0
        if within:  # it was asked to stop in this epoch
            done_before = within["step"]
            seconds += within["seconds"]
            one_step.summed.copy_(within["summed"])
            one_step.generator.set_state(within["generator"].cpu())
            within = None
        started = time.perf_counter()

        mine = [*batches[done_before:, rank::world]]  # (share,) each
        for step, (chosen, upcoming) in enumerate(zip_longest(mine, mine[1:]), first + done_before):
            one_step(chosen, step, upcoming)
            result.at_once, result.without_graph = one_step.at_once, one_step.fallback
            after_step(step + 1)
            if world == 1 and step + 1 < first + schedule.steps_per_epoch and asked_to_stop():
                spent = seconds - (result.history[-1]["seconds"] if result.history else 0.0)
                place = {
                    "step": step + 1 - first,
                    "summed": one_step.summed,
                    "generator": one_step.generator.get_state(),
                }
                save(within={**place, "seconds": spent + time.perf_counter() - started})
                raise InterruptedTrainingError

        # The one look at the loss: a value that is not finite anywhere makes the sum not finite.
        mean_loss = float(_over_processes(one_step.summed, world)) / schedule.steps_per_epoch
        seconds += time.perf_counter() - started
        if not math.isfinite(mean_loss):
            result.stopped = f"diverged: the loss was not finite in epoch {epoch}"
            break
        _share_statistics(network, average.network, world)
        evaluation = None
        if epoch == schedule.epochs or evaluate_after(epoch):
            evaluation = result.evaluation = evaluate(average.network, held_out, schedule, input_size)
        done = Epoch(epoch, epoch * schedule.steps_per_epoch * schedule.batch, mean_loss, seconds, evaluation)
        result.history.append(_record(done))
        save()
        result.stopped = _decided(_collapse(done) or after_epoch(done), world)
        if result.stopped:
            break
        if world == 1 and epoch < schedule.epochs and asked_to_stop():
            raise InterruptedTrainingError

    result.network = average.network
    if result.evaluation is None and not result.stopped:
        # Taken up after its last epoch: only the evaluation's predictions are missing, and they are quick to make.
        result.evaluation = evaluate(average.network, held_out, schedule, input_size)
    return result


def _collapse(epoch: Epoch) -> str | None:
    evaluation = epoch.evaluation
    # One person alone never differs from the others.
    if evaluation is not None and evaluation.accuracy.people > 1 and not evaluation.spread >= COLLAPSED:
        return f"collapsed: the same pose for everybody after {epoch.images} images"
    return None


def _share_statistics(network: nn.Module, average: nn.Module, world: int) -> None:
    """Give all processes the mean of their batch norm statistics, of which each has seen its own batches only."""
    if world > 1:
        for buffer in (*network.buffers(), *average.buffers()):
            if buffer.is_floating_point():
                buffer.copy_(_over_processes(buffer.clone(), world))


def _decided(stopped: str | None, world: int) -> str | None:
    """The first process's decision, in all processes: if they disagreed, some would wait for the others for ever."""
    decision = [stopped]
    if world > 1:
        dist.broadcast_object_list(decision)
    return decision[0]


def _over_processes(value: Tensor, world: int) -> Tensor:
    if world > 1:
        dist.all_reduce(value)
        value = value / world
    return value


def _record(epoch: Epoch) -> dict[str, Any]:
    record: dict[str, Any] = {
        "epoch": epoch.number,
        "images": epoch.images,
        "loss": epoch.loss,
        "seconds": epoch.seconds,
    }
    if epoch.evaluation is not None:
        accuracy = epoch.evaluation.accuracy
        record |= {
            "pckh": accuracy.mean,
            "pckh_by_count": accuracy.by_count,
            "groups": accuracy.groups,
            "stages": list(epoch.evaluation.stages),
        }
    return record
