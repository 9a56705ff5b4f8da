"""``nas.load``: a trained network in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nas
from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture
from nas.data.skeletons import MPII
from nas.errors import UserError
from nas.training.checkpoint import checkpoint_metadata, save_checkpoint
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

TINY = Architecture(stem=4, width=8, stacks=2, depth=1)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_network_with_its_averaged_weights(tmp_path: Path, kind: type) -> None:
    learnt, average = (build_network(TINY, 16, (32, 32), seed=seed) for seed in (1, 2))
    about = checkpoint_metadata(TINY, Losses(), ScheduleConfig(16, epochs=1), MPII, 32)
    states = {"network": learnt.state_dict(), "average": average.state_dict()}
    save_checkpoint(tmp_path / "checkpoint.pt", {**about, **states})
    network = nas.load(kind(tmp_path / "checkpoint.pt"), device="cpu")
    assert not network.training
    assert network.input_size == (32, 32)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        maps, expected = network(images).heatmaps, average.eval()(images).heatmaps
    assert [tuple(m.shape) for m in maps] == [(3, 16, 8, 8)] * 2
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def test_other_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        nas.load(tmp_path / "none.pt")


def test_importing_the_package_is_cheap() -> None:
    heavy = "import sys, nas; print(nas.__version__, *sorted({'torch', 'numpy', 'nas.training'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == nas.__version__
