"""People to train on and to evaluate on, rendered in memory; a training run small enough for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from training_runs import LOSSES, SHORT, TINY, build, render_people

from nas.architecture.spec import Architecture
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.training.loop import TrainingHooks, TrainingResult, train


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def people() -> PackedPeople:
    """To train on: 200 people in mild poses."""
    return render_people(0, 200)


@pytest.fixture(scope="session")
def held_out() -> PackedPeople:
    """60 other people of the same kind, to score on."""
    return render_people(1000, 60)


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    """A network that trains in milliseconds a step."""
    return TINY


@pytest.fixture(scope="session")
def small_people(people: PackedPeople) -> PackedPeople:
    return fit_to_input(people, 32)


@pytest.fixture(scope="session")
def small_held_out(held_out: PackedPeople) -> PackedPeople:
    return fit_to_input(held_out, 32)


@pytest.fixture
def run(small_people: PackedPeople, small_held_out: PackedPeople, tiny: Architecture) -> Callable[..., TrainingResult]:
    """Trains the tiny network for three epochs of four steps; keywords change what is trained and how."""

    def run(**changes: Any) -> TrainingResult:
        given = {
            "network": build(tiny),
            "losses": LOSSES,
            "schedule": SHORT,
            "people": small_people,
            "held_out": small_held_out,
            "seed": 0,
            "evaluate_after": lambda epoch: False,
            **changes,
        }
        given["hooks"] = TrainingHooks(**{f.name: given.pop(f.name) for f in fields(TrainingHooks) if f.name in given})
        positional = [given.pop(name) for name in ("network", "losses", "schedule", "people", "held_out")]
        return train(*positional, **given)

    return run
