"""``nas.load``: a trained network in one line."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def damaged(change: Callable[[dict[str, Any]], None], path: Path) -> Path:
    """A checkpoint of TINY with a change to its content."""
    weights = build_network(TINY, 16, (32, 32), seed=1).state_dict()
    about = checkpoint_metadata(TINY, Losses(), ScheduleConfig(16, epochs=1), MPII, 32)
    content = {**about, "network": weights, "average": dict(weights)}
    change(content)
    save_checkpoint(path, content)
    return path


def declares(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(architecture={**content["architecture"], **changes})


def stores(name: str, value: torch.Tensor | None) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["average"].pop(name)
        if value is not None:
            content["average"][name] = value

    return change


FIRST = "stem.0.weight"  # (4, 3, 7, 7)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (declares(stacks=10_000_000), "10000000 stacks of depth 1 are declared"),
        (declares(depth=10**12), "depth 1000000000000 are declared"),
        (declares(width=1_000_000), r"declared with shape .*1000000.* and stored with"),
        (declares(stem=8), r"'stem\.0\.weight' is declared with shape \(8, 3, 7, 7\) and stored with \(4, 3, 7, 7\)"),
        (declares(stacks=3), "declared but not stored"),
        (declares(stacks=1), "not declared"),
        (stores(FIRST, None), "declared but not stored"),
        (stores(FIRST, torch.zeros(4, 3, 7, 7, dtype=torch.complex64)), r"declared as torch\.float32 and stored as"),
        (stores(FIRST, torch.zeros(1).expand(4, 3, 7, 7)), "more values than are stored"),
        (stores(FIRST, torch.full((4, 3, 7, 7), float("nan"))), "not finite"),
        (stores(FIRST, torch.full((4, 3, 7, 7), float("inf"))), "not finite"),
        (stores(FIRST, torch.zeros(4, 3, 7, 7).to_sparse()), "not a plain tensor"),
        (lambda content: content.update(average=[1, 2]), "not tensors by name"),
        (lambda content: content.update(input_size=[64.0, 64.0]), "two equal integers"),
        (lambda content: content.update(input_size=[10**6, 10**6]), "two equal integers"),
        (lambda content: content["schedule"].update(sigma=float("nan")), "sigma must be above 0, not nan"),
        (lambda content: content["schedule"].update(learning_rate=float("inf")), "learning_rate must be a finite"),
    ],
)
def test_weights_that_are_not_those_of_the_declared_network_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    path = damaged(change, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=reason) as caught:
        nas.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    plain = damaged(lambda content: None, tmp_path / "checkpoint.pt")
    nas.load(plain)
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for entry in archive.infolist():
            small.writestr(entry.filename, archive.read(entry))
    with pytest.raises(UserError, match="is compressed"):
        nas.load(tmp_path / "small.pt")


def test_importing_the_package_is_cheap() -> None:
    heavy = "import sys, nas; print(nas.__version__, *sorted({'torch', 'numpy', 'nas.training'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == nas.__version__
