"""The packed file of a study."""

from __future__ import annotations

from pathlib import Path

from nas.study.config import StudyConfig
from nas.study.people_file import people_file


def test_synthetic_people_of_earlier_versions_are_found_again() -> None:
    # The name that 0.7.0 gives the quickstart's people.
    file = people_file(StudyConfig.read("quickstart"), Path("runs/quickstart"))
    assert file == Path("runs/data/synthetic-64-5ed42856.h5")


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    config = StudyConfig.read("quickstart")
    config = config.model_copy(update={"data": config.data.model_copy(update={"file": str(tmp_path / "people.h5")})})
    assert people_file(config, Path("runs/quickstart")) == tmp_path / "people.h5"
