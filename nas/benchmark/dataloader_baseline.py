"""Pictures as pose codebases read them: JPEG files decoded, cropped and given heatmaps one by one, on the CPU.

Nothing is trained from this; it is what :mod:`nas.benchmark.measure` compares the packed, batched way with.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from nas.data.augmentation import PIXEL_MEAN, PIXEL_SCALE, Augmentation
from nas.data.people import MPII
from nas.data.synthetic.scene import render_person

PICTURE = (1280, 720)
"""Width and height of the pictures, that of most of MPII's."""

BOX = 480
"""Side of a person's box in them, in pixels."""

_QUALITY = 95


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Draw ``count`` people, each in a JPEG picture of its own with its joints beside it, into an existing folder."""
    width, height = PICTURE
    for index in range(count):
        person = render_person(seed, index, BOX, height / BOX)
        beside = (width - height) // 2
        picture = np.pad(person.crop, ((0, 0), (beside, beside), (0, 0)), mode="symmetric")
        path = folder / f"{index:05d}.jpg"
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        np.savez(path.with_suffix(".npz"), joints=person.joints + np.array([beside, 0]), labelled=person.labelled)


class JpegPeople(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The pictures of :func:`write_pictures`, augmented as packed people are, one at a time.

    Args:
        folder: of the pictures.
        length: how many items there seem to be; the pictures are gone through again and again.
        input_size: H = W of the pictures given.
        stride: input pixels per heatmap cell.
        sigma: of the targets, in cells.
        augmentation: how much pictures are changed.
    """

    def __init__(
        self, folder: Path, length: int, input_size: int, stride: int, sigma: float, augmentation: Augmentation
    ) -> None:
        self.files = sorted(folder.glob("*.jpg"))
        self.length, self.input_size, self.stride, self.sigma = length, input_size, stride, sigma
        self.augmentation = augmentation
        self.joints, self.labelled = [], []
        for file in self.files:
            with np.load(file.with_suffix(".npz")) as annotation:
                self.joints.append(annotation["joints"])
                self.labelled.append(annotation["labelled"])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """One picture (3, H, W) normalised, its targets (J, h, w), and which joints count (J,)."""
        rng = np.random.default_rng(index)
        here, size, change = index % len(self.files), self.input_size, self.augmentation
        picture = cv2.imread(str(self.files[here]), cv2.IMREAD_COLOR_RGB)
        assert picture is not None
        joints, labelled = self.joints[here], self.labelled[here]

        angle = rng.uniform(-change.rotate, change.rotate)
        zoom = size / BOX * math.exp(rng.uniform(-1, 1) * math.log1p(change.scale))
        centre = np.array(PICTURE) / 2 + rng.uniform(-change.shift, change.shift, 2) * BOX
        affine = np.array(cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, zoom), np.float64)
        affine[:, 2] += size / 2 - centre
        image = cv2.warpAffine(picture, affine, (size, size), flags=cv2.INTER_LINEAR)
        joints = joints @ affine[:, :2].T + affine[:, 2]
        if rng.random() < change.flip:
            order = list(MPII.flip_order)
            image, joints, labelled = image[:, ::-1], (size, 0) + joints[order] * (-1, 1), labelled[order]
        strength = change.colour
        gain = (1 + strength * rng.uniform(-1, 1)) * (1 + 0.5 * strength * rng.uniform(-1, 1, 3))
        pixels = (image.astype(np.float32) - PIXEL_MEAN) * (gain / PIXEL_SCALE).astype(np.float32)
        target, labelled = gaussians(joints / self.stride, labelled, size // self.stride, self.sigma)
        chw = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return torch.from_numpy(chw), torch.from_numpy(target), torch.from_numpy(labelled)


def one_thread(worker: int) -> None:
    """Keep OpenCV to one thread in a DataLoader's worker: there are as many workers as cores."""
    cv2.setNumThreads(0)


def gaussians(
    joints: NDArray[np.float64], labelled: NDArray[np.bool_], side: int, sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Heatmaps drawn joint by joint, each Gaussian cut off at 3 sigma.

    Args:
        joints: (J, 2) in cells, continuous, cell centres at +0.5.
        labelled: (J,) which of them count.
        side: cells a side.
        sigma: in cells.

    Returns:
        (J, side, side) of height 1, and (J,): labelled, and on the map.
    """
    maps = np.zeros((len(joints), side, side), np.float32)
    on_map = labelled & (joints >= 0).all(axis=1) & (joints < side).all(axis=1)
    reach = math.ceil(3 * sigma)
    for index in np.flatnonzero(on_map):
        x, y = joints[index]
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        across = np.arange(left, min(side, int(x) + reach + 1)) + 0.5 - x
        down = np.arange(top, min(side, int(y) + reach + 1)) + 0.5 - y
        drawn = np.exp(-0.5 * (across / sigma) ** 2) * np.exp(-0.5 * (down[:, None] / sigma) ** 2)
        maps[index, top : top + len(down), left : left + len(across)] = drawn
    return maps, on_map
