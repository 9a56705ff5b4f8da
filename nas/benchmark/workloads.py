"""Ways of training one network that :mod:`nas.benchmark.measure` times against each other.

Each one is made ready once, and then does so many steps whenever it is asked to, so that rivals can take turns.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from nas.architecture.cost import network_cost
from nas.architecture.hourglass import STRIDE, HourglassNetwork, build_network
from nas.architecture.spec import Architecture
from nas.benchmark.dataloader_baseline import JpegPeople, one_thread
from nas.benchmark.roofline import wait_for
from nas.data.augmentation import centred, cut
from nas.data.packed.format import PackedPeople
from nas.training.allocator import trim_heap
from nas.training.cuda_graph import CudaGraph
from nas.training.devices import mixed_precision, training_dtype, use_threads
from nas.training.evaluation import evaluate
from nas.training.heatmaps import encode, inside
from nas.training.loop import TrainingHooks, train
from nas.training.losses import Losses, total_loss
from nas.training.memory_estimate import estimate_memory, process_memory
from nas.training.optimizer import optimizer_for
from nas.training.schedule import ScheduleConfig

_EPOCH = 250  # steps, as in a short trial
_PATIENCE = 20  # seconds that a process is given to end by itself
_ENDLESS = 1_000_000  # epochs: a rival trains until it is closed


@dataclass(frozen=True, eq=False)
class Task:
    """What all rivals train.

    Attributes:
        architecture: of the network.
        losses: its terms, canonical for it.
        schedule: the recipe: optimiser, loss, sigma, batch and so on; its length does not matter.
        packed: file of the people, its split "train".
        pictures: folder of the same kind of people as JPEG files, for the plain loop.
        input_size: H = W.
        device: "cpu" or "cuda".
    """

    architecture: Architecture
    losses: Losses
    schedule: ScheduleConfig
    packed: Path
    pictures: Path | None
    input_size: int
    device: str

    @cached_property
    def people(self) -> PackedPeople:
        """The people, on the device; loaded once in a process."""
        return PackedPeople.load(self.packed, "train", self.device)

    def network(self) -> HourglassNetwork:
        """A new one, on the CPU."""
        size = (self.input_size, self.input_size)
        return build_network(self.architecture, len(self.people.skeleton.joints), size, seed=0)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__
        }  # people are loaded where they are used

    @cached_property
    def memory(self) -> int:
        """Bytes of the device's memory that a process takes which trains, the people apart; predicted."""
        device, joints = torch.device(self.device), len(self.people.skeleton.joints)
        dtype = training_dtype(device)
        taken = estimate_memory(self.network(), self.losses, self.schedule, self.input_size, joints, dtype)
        return process_memory(taken.peak(self.schedule.batch), device)

    def endless(self) -> ScheduleConfig:
        """The recipe, to be gone on with for as long as one likes."""
        return replace(self.schedule, images=_EPOCH * _ENDLESS * self.schedule.batch, epochs=_ENDLESS)


class Workload(Protocol):
    """Something that trains."""

    def seconds(self, steps: int) -> float:
        """Do so many steps; how long they took."""

    def close(self) -> None:
        """Give everything back."""


