from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture
from nas.data.skeletons import MPII, Skeleton
from nas.errors import UserError
from nas.training.checkpoint import (
    checkpoint_metadata,
    load_checkpoint,
    load_network,
    save_checkpoint,
    write_atomically,
)
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig


@pytest.fixture
def content(tiny: Architecture) -> dict[str, Any]:
    network, average = (build_network(tiny, 16, (64, 64), seed=seed) for seed in (1, 2))
    return {
        **checkpoint_metadata(tiny, Losses((0.3, 0.7), 0.7, 2.0, "kl"), ScheduleConfig(160), MPII, 64),
        "network": network.state_dict(),
        "average": average.state_dict(),
        "history": [{"epoch": 1, "loss": 0.5, "groups": {"head": float("nan")}, "stages": [1.0, 2.0]}],
    }


def crash(*_: object) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_atomically(path, b"new"),
        lambda path: save_checkpoint(path, {"new": torch.zeros(1000)}),
    ],
)
@pytest.mark.parametrize("failing_call", ["os.fsync", "os.replace"])
def test_a_failure_while_writing_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], failing_call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(failing_call, crash)
        with pytest.raises(OSError, match="no space left"):
            write(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    write(path)
    assert path.read_bytes() != b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_that_cannot_be_saved_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint(tmp_path / "file", {"function": lambda: None})
    assert os.listdir(tmp_path) == []


def test_saved_content_is_loaded(tmp_path: Path, content: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "a.pt", content)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert Architecture.from_dict(loaded["architecture"]) == Architecture.from_dict(content["architecture"])
    assert Losses.from_dict(loaded["losses"]) == Losses((0.3, 0.7), 0.7, 2.0, "kl")
    assert ScheduleConfig.from_dict(loaded["schedule"]) == ScheduleConfig(160)
    assert Skeleton.from_json(loaded["skeleton"]) == MPII
    assert loaded["history"][0]["stages"] == [1.0, 2.0]
    assert all(torch.equal(loaded["network"][name], value) for name, value in content["network"].items())


def test_checkpoints_load_with_weights_only(tmp_path: Path, content: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "a.pt", content)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["input_size"] == [64, 64]


def test_load_network_returns_the_averaged_weights(tmp_path: Path, content: dict[str, Any], tiny: Architecture) -> None:
    save_checkpoint(tmp_path / "a.pt", content)
    network, loaded = load_network(tmp_path / "a.pt")
    assert network.architecture == tiny
    assert not network.training
    assert all(torch.equal(value, content["average"][name]) for name, value in network.state_dict().items())
    assert loaded["input_size"] == [64, 64]
    assert network(torch.zeros(1, 3, 64, 64)).heatmaps[-1].shape == (1, 16, 16, 16)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil-was-run",)


def damaged_files(data: bytes) -> dict[str, bytes]:
    cuts = {f"first {part} percent": data[: len(data) * part // 100] for part in (1, 10, 50, 90, 99)}
    return {
        "empty": b"",
        "text": b"this is not a checkpoint\n",
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "plain pickle": pickle.dumps({"format": "hourglass-nas checkpoint 1"}),
        "code": pickle.dumps(Evil()),
        "zeros": bytes(len(data)),
        "a changed bit": data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        **cuts,
    }


def test_damaged_and_foreign_files_give_a_one_line_error(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    save_checkpoint(path, content)
    for name, damaged in damaged_files(path.read_bytes()).items():
        path.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name
        assert "train again" in str(caught.value), name
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(
    "foreign", [[1, 2], {"state_dict": {}}, {"format": "hourglass-nas checkpoint 0"}, torch.ones(3)]
)
def test_checkpoints_of_other_programs_are_rejected(tmp_path: Path, foreign: object) -> None:
    torch.save(foreign, tmp_path / "a.pt")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "a.pt")


def test_the_reason_for_a_file_with_objects_is_not_pytorchs_advice(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "best": np.float64(0.3)}, tmp_path / "a.pth.tar")
    with pytest.raises(UserError, match=r"a\.pth\.tar: .*Python objects other than tensors") as caught:
        load_checkpoint(tmp_path / "a.pth.tar")
    for word in ("\x1b", "weights_only", "unsafe", "loaded"):
        assert word not in str(caught.value)


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.pt: no such checkpoint"):
        load_network(tmp_path / "b.pt")
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path)


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    before = os.stat("/dev/null")
    write_atomically(Path("/dev/null"), b"content")
    assert os.path.samestat(os.stat("/dev/null"), before)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_symbolic_link_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
