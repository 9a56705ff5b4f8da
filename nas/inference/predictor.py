"""A network asked about people in any picture: box → crop → network → joints in the picture's own pixels."""

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
    """The square around a person that a network is shown, in pixels of the picture, continuous.

    Attributes:
        x: of its centre.
        y: of its centre.
        side: its length; positive.
    """

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """The smallest square with the same centre around a rectangle, given by its top left corner and its size."""
        return cls(x + width / 2, y + height / 2, max(width, height))

    @classmethod
    def mpii(cls, x: float, y: float, scale: float) -> Box:
        """The box that MPII's ``objpos``, counted from 1, and ``scale`` stand for, as the reader of MPII makes it."""
        nobody = np.zeros((JOINTS, 2))
        person = mpii_person("", nobody, np.zeros(JOINTS, np.bool_), (x, y), scale, None, "valid")
        return cls(float(person.center[0]), float(person.center[1]), person.size)

    def meets(self, width: int, height: int) -> bool:
        """Whether any of it lies on a picture of this size."""
        half = self.side / 2
        return -half < self.x < width + half and -half < self.y < height + half

    def to_list(self) -> list[float]:
        """Left, top, width, height."""
        return [self.x - self.side / 2, self.y - self.side / 2, self.side, self.side]


@dataclass(frozen=True, eq=False)
class Pose:
    """What a network says of one person.

    Attributes:
        joints: float64 (J, 2) x, y in pixels of the picture, continuous, pixel centres at +0.5.
        scores: float64 (J,), 0 to 1: the map's peak over that of the training target, see :func:`target_peak`.
        box: that the network was shown.
    """

    joints: NDArray[np.float64]
    scores: NDArray[np.float64]
    box: Box

    def to_dict(self, skeleton: Skeleton) -> dict[str, Any]:
        """Plain values for JSON: the box as left, top, width, height; each joint with its name."""
        joints = zip(skeleton.joints, self.joints.tolist(), self.scores.tolist(), strict=True)
        return {
            "box": [round(value, 3) for value in self.box.to_list()],
            "joints": [
                {"name": name, "x": round(x, 3), "y": round(y, 3), "score": round(score, 4)}
                for name, (x, y), score in joints
            ],
        }


def target_peak(schedule: ScheduleConfig) -> float:
    """The highest value of a map like the training target's, centred on a cell.

    1 for squared error; for maps that are probabilities, 1 over the sum of the target's Gaussian. Peaks divided by it
    compare between networks of different losses and sigmas. A perfect map whose peak lies between cells comes to less:
    0.5 at sigma 0.6, 0.9 at sigma 1.
    """
    if schedule.loss == "mse":
        return 1.0
    side = 2 * int(np.ceil(8 * schedule.sigma)) + 1
    middle = torch.full((1, 1, 2), side / 2, dtype=torch.float64)
    return float(1 / encode(middle, (side, side), schedule.sigma).sum())


def cut_out(picture: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.uint8]:
    """A box of a picture, uint8 (H, W, 3) RGB, as networks of input size ``side`` see it; black beyond the picture."""
    crop, _ = _crop(picture, box, side)
    first = (len(crop) - side) // 2
    return crop[first : first + side, first : first + side]


def _crop(picture: NDArray[np.uint8], box: Box, side: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The box with a margin, and the map back, as :func:`nas.data.packed.packing.crop_person` makes them."""
    center = np.array([box.x, box.y])
    nobody = Person("", np.zeros((0, 2), np.float32), np.zeros(0, np.bool_), center, box.side, 1.0, "valid")
    crop, _, back = crop_person(picture, nobody, side)
    return crop, back


class Predictor:
    """A network and what is needed to use it on pictures.

    Attributes:
        network: in evaluation mode, on ``device``.
        schedule: says how its maps are read.
        skeleton: its joints.
        input_size: H = W of the pictures that it sees.
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
        """The network of a checkpoint, with its averaged weights.

        Raises:
            UserError: the checkpoint cannot be read.
        """
        network, content = load_network(checkpoint, device)
        schedule, skeleton = ScheduleConfig.from_dict(content["schedule"]), Skeleton.from_json(content["skeleton"])
        return cls(network, schedule, skeleton, network.input_size[0], device)

    def poses(
        self, pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[Box], *, flip: bool = False, batch: int = 16
    ) -> list[Pose]:
        """Predict one person in each picture; the way of validation people, so that scores carry over.

        Args:
            pictures: N of them, uint8 (H, W, 3) RGB; one with several people stands here several times.
            boxes: N, one for each.
            flip: average with the mirrored copy: slower, and more accurate.
            batch: people at a time.
        """
        if not len(pictures):
            return []
        cropped = [_crop(picture, box, self.input_size) for picture, box in zip(pictures, boxes, strict=True)]
        crops = [torch.from_numpy(crop) for crop, _ in cropped]
        backs = [torch.from_numpy(back) for _, back in cropped]
        count, joints = len(crops), len(self.skeleton.joints)
        people = PackedPeople(
            skeleton=self.skeleton,
            box=self.input_size,
            crops=torch.stack(crops).permute(0, 3, 1, 2),
            joints=torch.zeros(count, joints, 2),
            labelled=torch.zeros(count, joints, dtype=torch.bool),
            head_size=torch.ones(count),
            to_original=torch.stack(backs).float(),
            images=("",) * count,
            checksum="",
        ).to(self.device)
        (said,) = predict(self.network, people, self.schedule, self.input_size, flips=(flip,), batch=batch)
        positions = said.positions[-1].double().cpu().numpy()
        scores = np.nan_to_num(said.confidence.double().cpu().numpy() / self._peak).clip(0, 1)
        return [Pose(*answer) for answer in zip(positions, scores, boxes, strict=True)]
