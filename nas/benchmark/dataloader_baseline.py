"""The DataLoader baseline's dataset: JPEG files are decoded, augmented and given heatmaps one by one, on the CPU.

This is how most pose codebases read their data. Only :mod:`nas.benchmark.measure` uses it, for comparison.
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
from nas.data.skeletons import MPII
from nas.data.synthetic.render import render_person

IMAGE_SIZE = (1280, 720)
"""Width and height of the images, as of most of MPII's."""

BOX = 480
"""Side of a person's box in an image, in pixels."""

_JPEG_QUALITY = 95


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Render people, each as a JPEG file with its joints in an .npz file, into an existing folder."""
    width, height = IMAGE_SIZE
    for index in range(count):
        person = render_person(seed, index, BOX, height / BOX)
        border = (width - height) // 2
        image = np.pad(person.crop, ((0, 0), (border, border), (0, 0)), mode="symmetric")
        path = folder / f"{index:05d}.jpg"
        cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        np.savez(path.with_suffix(".npz"), joints=person.joints + np.array([border, 0]), labelled=person.labelled)


class JpegPeople(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The images of :func:`write_images`, augmented as packed people are, one at a time.

    Args:
        folder: of the images.
        length: of the dataset, which repeats the images.
        input_size: H = W of the items.
        stride: input pixels per heatmap cell.
        sigma: of the targets, in cells.
        augmentation: its strengths.
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
        """One normalized image (3, H, W), its targets (J, h, w), and which joints count (J,)."""
        rng = np.random.default_rng(index)
        number, size, augmentation = index % len(self.files), self.input_size, self.augmentation
        source = cv2.imread(str(self.files[number]), cv2.IMREAD_COLOR_RGB)
        assert source is not None
        joints, labelled = self.joints[number], self.labelled[number]

        angle = rng.uniform(-augmentation.rotate, augmentation.rotate)
        zoom = size / BOX * math.exp(rng.uniform(-1, 1) * math.log1p(augmentation.scale))
        centre = np.array(IMAGE_SIZE) / 2 + rng.uniform(-augmentation.shift, augmentation.shift, 2) * BOX
        affine = np.array(cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, zoom), np.float64)
        affine[:, 2] += size / 2 - centre
        image = cv2.warpAffine(source, affine, (size, size), flags=cv2.INTER_LINEAR)
        joints = joints @ affine[:, :2].T + affine[:, 2]
        if rng.random() < augmentation.flip:
            order = list(MPII.flip_order)
            image, joints, labelled = image[:, ::-1], (size, 0) + joints[order] * (-1, 1), labelled[order]
        strength = augmentation.colour
        gain = (1 + strength * rng.uniform(-1, 1)) * (1 + 0.5 * strength * rng.uniform(-1, 1, 3))
        pixels = (image.astype(np.float32) - PIXEL_MEAN) * (gain / PIXEL_SCALE).astype(np.float32)
        target, labelled = gaussians(joints / self.stride, labelled, size // self.stride, self.sigma)
        chw = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return torch.from_numpy(chw), torch.from_numpy(target), torch.from_numpy(labelled)


def one_thread(worker: int) -> None:
    """Limit OpenCV to one thread in a DataLoader's worker: there are as many workers as cores."""
    cv2.setNumThreads(0)


def gaussians(
    joints: NDArray[np.float64], labelled: NDArray[np.bool_], side: int, sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Heatmaps computed joint by joint, each Gaussian cut off at 3 sigma.

    Args:
        joints: (J, 2) in cells, continuous, cell centres at +0.5.
        labelled: (J,) bool.
        side: cells a side.
        sigma: standard deviation in cells.

    Returns:
        (J, side, side) maps of height 1, and (J,) which joints are labelled and on the map.
    """
    maps = np.zeros((len(joints), side, side), np.float32)
    on_map = labelled & (joints >= 0).all(axis=1) & (joints < side).all(axis=1)
    reach = math.ceil(3 * sigma)
    for index in np.flatnonzero(on_map):
        x, y = joints[index]
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        across = np.arange(left, min(side, int(x) + reach + 1)) + 0.5 - x
        down = np.arange(top, min(side, int(y) + reach + 1)) + 0.5 - y
        values = np.exp(-0.5 * (across / sigma) ** 2) * np.exp(-0.5 * (down[:, None] / sigma) ** 2)
        maps[index, top : top + len(down), left : left + len(across)] = values
    return maps, on_map
