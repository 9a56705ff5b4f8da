"""People to train on and to score, made in memory; networks small enough for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import LOSSES, SHORT, build

from nas.architecture.spec import Architecture
from nas.data.augmentation import fit_to_input
from nas.data.packed.format import MARGIN, PackedPeople
from nas.data.people import MPII
from nas.data.synthetic.scene import SceneConfig, render_person
from nas.training.loop import TrainingHooks, TrainingResult, train

BOX = 64


def draw_people(first: int, count: int, figures: SceneConfig) -> PackedPeople:
    drawn = [render_person(0, first + i, BOX, MARGIN, figures) for i in range(count)]
    labelled = np.stack([person.labelled for person in drawn])
    joints = np.where(labelled[..., None], np.stack([person.joints for person in drawn]), 0)
    return PackedPeople(
        skeleton=MPII,
        box=BOX,
        crops=torch.from_numpy(np.stack([person.crop for person in drawn])).permute(0, 3, 1, 2),
        joints=torch.from_numpy(joints).float(),
        labelled=torch.from_numpy(labelled),
        head_size=torch.tensor([person.head_size for person in drawn], dtype=torch.float32),
        to_original=torch.eye(2, 3).repeat(count, 1, 1),
        images=tuple(f"{first + i}" for i in range(count)),
        checksum="drawn for a test",
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def people() -> PackedPeople:
    """To train on: 200 people in mild poses."""
    return draw_people(0, 200, SceneConfig(clutter=0.1, occluders=0, others=0, pose=0.5, light=0.2))


@pytest.fixture(scope="session")
def held_out() -> PackedPeople:
    """60 other people of the same kind, to score on."""
    return draw_people(1000, 60, SceneConfig(clutter=0.1, occluders=0, others=0, pose=0.5, light=0.2))


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    """A network that trains in milliseconds a step."""
    return Architecture(stem=4, width=8, stacks=2, depth=1, narrow_res=True)


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
