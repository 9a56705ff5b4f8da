"""A tiny space, a tiny study, and the problem that they pose to a sampler."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from postgres import Server

from nas.architecture.cost import Cost, network_cost
from nas.study.config import StudyConfig
from nas.study.optimization.problem import Problem
from nas.study.pareto import HypervolumeScale
from nas.study.space.candidate import Candidate
from nas.study.space.search_space import SearchSpace
from nas.study.space.space_file import read_space
from nas.study.storage.backend import default_url

SPACE = """
[choices]
block = ["bottleneck", "separable", "multidilated"]
trunk = ["same", "bottleneck"]
stem = [4, 8]
width = [4, 8]
stacks = [1, 2]
depth = [2]
junction = ["add", "resconcat"]
narrow_res = [false, true]
weight_ratio = [0.43, 1.0]
alpha = [0.7, 1.0]
lambda = [1.0, 2.0]

[options]
dilation = [1, 2]
rates = [[1, 2], [1, 2, 3]]
"""

STUDY = """
name = "tiny"
space = "SPACE"
objectives = ["pckh", "params", "madds"]
width_scale = 1
seed = 0

[data]
input_size = 32
synthetic = { people = 48, holdout = 16, valid = 16, seed = 0 }

[schedule]
images = 64
epochs = 4
batch = 8

[full]
images = 128
epochs = 8

[reference]
params = [1_000, 100_000]
madds = [100_000, 10_000_000]
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def write_space(tmp_path: Path) -> Callable[..., Path]:
    """Writes a space file: the tiny space with some of its text replaced, or a text of one's own."""

    def write(*replacements: tuple[str, str], text: str = SPACE, name: str = "space.toml") -> Path:
        path = tmp_path / name
        path.write_text(_replaced(text, replacements), encoding="utf-8")
        return path

    return write


@pytest.fixture
def space_file(write_space: Callable[..., Path]) -> Path:
    """The tiny space."""
    return write_space()


@pytest.fixture
def write_study(tmp_path: Path, space_file: Path) -> Callable[..., Path]:
    """Writes a study file over the tiny space: the tiny study with some of its text replaced, and more at its end."""

    def write(*replacements: tuple[str, str], more: str = "", name: str = "study.toml") -> Path:
        path = tmp_path / name
        text = _replaced(STUDY, (('"SPACE"', f'"{space_file}"'), *replacements))
        path.write_text(text + more, encoding="utf-8")
        return path

    return write


@pytest.fixture
def study_file(write_study: Callable[..., Path]) -> Path:
    """The tiny study."""
    return write_study()


@pytest.fixture
def config(study_file: Path) -> StudyConfig:
    """The tiny study, read."""
    return StudyConfig.read(study_file)


@pytest.fixture
def space(space_file: Path) -> SearchSpace:
    """The tiny space, read."""
    return read_space(space_file)


@pytest.fixture
def make_problem(config: StudyConfig) -> Callable[..., Problem]:
    """Makes the problem that a space poses under the tiny study, or another."""

    def make(
        space: SearchSpace,
        study: StudyConfig = config,
        max_params: int | None = None,
        max_madds: int | None = None,
    ) -> Problem:
        @cache
        def candidate(items: tuple[tuple[str, object], ...]) -> Candidate:
            return space.candidate(dict(items), study.width_scale)

        @cache
        def cost(of: Candidate) -> Cost:
            return network_cost(of.architecture, 16, (study.data.input_size,) * 2)

        return Problem(
            space=space,
            candidate=lambda point: candidate(tuple((name, point[name]) for name in space.choices)),
            cost=cost,
            within=lambda c: (
                (max_params is None or c.params <= max_params) and (max_madds is None or c.madds <= max_madds)
            ),
            scale=HypervolumeScale(study.reference.params, study.reference.madds),
        )

    return make


@pytest.fixture
def problem(space: SearchSpace, make_problem: Callable[..., Problem]) -> Problem:
    """The tiny space under the tiny study, without a budget."""
    return make_problem(space)


def _replaced(text: str, replacements: tuple[tuple[str, str], ...]) -> str:
    for old, new in replacements:
        assert text.count(old) == 1, f"{old!r} is not once in the text"
        text = text.replace(old, new)
    return text


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return default_url(tmp_path)
    server: Server = request.getfixturevalue("server")
    return server.new_database()
