"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import effort  # noqa: F401  (registers the profiles of Hypothesis)
import pytest
from postgres import Server

# Small networks on many threads crawl, and the tests run on all cores already. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_xdist_auto_num_workers() -> int:
    """Two processes per core: tests of commands wait for other processes for half of their time."""
    return 2 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that parallel processes end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: ("end_to_end" not in item.path.parts, -slow[item.path]))


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


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Like ``command``, but runs the command within this process, which saves starting Python and importing Torch."""
    from nas import console

    monkeypatch.setattr(console.console, "width", 100)

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        line = [name, *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            console.run(importlib.import_module(f"nas.{name}").app, line[1:], program=f"python -m nas.{name}")
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(line, ended.value.code, out.getvalue(), err.getvalue())

    return run
