"""Which joints were found, and how surely: PCKh (Andriluka et al. 2014), PCK of the torso, intervals over people.

Both count a joint as found where its prediction lies nearer to the truth than a fraction of the person's own measure,
in pixels of the original picture. They differ in the measure: PCKh's is the head size, 0.6 × the head box's diagonal;
PCK's is the torso, the distance between two joints of the truth (Yang & Ramanan 2013; Sapp & Taskar 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.data.skeletons import Skeleton

LEVEL = 0.95
"""Of the intervals."""
RESAMPLES = 2000
_AT_ONCE = 4_000_000  # draws held in memory


@dataclass(frozen=True)
class Accuracy:
    """Percentages at one threshold.

    Attributes:
        mean: over the scored joints, each joint weighted equally: the objective, and what papers print.
        by_count: over all labelled scored joints: joints that are labelled more often weigh more.
        groups: per joint group (head, shoulder, …), its joints weighted equally.
        joints: per joint, those that are not scored too.
        threshold: fraction of the measure within which a joint counts as found.
        people: number of people.
        metric: "PCKh" or "PCK".
        left_out: people who are not among ``people`` because they cannot be measured.
    """

    mean: float
    by_count: float
    groups: dict[str, float]
    joints: dict[str, float]
    threshold: float
    people: int
    metric: str = "PCKh"
    left_out: int = 0


@dataclass(frozen=True, eq=False)
class PCKNormalizer:
    """What distances are divided by, and which joints are then looked at.

    Attributes:
        metric: "PCKh" or "PCK".
        size: (N,) float64, original pixels; positive, 1 for those who are left out.
        labelled: (N, J) bool: joints that count; none of a person who is left out.
        left_out: how many people have no such measure.
    """

    metric: str
    size: Tensor
    labelled: Tensor
    left_out: int = 0


def head_normalizer(head_size: Tensor, labelled: Tensor) -> PCKNormalizer:
    """PCKh's. head_size: (N,) pixels, 0.6 × the head box's diagonal, positive; labelled: (N, J) bool."""
    return PCKNormalizer("PCKh", head_size.double(), labelled)


def torso_normalizer(truth: Tensor, labelled: Tensor, torso: tuple[int, int]) -> PCKNormalizer:
    """PCK's: each person's own torso, between two joints of the truth.

    Args:
        truth: (N, J, 2) pixels.
        labelled: (N, J) bool. People without both ends of the torso, or with both in one place, are left out.
        torso: the two joints, such as left shoulder and right hip.
    """
    size = (truth[:, torso[0]].double() - truth[:, torso[1]].double()).norm(dim=-1)
    measured = labelled[:, list(torso)].all(dim=1) & (size > 0)
    left_out = int((~measured).sum())
    return PCKNormalizer("PCK", size.where(measured, 1.0), labelled & measured.unsqueeze(-1), left_out)


def correct_joints(predicted: Tensor, truth: Tensor, normalizer: PCKNormalizer, threshold: float) -> Tensor:
    """(N, J) bool: which labelled joints are nearer than ``threshold`` measures. One that is not a number is not.

    Args:
        predicted: (N, J, 2) pixels of the original picture.
        truth: (N, J, 2) pixels.
        normalizer: the N people's.
        threshold: fraction of their measure.
    """
    distance = (predicted.double() - truth.double()).norm(dim=-1) / normalizer.size.unsqueeze(-1)
    near: Tensor = distance < threshold
    return near & normalizer.labelled


def mean_errors(predicted: Tensor, truth: Tensor, normalizer: PCKNormalizer) -> Tensor:
    """(N,) mean distance of each person's labelled joints, in measures; nan where none is labelled.

    Args:
        predicted: (N, J, 2) pixels of the original picture.
        truth: (N, J, 2) pixels.
        normalizer: the N people's.
    """
    distance = (predicted.double() - truth.double()).norm(dim=-1) / normalizer.size.unsqueeze(-1)
    mean: Tensor = distance.where(normalizer.labelled, torch.nan).nanmean(dim=1)
    return mean


def compute_accuracy(hits: Tensor, normalizer: PCKNormalizer, skeleton: Skeleton, threshold: float) -> Accuracy:
    """Count what was found.

    Args:
        hits: (N, J) bool, from :func:`correct_joints`.
        normalizer: that it was found with.
        skeleton: says which joints are scored, and their groups.
        threshold: that it was found at, for the record.

    Returns:
        Percentages. A joint that nobody has labelled is left out of the means (nan where none is left).
    """
    found_of = hits.sum(dim=0).double()
    count = normalizer.labelled.sum(dim=0).double()

    def mean_of(joints: Sequence[int]) -> float:
        seen = [j for j in joints if count[j] > 0]
        return float((100 * found_of[seen] / count[seen]).mean()) if seen else float("nan")

    scored = list(skeleton.scored)
    total = float(count[scored].sum())
    return Accuracy(
        mean=mean_of(scored),
        by_count=100 * float(found_of[scored].sum()) / total if total else float("nan"),
        groups={name: mean_of(joints) for name, joints in skeleton.groups.items()},
        joints={name: mean_of([j]) for j, name in enumerate(skeleton.joints)},
        threshold=threshold,
        people=len(hits) - normalizer.left_out,
        metric=normalizer.metric,
        left_out=normalizer.left_out,
    )


def pckh(
    predicted: Tensor,
    truth: Tensor,
    labelled: Tensor,
    head_size: Tensor,
    skeleton: Skeleton,
    threshold: float = 0.5,
) -> Accuracy:
    """Accuracy of positions in the original picture. All labelled joints count, occluded ones too.

    Args:
        predicted: (N, J, 2) pixels.
        truth: (N, J, 2) pixels.
        labelled: (N, J) bool.
        head_size: (N,) pixels, 0.6 × the head box's diagonal.
        skeleton: says which joints are scored, and their groups.
        threshold: fraction of ``head_size``.
    """
    normalizer = head_normalizer(head_size, labelled)
    return compute_accuracy(correct_joints(predicted, truth, normalizer, threshold), normalizer, skeleton, threshold)


def pck(
    predicted: Tensor,
    truth: Tensor,
    labelled: Tensor,
    torso: tuple[int, int],
    skeleton: Skeleton,
    threshold: float = 0.2,
) -> Accuracy:
    """Accuracy in torsos. People whose torso is not labelled are left out, and counted.

    Args:
        predicted: (N, J, 2) pixels.
        truth: (N, J, 2) pixels.
        labelled: (N, J) bool.
        torso: the two joints between which it is measured.
        skeleton: says which joints are scored, and their groups.
        threshold: fraction of the torso.
    """
    normalizer = torso_normalizer(truth, labelled, torso)
    return compute_accuracy(correct_joints(predicted, truth, normalizer, threshold), normalizer, skeleton, threshold)


@dataclass(frozen=True)
class Interval:
    """95 % bootstrap intervals of both means, each (low, high); nan where nobody has a scored joint."""

    mean: tuple[float, float]
    by_count: tuple[float, float]


def bootstrap_intervals(
    hits: Sequence[Tensor], labelled: Tensor, skeleton: Skeleton, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """How far the means would move with other people: percentile bootstrap over people (Efron 1979).

    Whole people are drawn with replacement, as many as there are, and both means computed anew from each draw. All
    results are computed on the same draws.

    Args:
        hits: (N, J) bool each, from :func:`correct_joints`, all under one normalizer.
        labelled: (N, J) bool, the normalizer's.
        skeleton: says which joints are scored.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        One interval for each of ``hits``.
    """
    scored = list(skeleton.scored)
    # Who has no joint that counts is no part of the sample.
    sample = labelled.any(dim=1)
    count = labelled[sample][:, scored].double().cpu().numpy()
    each = np.stack([one[sample][:, scored].double().cpu().numpy() for one in hits])
    results, people, joints = each.shape
    if not count.any():
        nothing = (float("nan"), float("nan"))
        return [Interval(nothing, nothing)] * results
    columns = np.concatenate([each.transpose(1, 0, 2).reshape(people, -1), count], axis=1)
    rng = np.random.default_rng(seed)
    means, by_counts = [], []
    for start in range(0, resamples, step := max(1, _AT_ONCE // people)):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, people, (rows, people)) + people * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * people).reshape(rows, people)
        summed = (times.astype(np.float64) @ columns).reshape(rows, results + 1, joints)
        right, of = summed[:, :results], summed[:, results:]  # (rows, results, joints), (rows, 1, joints)
        # As in compute_accuracy(): a joint that no drawn person has is left out of the mean.
        share = np.divide(right, of, out=np.zeros_like(right), where=of > 0)
        means.append(100 * share.sum(-1) / np.maximum((of > 0).sum(-1), 1))
        by_counts.append(100 * right.sum(-1) / np.maximum(of.sum(-1), 1))
    tails = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    ends = (
        [(low, high) for low, high in np.percentile(np.concatenate(parts), tails, axis=0).T.tolist()]
        for parts in (means, by_counts)
    )
    return [Interval(*both) for both in zip(*ends, strict=True)]


@dataclass(frozen=True)
class Score:
    """An accuracy and how sure it is."""

    accuracy: Accuracy
    interval: Interval


def score_predictions(
    predicted: Sequence[Tensor],
    truth: Tensor,
    normalizer: PCKNormalizer,
    skeleton: Skeleton,
    thresholds: Sequence[float],
) -> list[list[Score]]:
    """Score several predictions of the same people.

    Args:
        predicted: (N, J, 2) pixels each.
        truth: (N, J, 2) pixels.
        normalizer: the N people's.
        skeleton: says which joints are scored, and their groups.
        thresholds: fractions of the measure.

    Returns:
        For each threshold, one score for each prediction.
    """
    hits = [[correct_joints(one, truth, normalizer, threshold) for one in predicted] for threshold in thresholds]
    sure = iter(bootstrap_intervals([one for row in hits for one in row], normalizer.labelled, skeleton))
    return [
        [Score(compute_accuracy(one, normalizer, skeleton, threshold), next(sure)) for one in row]
        for threshold, row in zip(thresholds, hits, strict=True)
    ]
