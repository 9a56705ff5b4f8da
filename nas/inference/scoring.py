"""Accuracy of a trained network on packed people, and of predictions made elsewhere on an MPII ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.readers.mpii_evaluation import predictions_mat, read_ground_truth, read_predictions
from nas.data.skeletons import MPII, Skeleton
from nas.errors import UserError
from nas.training.checkpoint import load_network
from nas.training.evaluation import predict
from nas.training.metrics import PCKNormalizer, Score, head_normalizer, score_predictions, torso_normalizer
from nas.training.schedule import ScheduleConfig

PCKH_THRESHOLDS: tuple[float, ...] = (0.5, 0.1)
"""Thresholds of PCKh, the first being the headline."""
PCK_THRESHOLDS: tuple[float, ...] = (0.2,)
"""Thresholds of PCK."""


@dataclass(frozen=True)
class Variant:
    """One way of predicting: an hourglass of the network, with or without flip averaging.

    Attributes:
        name: in words.
        stage: the hourglass, from 1; None for predictions that no network of ours made.
        flip: whether heatmaps are averaged with those of the mirrored image; None as above.
    """

    name: str
    stage: int | None = None
    flip: bool | None = None


@dataclass(frozen=True)
class ScoreReport:
    """Scores of several variants at several thresholds.

    Attributes:
        variants: what was scored, the headline last.
        scores: by threshold, then by variant.
        normalizer: the reference lengths that distances were divided by.
        skeleton: of the people.
    """

    variants: Sequence[Variant]
    scores: Sequence[Sequence[Score]]
    normalizer: PCKNormalizer
    skeleton: Skeleton


class NetworkScorer:
    """A trained network and the people that it is scored on, loaded and checked against each other.

    Args:
        checkpoint: written by ``nas.retrain``.
        data: packed people.
        split: "valid", "holdout" or "train".
        metric: "pckh", as in search and full training; "pck", or "auto": PCK where the skeleton has a torso.
        device: "cpu" or "cuda".

    Attributes:
        network: in evaluation mode, on the device.
        schedule: that it was trained under.
        people: fitted to the network's input.
        skeleton: of the people.
        notes: what a reader of the scores should know.

    Raises:
        UserError: a file or the metric is wrong, or the people have other joints than the network.
    """

    def __init__(self, checkpoint: Path, data: Path, split: str, metric: str, device: str) -> None:
        self.network, content = load_network(checkpoint, device)
        self.schedule = ScheduleConfig.from_dict(content["schedule"])
        self.input_size = self.network.input_size[0]
        self.skeleton = describe_packed(data).skeleton
        _check_joints(checkpoint, Skeleton.from_json(content["skeleton"]), data, self.skeleton)
        self._torso = _torso(self.skeleton, metric, data)
        self.people = fit_to_input(PackedPeople.load(data, split, device), self.input_size)
        self.notes: list[str] = []
        if self.people.box < self.input_size:
            self.notes.append(
                f"{data} was packed at {self.people.box} pixels; enlarged to the network's {self.input_size}"
            )
        trained_on = content.get("people")  # checksum and number
        if split != "valid" and isinstance(trained_on, list) and self.people.checksum in trained_on:
            self.notes.append(f"the network was trained with this file; it may have seen its {split} people")

    def score(
        self, flips: Sequence[bool], batch: int, after_batch: Callable[[int], None] = lambda done: None
    ) -> tuple[ScoreReport, Tensor]:
        """Score every hourglass.

        Args:
            flips: whether to average with the mirrored image; (False, True) scores both.
            batch: images per forward pass.
            after_batch: called with the number of people done.

        Returns:
            The report, and the positions (N, J, 2) of its last variant in pixels of the original images.
        """
        predictions = predict(
            self.network, self.people, self.schedule, self.input_size, flips=flips, batch=batch, after_batch=after_batch
        )
        truth, people = self.people.original_joints(), self.people
        if self._torso is None:
            normalizer, thresholds = head_normalizer(people.head_size, people.labelled), PCKH_THRESHOLDS
        else:
            normalizer, thresholds = torso_normalizer(truth, people.labelled, self._torso), PCK_THRESHOLDS
        stages = len(predictions[0].positions)
        variants = [
            Variant(f"hourglass {stage} of {stages}" + (", flipped copy" if flip else ""), stage, flip)
            for flip in flips
            for stage in range(1, stages + 1)
        ]
        positions = [stage for prediction in predictions for stage in prediction.positions]
        scores = score_predictions(positions, truth, normalizer, self.skeleton, thresholds)
        return ScoreReport(variants, scores, normalizer, self.skeleton), positions[-1]

    def predictions_file(self, positions: Tensor) -> bytes:
        """The content of a MATLAB file with the positions (N, J, 2) of the people."""
        return predictions_mat(positions.cpu().numpy(), self.people.images, self.skeleton.joints)


def _check_joints(checkpoint: Path, trained: Skeleton, data: Path, packed: Skeleton) -> None:
    """Refuse people whose joints are not those that the network was trained on."""
    if len(trained.joints) != len(packed.joints):
        raise UserError(
            f"--data {data} has {len(packed.joints)} joints ({packed.name}), but {checkpoint} was trained on "
            f"{len(trained.joints)} ({trained.name}); give people of the same skeleton"
        )
    for expected, actual in zip(trained.joints, packed.joints, strict=True):
        if expected != actual:
            raise UserError(
                f"--data {data} ({packed.name}) has {actual!r} where {checkpoint} ({trained.name}) has {expected!r}; "
                "give people of the same skeleton"
            )


def _torso(skeleton: Skeleton, metric: str, data: Path) -> tuple[int, int] | None:
    """The joints that PCK measures by; None for PCKh."""
    if metric not in ("auto", "pckh", "pck"):
        raise UserError(f"--metric {metric}: must be auto, pckh or pck")
    if metric == "pck" and skeleton.torso is None:
        raise UserError(f"--metric pck: skeleton {skeleton.name} of --data {data} has no torso; use --metric pckh")
    return None if metric == "pckh" else skeleton.torso


@dataclass(frozen=True)
class PredictionReport(ScoreReport):
    """Scores of predictions of MPII people made elsewhere.

    Attributes:
        people: number of people.
        missing_people: those without any prediction.
        missing_joints: labelled joints without a prediction, which count as wrong.
    """

    people: int
    missing_people: int
    missing_joints: int


def score_mpii_predictions(predictions: Path, ground_truth: Path, variable: str | None = None) -> PredictionReport:
    """Score predictions of MPII people made elsewhere on a ground truth in the official layout.

    Args:
        predictions: MATLAB file.
        ground_truth: MATLAB file, the same people in the same order.
        variable: the predictions' array, or None to find it.

    Raises:
        UserError: a file is wrong, or the two differ in their number of people.
    """
    official = read_ground_truth(ground_truth)
    positions = torch.from_numpy(read_predictions(predictions, variable))
    truth, labelled = torch.from_numpy(official.joints), torch.from_numpy(official.labelled)
    if len(positions) != len(truth):
        raise UserError(
            f"--predictions {predictions} has {len(positions):,} people, --ground-truth {ground_truth} "
            f"{len(truth):,}; predict everybody, in the ground truth's order (nan where there is no answer)"
        )
    normalizer = head_normalizer(torch.from_numpy(official.head_size), labelled)
    absent = ~torch.isfinite(positions).all(dim=-1)
    return PredictionReport(
        variants=[Variant(predictions.name)],
        scores=score_predictions([positions], truth, normalizer, MPII, PCKH_THRESHOLDS),
        normalizer=normalizer,
        skeleton=MPII,
        people=len(positions),
        missing_people=int(absent.all(dim=1).sum()),
        missing_joints=int((absent & labelled).sum()),
    )