def _timed(once: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of doing something so many times."""
    wait_for(device)
    began = time.perf_counter()
    for _ in range(times):
        once()
    wait_for(device)
    return time.perf_counter() - began


class FixedBatchStep:
    """Forward, loss, backward and optimiser on one fixed batch, nothing else.

    Args:
        task: what to train.
        plain: float32, channels first and launched kernel by kernel; else as the training loop has it.
    """

    def __init__(self, task: Task, *, plain: bool) -> None:
        self.device = torch.device(task.device)
        schedule, people = task.schedule, task.people
        chosen = torch.arange(schedule.batch, device=self.device) % len(people)
        batch = cut(people, chosen, task.input_size, centred(people, schedule.batch, task.input_size))
        layout = torch.contiguous_format if plain else torch.channels_last
        images = batch.images.contiguous(memory_format=layout)
        cells, size = batch.joints / STRIDE, (task.input_size // STRIDE,) * 2
        target = encode(cells, size, schedule.sigma)
        labelled = batch.labelled & inside(cells, size)
        network: nn.Module = task.network().to(self.device, memory_format=layout)  # type: ignore[call-overload]
        network.train()
        optimizer = _plain_optimizer(network, schedule) if plain else optimizer_for(network, schedule)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with nullcontext() if plain else mixed_precision(self.device):
                output = network(images)
            total_loss(output, target, labelled, task.losses, schedule.loss).backward()
            optimizer.step()

        self._step = CudaGraph(step, self.device, allowed=not plain)

    def seconds(self, steps: int) -> float:
        """Do so many steps; how long they took."""
        return _timed(self._step, steps, self.device)

    def close(self) -> None:
        """Give everything back."""
        del self._step


def _plain_optimizer(network: nn.Module, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """As PyTorch makes it when nothing else is said."""
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), schedule.learning_rate)
    return torch.optim.RMSprop(network.parameters(), schedule.learning_rate)


class _EnoughError(Exception):
    """Raised inside the training loop to end it."""


class FullTraining:
    """:func:`nas.training.loop.train` itself, in a thread that stands still between turns."""

    def __init__(self, task: Task) -> None:
        self.device = torch.device(task.device)
        self._left = 0
        self._ended = False
        self._failure: BaseException | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._train, args=(task,), daemon=True)
        self._thread.start()

    def _train(self, task: Task) -> None:
        self._go.acquire()
        try:
            train(
                task.network(),
                task.losses,
                task.endless(),
                task.people,
                task.people,
                seed=0,
                hooks=TrainingHooks(evaluate_after=lambda epoch: False, after_step=self._after_step),
            )
        except _EnoughError:
            pass
        except BaseException as error:
            self._failure = error
        self._paused.release()

    def _after_step(self, step: int) -> None:
        self._left -= 1
        if not self._left:
            wait_for(self.device)
            self._paused.release()
            self._go.acquire()
        if self._ended:
            raise _EnoughError

    def seconds(self, steps: int) -> float:
        """Do so many steps; how long they took."""
        self._left = steps
        began = time.perf_counter()
        self._go.release()
        self._paused.acquire()
        took = time.perf_counter() - began
        if self._failure is not None:
            raise self._failure
        return took

    def close(self) -> None:
        """Give everything back."""
        self._ended, self._left = True, 0
        self._go.release()
        self._thread.join()


class DataLoaderLoop:
    """A training loop as pose codebases have it: float32, channels first, no graph, a DataLoader that decodes JPEGs.

    Args:
        task: what to train.
        workers: processes of the DataLoader.
    """

    def __init__(self, task: Task, workers: int) -> None:
        schedule = task.schedule
        self.device = torch.device(task.device)
        assert task.pictures is not None, "the plain loop reads pictures"
        people = JpegPeople(
            task.pictures, _EPOCH * _ENDLESS, task.input_size, STRIDE, schedule.sigma, schedule.augmentation
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
        optimizer = _plain_optimizer(network, schedule)

        def steps() -> Generator[None]:
            for batch in loader:
                images, target, labelled = (part.to(self.device, non_blocking=True) for part in batch)
                loss = total_loss(network(images), target, labelled, task.losses, schedule.loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield

        self._steps = steps()

    def seconds(self, steps: int) -> float:
        """Do so many steps; how long they took."""
        return _timed(lambda: next(self._steps), steps, self.device)

    def close(self) -> None:
        """Give everything back."""
        self._steps.close()


class EvaluationWorkload:
    """:func:`nas.training.evaluation.evaluate` of some of the task's people; one step is one evaluation.

    Args:
        task: what to evaluate.
        count: of people, at most those that there are.
    """

    def __init__(self, task: Task, count: int) -> None:
        self.device = torch.device(task.device)
        self._task, self._people = task, PackedPeople.load(task.packed, "train", task.device, count)
        self._network = task.network().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def seconds(self, steps: int) -> float:
        """Do so many evaluations; how long they took."""
        task = self._task
        return _timed(lambda: evaluate(self._network, self._people, task.schedule, task.input_size), steps, self.device)

    def close(self) -> None:
        """Give everything back."""
        del self._network


class TrialStartup:
    """From asking for a trial to its steady pace: costs, building, all that training needs, and its first steps.

    Each trial has a network of its own width, so that nothing is known of it from the one before.
    """

    def __init__(self, task: Task) -> None:
        self.device = torch.device(task.device)
        self._task, self._begun = task, 0
        len(task.people)

    def seconds(self, steps: int) -> float:
        """Begin a trial and do so many steps; how long that took, without the steps at their last pace.

        Args:
            steps: at least 2; or 0, for the time until the first batch reaches the network. Where a step takes many
                seconds, the difference of the two others would be noise.
        """
        task = self._task
        architecture = task.architecture.scaled(1 + self._begun / 8)
        self._begun += 1
        ends: list[float] = []

        def after_step(step: int) -> None:
            if step >= steps - 1:
                wait_for(self.device)
                ends.append(time.perf_counter())
            if step == steps:
                raise _EnoughError

        def reached(*_: object) -> None:
            wait_for(self.device)
            ends.append(time.perf_counter())
            raise _EnoughError

        size = (task.input_size, task.input_size)
        joints = len(task.people.skeleton.joints)
        began = time.perf_counter()
        network_cost(architecture, joints, size)
        network = build_network(architecture, joints, size, seed=0)
        if not steps:
            network.register_forward_pre_hook(reached)
        with suppress(_EnoughError):
            train(
                network,
                task.losses,
                task.endless(),
                task.people,
                task.people,
                seed=0,
                hooks=TrainingHooks(after_step=after_step),
            )
        if not steps:
            return ends[0] - began
        return max(0.0, ends[1] - began - steps * (ends[1] - ends[0]))

    def close(self) -> None:
        """Give everything back."""
        self._begun = 0


class SubprocessWorkload:
    """A rival in a process of its own, which stands still, with all its children, whenever it is not its turn.

    It is made in the background: :meth:`settle` before anything else.

    Args:
        make: makes the rival there; must be picklable.
        threads: of PyTorch there.
        ours: whether the process computes as this project's do (:func:`nas.training.devices.use_threads`).
        trimmed: whether it gives back memory that it does not need between turns.
    """

    def __init__(self, make: Callable[[], Workload], threads: int, *, ours: bool = True, trimmed: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, threads, ours, trimmed))
        self._process.start()
        there.close()

    def settle(self) -> None:
        """Wait until the rival is made. Several can be made at the same time."""
        self.answer()

    def ask(self, steps: int) -> None:
        """Begin so many steps; :meth:`answer` tells how long they took."""
        os.killpg(self._pid, signal.SIGCONT)
        self._here.send(steps)

    def answer(self) -> float:
        """Wait for what :meth:`ask` began."""
        took = self._answer()
        self._stop()
        return took

    def seconds(self, steps: int) -> float:
        """Do so many steps; how long they took."""
        self.ask(steps)
        return self.answer()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _stop(self) -> None:
        os.killpg(self._pid, signal.SIGSTOP)

    def _answer(self) -> float:
        try:
            said = self._here.recv()
        except EOFError as error:
            self._process.join()
            raise MemoryError(f"a process of the measurement ended with {self._process.exitcode}") from error
        if isinstance(said, str):
            self._process.join()
            raise (MemoryError if "out of memory" in said or "alloc" in said else RuntimeError)(said)
        return float(said)

    def close(self) -> None:
        """Give everything back."""
        with suppress(ProcessLookupError, OSError):  # it had not come as far as a group of its own, or has ended
            os.killpg(self._pid, signal.SIGCONT)
            self._here.send(None)
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            os.killpg(self._pid, signal.SIGKILL)
            self._process.join()
        self._here.close()


class ConcurrentWorkloads:
    """Several rivals of one kind, in a process each, at the same time; to be settled like :class:`Apart`.

    Args:
        make: makes one of them.
        count: how many.
        threads: of PyTorch in each.
        trimmed: whether they give back memory that they do not need between turns.
    """

    def __init__(self, make: Callable[[], Workload], count: int, threads: int = 1, *, trimmed: bool = False) -> None:
        self._all = [SubprocessWorkload(make, threads, trimmed=trimmed) for _ in range(count)]

    def settle(self) -> None:
        """Wait until all are made."""
        for each in self._all:
            each.settle()

    def seconds(self, steps: int) -> float:
        """Do so many steps with all of them together, shared out; how long that took by their rates."""
        share = max(1, steps // len(self._all))
        for each in self._all:
            each.ask(share)
        return steps / sum(share / each.answer() for each in self._all)

    def close(self) -> None:
        """Give everything back."""
        for each in self._all:
            each.close()


def _serve(there: Connection, make: Callable[[], Workload], threads: int, ours: bool, trimmed: bool) -> None:
    """What runs in the process of :class:`Apart`."""
    os.setpgrp()  # it is stopped and ended together with its DataLoader's workers
    (use_threads if ours else torch.set_num_threads)(threads)
    try:
        rival = make()
        there.send(0.0)
        while (steps := there.recv()) is not None:
            took = rival.seconds(steps)
            if trimmed:
                trim_heap()
            there.send(took)
        rival.close()
    except BaseException:
        there.send(traceback.format_exc())
