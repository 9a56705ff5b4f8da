"""The people and the network of the training tests."""

from __future__ import annotations

import pytest
from training_runs import TINY, render_people

from nas.architecture.spec import Architecture
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    return TINY


@pytest.fixture(scope="session")
def small_people() -> PackedPeople:
    return fit_to_input(render_people(0, 40), 32)
