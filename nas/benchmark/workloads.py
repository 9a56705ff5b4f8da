"""Workloads of the benchmark: ways of training one network, that :mod:`nas.benchmark.measure` times against each other.

A workload is set up once and then runs a number of steps whenever it is asked to, so that several can alternate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext, suppress
from typing import Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from nas.architecture.cost import network_cost
from nas.architecture.hourglass import STRIDE, build_network
from nas.benchmark.dataloader_baseline import JpegPeople, one_thread
from nas.benchmark.roofline import synchronize
from nas.benchmark.task import ENDLESS, STEPS_PER_EPOCH, Task
from nas.data.augmentation import centred_maps, cut_batch
from nas.data.packed.reader import PackedPeople
from nas.training.cuda_graph import CudaGraph
from nas.training.devices import mixed_precision
from nas.training.evaluation import evaluate
from nas.training.heatmaps import encode, inside
from nas.training.loop import TrainingHooks, train
from nas.training.losses import total_loss
from nas.training.optimizer import optimizer_for
from nas.training.schedule import ScheduleConfig


class Workload(Protocol):
    """Work that consists of steps."""

    def run(self, steps: int) -> float:
        """Run a number of steps; return the seconds that they took."""

    def close(self) -> None:
        """Release all resources."""


def _time_calls(function: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of calling a function a number of times."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize(device)
    return time.perf_counter() - started


class FixedBatchStep:
    """Forward, loss, backward and optimizer on one fixed batch, and nothing else.

    Args:
        task: what to train.
        plain: float32, channels first, without a CUDA graph; otherwise as in the training loop.
    """

    def __init__(self, task: Task, *, plain: bool) -> None:
        self.device = torch.device(task.device)
        schedule, people = task.schedule, task.people
        indices = torch.arange(schedule.batch, device=self.device) % len(people)
        batch = cut_batch(people, indices, task.input_size, centred_maps(people, schedule.batch, task.input_size))
        memory_format = torch.contiguous_format if plain else torch.channels_last
        images = batch.images.contiguous(memory_format=memory_format)
        cells, size = batch.joints / STRIDE, (task.input_size // STRIDE,) * 2
        target = encode(cells, size, schedule.sigma)
        labelled = batch.labelled & inside(cells, size)
        network: nn.Module = task.network().to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        network.train()
        optimizer = _default_optimizer(network, schedule) if plain else optimizer_for(network, schedule)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with nullcontext() if plain else mixed_precision(self.device):
                output = network(images)
            total_loss(output, target, labelled, task.losses, schedule.loss).backward()
            optimizer.step()

        self._step = CudaGraph(step, self.device, allowed=not plain)

    def run(self, steps: int) -> float:
        """Run a number of steps; return the seconds that they took."""
        return _time_calls(self._step, steps, self.device)

    def close(self) -> None:
        """Release all resources."""
        del self._step


def _default_optimizer(network: nn.Module, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """The optimizer with PyTorch's default options."""
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), schedule.learning_rate)
    return torch.optim.RMSprop(network.parameters(), schedule.learning_rate)


class _StopTrainingError(Exception):
    """Raised by a hook to leave the training loop."""


class TrainingLoop:
    """:func:`nas.training.loop.train` itself, in a thread that is paused between runs."""

    def __init__(self, task: Task) -> None:
        self.device = torch.device(task.device)
        self._steps_left = 0
        self._closed = False
        self._error: BaseException | None = None
        self._resume, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._train, args=(task,), daemon=True)
        self._thread.start()

    def _train(self, task: Task) -> None:
        self._resume.acquire()
        hooks = TrainingHooks(evaluate_after=lambda epoch: False, after_step=self._after_step)
        try:
            train(task.network(), task.losses, task.endless_schedule(), task.people, task.people, seed=0, hooks=hooks)
        except _StopTrainingError:
            pass
        except BaseException as error:
            self._error = error
        self._paused.release()

    def _after_step(self, step: int) -> None:
        self._steps_left -= 1
        if not self._steps_left:
            synchronize(self.device)
            self._paused.release()
            self._resume.acquire()
        if self._closed:
            raise _StopTrainingError

    def run(self, steps: int) -> float:
        """Run a number of steps; return the seconds that they took."""
        self._steps_left = steps
        started = time.perf_counter()
        self._resume.release()
        self._paused.acquire()
        seconds = time.perf_counter() - started
        if self._error is not None:
            raise self._error
        return seconds

    def close(self) -> None:
        """Release all resources."""
        self._closed, self._steps_left = True, 0
        self._resume.release()
        self._thread.join()


