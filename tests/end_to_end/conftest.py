"""Places to work in, and one finished search for all tests that need one."""

from __future__ import annotations

from pathlib import Path

import pytest
from workplace import Workplace


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A search of six trials by two workers, begun in an empty folder. To be looked at, and copied; not to be changed.

    What it printed is kept in ``stdout`` and ``stderr``.
    """
    place = Workplace(tmp_path_factory.mktemp("finished"))
    done = place.search("--trials", 6, "--workers", 2)
    (place.folder / "stdout").write_text(done.stdout)
    (place.folder / "stderr").write_text(done.stderr)
    return place


@pytest.fixture
def place(tmp_path: Path, finished: Workplace) -> Workplace:
    """A folder with the tiny study, not begun, and its people, drawn."""
    return Workplace(tmp_path / "place").copy_of(finished, "data")


@pytest.fixture
def going(place: Workplace, finished: Workplace) -> Workplace:
    """A folder with a copy of the finished search."""
    return place.copy_of(finished, "tiny")
