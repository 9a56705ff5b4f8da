"""The search on real images: the commands of a user of LSPET or MPII, with a schedule of seconds."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.io

from nas.data.packed.options import PackOptions
from nas.data.packed.packing import pack
from nas.data.packed.summary import describe_packed
from nas.data.readers.mpii_hdf5 import read_mpii_hourglass_h5
from nas.data.skeletons import MPII

Command = Callable[..., subprocess.CompletedProcess[str]]

CUT = (
    "--trials",
    3,
    "--images",
    128,
    "--epochs",
    4,
    "--max-params",
    "1M",
    "--max-layers",
    450,
    "--workers",
    1,
    "--json",
)
REPOSITORY = Path(__file__).resolve().parents[2]


def cut(study: str, tmp_path: Path) -> Path:
    """A study of the project's with one light baseline instead of its own."""
    text = (REPOSITORY / "studies" / f"{study}.toml").read_text()
    cut, changed = re.subn(r"baselines = \[[^]]*\]", 'baselines = ["separable"]', text)
    assert changed == 1
    path = tmp_path / f"{study}.toml"
    path.write_text(cut)
    return path


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    front = json.loads(done.stdout)
    assert front, "three finished trials leave at least one on the front"
    assert {member["published"] for member in front} <= {None, "separable"}
    for member in front:
        assert 0 <= member["pckh"] <= 100
        assert 0 < member["params"] <= 1_000_000
        assert member["input_size"] == 128


@pytest.mark.slow
def test_search_on_leeds_sports_pose(shared_data: Path, command: Command, tmp_path: Path) -> None:
    joints = scipy.io.loadmat(shared_data / "lspet" / "joints.mat")["joints"][:, :, :200]
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    people = tmp_path / "people.h5"
    packed = command(
        "prepare", "lsp", "--images", shared_data / "lspet" / "images", "--annotations", tmp_path / "joints.mat",
        "--box", 128, "--out", people,
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    assert describe_packed(people).people > 190
    flags = ("--study", cut("lspet", tmp_path), "--data", people, "--runs", tmp_path / "runs")
    check(command("search", *flags, *CUT, timeout=300))


@pytest.mark.slow
def test_search_on_mpii(shared_data: Path, command: Command, tmp_path: Path) -> None:
    """Five images are available; their hashes put all of them into one split, so the splits are assigned here."""
    images = shared_data / "mpii" / "images"
    people, _ = read_mpii_hourglass_h5(shared_data / "mpii" / "annot" / "valid.h5", {"valid": 1.0})
    missing = {person.image for person in people if not (images / person.image).is_file()}
    here = [person for person in people if person.image not in missing]
    splits = ("train", "train", "train", "holdout", "valid")
    dealt = [replace(person, split=split) for person, split in zip(here, splits, strict=True)]
    file = tmp_path / "mpii.h5"
    pack(dealt, images, file, MPII, {"dataset": "mpii"}, PackOptions(256, 1))
    study = cut("mpii", tmp_path)
    small = study.read_text().replace("input_size = 256", "input_size = 128")
    study.write_text(small.replace("seed = 0", "seed = 0\nwidth_scale = 0.5"))
    flags = ("--study", study, "--data", file, "--runs", tmp_path / "runs")
    check(command("search", *flags, *CUT, timeout=300))