class DataLoaderLoop:
    """A conventional training loop: float32, channels first, no graph, a DataLoader that decodes JPEG files.

    Args:
        task: what to train.
        workers: processes of the DataLoader.
    """

    def __init__(self, task: Task, workers: int) -> None:
        schedule = task.schedule
        self.device = torch.device(task.device)
        assert task.images is not None, "the DataLoader baseline reads JPEG files"
        people = JpegPeople(
            task.images, STEPS_PER_EPOCH * ENDLESS, task.input_size, STRIDE, schedule.sigma, schedule.augmentation
        )
        loader = DataLoader(
            people,
            schedule.batch,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=True,
            worker_init_fn=one_thread,
        )
        network: nn.Module = task.network().to(self.device).train()
        optimizer = _default_optimizer(network, schedule)

        def steps() -> Generator[None]:
            for batch in loader:
                images, target, labelled = (part.to(self.device, non_blocking=True) for part in batch)
                loss = total_loss(network(images), target, labelled, task.losses, schedule.loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield

        self._steps = steps()

    def run(self, steps: int) -> float:
        """Run a number of steps; return the seconds that they took."""
        return _time_calls(lambda: next(self._steps), steps, self.device)

    def close(self) -> None:
        """Release all resources."""
        self._steps.close()


class EvaluationWorkload:
    """:func:`nas.training.evaluation.evaluate` of some of the task's people; one step is one evaluation.

    Args:
        task: what to evaluate.
        count: number of people, at most as many as there are.
    """

    def __init__(self, task: Task, count: int) -> None:
        self.device = torch.device(task.device)
        self._task, self._people = task, PackedPeople.load(task.packed, "train", task.device, count)
        self._network = task.network().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(self, steps: int) -> float:
        """Run a number of evaluations; return the seconds that they took."""
        task = self._task
        return _time_calls(
            lambda: evaluate(self._network, self._people, task.schedule, task.input_size), steps, self.device
        )

    def close(self) -> None:
        """Release all resources."""
        del self._network


class TrialStartup:
    """Start of a trial until it trains at its steady pace: costs, building, everything up to its first steps.

    Each trial has a network of another width, so that nothing is cached from the one before.
    """

    def __init__(self, task: Task) -> None:
        self.device = torch.device(task.device)
        self._task, self._started = task, 0
        len(task.people)

    def run(self, steps: int) -> float:
        """Start a trial and run a number of steps; return the seconds before training at its steady pace.

        That is the time of everything, less ``steps`` times the duration of the last step.

        Args:
            steps: at least 2; or 0 to return the time until the first batch reaches the network. Where a step takes
                many seconds, the difference above would be noise.
        """
        task = self._task
        architecture = task.architecture.scaled(1 + self._started / 8)
        self._started += 1
        times: list[float] = []

        def after_step(step: int) -> None:
            if step >= steps - 1:
                synchronize(self.device)
                times.append(time.perf_counter())
            if step == steps:
                raise _StopTrainingError

        def before_forward(*_: object) -> None:
            synchronize(self.device)
            times.append(time.perf_counter())
            raise _StopTrainingError

        size = (task.input_size, task.input_size)
        joints = len(task.people.skeleton.joints)
        started = time.perf_counter()
        network_cost(architecture, joints, size)
        network = build_network(architecture, joints, size, seed=0)
        if not steps:
            network.register_forward_pre_hook(before_forward)
        hooks = TrainingHooks(after_step=after_step)
        with suppress(_StopTrainingError):
            train(network, task.losses, task.endless_schedule(), task.people, task.people, seed=0, hooks=hooks)
        if not steps:
            return times[0] - started
        return max(0.0, times[1] - started - steps * (times[1] - times[0]))

    def close(self) -> None:
        """Release all resources."""
        self._started = 0
