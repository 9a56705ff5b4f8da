"""The crops' margin: turned by up to 30° and zoomed out by up to 1.25, a box shows nothing that was not packed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nas.data.augmentation import PIXEL_MEAN, PIXEL_SCALE, Augmentation, cut_batch, fit_to_input, random_maps
from nas.data.packed.options import PackOptions
from nas.data.packed.packing import pack
from nas.data.packed.reader import PackedPeople
from nas.data.people import Person
from nas.data.skeletons import LSP


def extremes(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make every random draw of ``random_maps`` one of its limits, in all combinations; how many there are."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5).T
    monkeypatch.setattr(torch, "rand", lambda *_, **__: corners)
    return corners.shape[1]


def white(tmp_path: Path, box: int, jpeg: int | None) -> PackedPeople:
    cv2.imwrite(str(tmp_path / "white.png"), np.full((700, 700, 3), 255, np.uint8))
    person = Person(
        image="white.png",
        joints=np.full((14, 2), 350, np.float32),
        labelled=np.ones(14, np.bool_),
        center=np.array((350.3, 349.6), np.float32),
        size=300.7,
        head_size=30.0,
        split="train",
    )
    pack([person], tmp_path, tmp_path / "out.h5", LSP, {}, PackOptions(box, 1, jpeg=jpeg))
    return PackedPeople.load(tmp_path / "out.h5", "train")


@pytest.mark.parametrize(("box", "size"), [(64, 64), (128, 128), (256, 256), (256, 128), (192, 64), (100, 128)])
@pytest.mark.parametrize("jpeg", [None, 95])
def test_no_black_corners(
    tmp_path: Path, box: int, size: int, jpeg: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = fit_to_input(white(tmp_path, box, jpeg), size)
    count = extremes(monkeypatch)
    limits = Augmentation(rotate=30, scale=0.25, shift=0, flip=0.5, colour=0)
    maps, mirrored = random_maps(people, count, size, limits, torch.Generator())
    assert mirrored.any()
    assert not mirrored.all()
    batch = cut_batch(people, torch.zeros(count, dtype=torch.long), size, maps, mirrored)
    pixels = batch.images * PIXEL_SCALE + PIXEL_MEAN
    assert pixels.min() > 250


def test_a_shift_on_top_reaches_beyond_by_no_more_than_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The margin is for rotation and scale; training's shift of 5 % can add a black corner where all three peak."""
    people = white(tmp_path, 64, None)
    count = extremes(monkeypatch)
    maps, mirrored = random_maps(people, count, 64, Augmentation(colour=0), torch.Generator())
    batch = cut_batch(people, torch.zeros(count, dtype=torch.long), 64, maps, mirrored)
    black = (batch.images * PIXEL_SCALE + PIXEL_MEAN < 250).any(1).float().mean((1, 2))
    assert black.max() < 0.02
