"""Prediction on images of any size: box → crop → network → joints in pixels of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.data.packed.crop import crop_person
from nas.data.packed.reader import PackedPeople
from nas.data.people import Person
from nas.data.readers.mpii_person import JOINTS, mpii_person
from nas.data.skeletons import Skeleton
from nas.training.checkpoint import load_network
from nas.training.evaluation import predict
from nas.training.heatmaps import encode
from nas.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class Box:
    """The square around a person that becomes a network's input, in continuous pixels of the image.

    Attributes:
        x: of the centre.
        y: of the centre.
        side: length of the sides; positive.
    """

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """The smallest square around a rectangle, with the same centre.

        Args:
            x: left edge of the rectangle.
            y: top edge.
            width: of the rectangle.
            height: of the rectangle.
        """
        return cls(x + width / 2, y + height / 2, max(width, height))

    @classmethod
    def mpii(cls, x: float, y: float, scale: float) -> Box:
        """The box of an MPII annotation, as the reader of MPII computes it.

        Args:
            x: of ``objpos``, 1-based.
            y: of ``objpos``, 1-based.
            scale: body height / 200 pixels.
        """
        no_joints = np.zeros((JOINTS, 2))
        person = mpii_person("", no_joints, np.zeros(JOINTS, np.bool_), (x, y), scale, None, "valid")
        return cls(float(person.center[0]), float(person.center[1]), person.size)

    def overlaps(self, width: int, height: int) -> bool:
        """Whether any part of the box lies within an image of this size."""
        half = self.side / 2
        return -half < self.x < width + half and -half < self.y < height + half

    def to_list(self) -> list[float]:
        """[left, top, width, height]."""
        return [self.x - self.side / 2, self.y - self.side / 2, self.side, self.side]


@dataclass(frozen=True, eq=False)
class Pose:
    """The predicted pose of one person.

    Attributes:
        joints: float64 (J, 2) x, y in continuous pixels of the image, pixel centres at +0.5.
        scores: float64 (J,), from 0 to 1: the heatmap's peak relative to that of the target, see :func:`target_peak`.
        box: that was given to the network.
    """

    joints: NDArray[np.float64]
    scores: NDArray[np.float64]
    box: Box

    def to_dict(self, skeleton: Skeleton) -> dict[str, Any]:
        """Plain values for JSON: the box as [left, top, width, height]; each joint with its name."""
        joints = zip(skeleton.joints, self.joints.tolist(), self.scores.tolist(), strict=True)
        return {
            "box": [round(value, 3) for value in self.box.to_list()],
            "joints": [
                {"name": name, "x": round(x, 3), "y": round(y, 3), "score": round(score, 4)}
                for name, (x, y), score in joints
            ],
        }


def target_peak(schedule: ScheduleConfig) -> float:
    """The peak value of the training target, centred on a cell, after the normalization of the network's output.

    1 for squared error; for maps that are probabilities, 1 over the sum of the Gaussian. Peaks divided by it are
    comparable between networks with different losses and sigmas. A perfect map whose peak lies between cells has a
    lower one: a score of 0.5 at sigma 0.6, 0.9 at sigma 1.
    """
    if schedule.loss == "mse":
        return 1.0
    side = 2 * int(np.ceil(8 * schedule.sigma)) + 1
    centre = torch.full((1, 1, 2), side / 2, dtype=torch.float64)
    return float(1 / encode(centre, (side, side), schedule.sigma).sum())


def crop_box(image: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.uint8]:
    """Crop and resize a box of an image to a network's input; black outside the image.

    Args:
        image: uint8 (H, W, 3) RGB.
        box: to crop.
        side: input size of the network.

    Returns:
        uint8 (side, side, 3).
    """
    crop, _ = _crop_with_margin(image, box, side)
    margin = (len(crop) - side) // 2
    return crop[margin : margin + side, margin : margin + side]


def _crop_with_margin(image: NDArray[np.uint8], box: Box, side: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The box with a margin, and the affine map back, from :func:`nas.data.packed.packing.crop_person`."""
    center = np.array([box.x, box.y])
    person = Person("", np.zeros((0, 2), np.float32), np.zeros(0, np.bool_), center, box.side, 1.0, "valid")
    crop, _, to_image = crop_person(image, person, side)
    return crop, to_image


class Predictor:
    """A trained network that predicts poses in images of any size.

    Attributes:
        network: in evaluation mode, on ``device``.
        schedule: says how its heatmaps are decoded.
        skeleton: its joints.
        input_size: H = W of its input.
        device: "cpu" or "cuda".
    """

    def __init__(
        self, network: nn.Module, schedule: ScheduleConfig, skeleton: Skeleton, input_size: int, device: str = "cpu"
    ) -> None:
        self.network, self.schedule, self.skeleton = network, schedule, skeleton
        self.input_size, self.device = input_size, device
        self._peak = target_peak(schedule)

    @classmethod
    def load(cls, checkpoint: Path, device: str = "cpu") -> Predictor:
        """Load the network of a checkpoint, with its averaged weights.

        Raises:
            UserError: the checkpoint cannot be read.
        """
        network, content = load_network(checkpoint, device)
        schedule, skeleton = ScheduleConfig.from_dict(content["schedule"]), Skeleton.from_json(content["skeleton"])
        return cls(network, schedule, skeleton, network.input_size[0], device)

    def poses(
        self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[Box], *, flip: bool = False, batch: int = 16
    ) -> list[Pose]:
        """Predict one person in each image, in the same way as validation people are predicted.

        Args:
            images: N images, uint8 (H, W, 3) RGB; an image with several people is repeated.
            boxes: N boxes, one for each image.
            flip: average with the mirrored image: slower, and more accurate.
            batch: people per forward pass.

        Returns:
            N poses.
        """
        if not len(images):
            return []
        cropped = [_crop_with_margin(image, box, self.input_size) for image, box in zip(images, boxes, strict=True)]
        crops = [torch.from_numpy(crop) for crop, _ in cropped]
        to_images = [torch.from_numpy(to_image) for _, to_image in cropped]
        count, joints = len(crops), len(self.skeleton.joints)
        people = PackedPeople(
            skeleton=self.skeleton,
            box=self.input_size,
            crops=torch.stack(crops).permute(0, 3, 1, 2),
            joints=torch.zeros(count, joints, 2),
            labelled=torch.zeros(count, joints, dtype=torch.bool),
            head_size=torch.ones(count),
            to_original=torch.stack(to_images).float(),
            images=("",) * count,
            checksum="",
        ).to(self.device)
        (predictions,) = predict(self.network, people, self.schedule, self.input_size, flips=(flip,), batch=batch)
        positions = predictions.positions[-1].double().cpu().numpy()
        scores = np.nan_to_num(predictions.confidence.double().cpu().numpy() / self._peak).clip(0, 1)
        return [Pose(*answer) for answer in zip(positions, scores, boxes, strict=True)]
