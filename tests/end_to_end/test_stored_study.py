"""A study that version 0.7.0 has stored: later versions read the same from it, and continue it as 0.7.0 would have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from record_expected import CHECKPOINT, as_stored, command, continued, machine, unpack

pytestmark = pytest.mark.slow

STORED = Path(__file__).resolve().parents[1] / "stored_studies"
EXPECTED: dict[str, Any] = json.loads((STORED / "expected.json").read_text())
# Differ between runs of one version.
VOLATILE = {"owner", "claimed_at", "curve", "started_again"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the study, unpacked."""
    unpack(STORED / "0.7.0.tar.xz", tmp_path)
    return tmp_path


def test_everything_stored_reads_the_same(folder: Path) -> None:
    found = as_stored(folder)
    expected = EXPECTED["as_stored"]
    # Forward passes round differently on other processors; everything else was stored as it is.
    assert found.pop("prediction") == pytest.approx(expected.pop("prediction"), rel=1e-3, abs=1e-5)
    if machine() != EXPECTED["machine"]:
        del found["evaluation"], expected["evaluation"]
    for key, value in expected.items():
        assert found[key] == value, key


def test_the_search_continues_as_in_the_version_that_began_it(folder: Path) -> None:
    found, expected = continued(folder), EXPECTED["continued"]
    assert len(found["trials"]) == len(expected["trials"])
    old = len(EXPECTED["as_stored"]["trials"]["stored"])
    same_machine = machine() == EXPECTED["machine"]
    for trial, wanted in zip(found["trials"], expected["trials"], strict=True):
        if trial["number"] < old - 1:
            assert trial == wanted
        elif same_machine:
            assert _lasting(trial) == _lasting(wanted)
    requeued, resumed = found["trials"][old - 1], found["trials"][old]
    assert requeued["state"] == "FAIL"
    assert resumed["params"] == requeued["params"]
    assert resumed["attrs"]["resumed_after_step"] == expected["trials"][old]["attrs"]["resumed_after_step"] > 0
    if same_machine:
        assert found["report"] == expected["report"]


def _lasting(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial without what differs between two runs of one version."""
    return {**trial, "attrs": {name: value for name, value in trial["attrs"].items() if name not in VOLATILE}}


def test_it_is_reported_exported_and_predicted_with(folder: Path) -> None:
    command(folder, "report", "--study", "stored", "--html", "page.html", "--csv", "trials.csv")
    page = (folder / "page.html").read_text()
    assert "stored" in page
    assert "0.0792" in page  # its hypervolume
    assert len((folder / "trials.csv").read_text().splitlines()) == 1 + 6
    command(folder, "export", "--study", "stored", "--pick", "knee", "--onnx", "pose.onnx")
    assert (folder / "pose.onnx").stat().st_size > 5_000
    command(folder, "prepare", "check", "people.h5", "--sheet", "sheet.jpg")
    command(folder, "predict", CHECKPOINT, "sheet.jpg", "--out", "poses")
    assert list((folder / "poses").glob("*.json"))
    assert "0 workers" in command(folder, "workers", "--study", "stored", "--reap")
