"""Fixtures for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from postgres import Server

# Small networks on many threads crawl, and the tests run on all cores already. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data (see its README.md); skips where it is absent."""
    folder = Path(os.environ.get("HOURGLASS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "lspet" / "joints.mat").is_file():
        pytest.skip(f"no real data at {folder}; set HOURGLASS_SHARED_DATA to the folder that holds lspet/ and mpii/")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server; a test that stops it starts it again."""
    one = Server()
    yield one
    one.close()


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python -m nas.<name> <arguments>`` as a person would, and returns what came of it."""

    def run(name: str, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"nas.{name}", *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, env=environment, check=False)

    return run
