"""Accuracy of predicted joints: PCKh (Andriluka et al. 2014), PCK by torso size, and bootstrap confidence intervals.

Both metrics count a joint as correct where the distance from the ground truth is below a fraction of a reference length
of the person, in pixels of the original image. PCKh's reference is the head size, 0.6 × the diagonal of the head box;
PCK's is the torso, the distance between two joints of the ground truth (Yang & Ramanan 2013; Sapp & Taskar 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.data.skeletons import Skeleton

LEVEL = 0.95
"""Confidence level of the intervals."""

RESAMPLES = 2000
"""Bootstrap samples."""

_CHUNK = 4_000_000  # people drawn per chunk, to limit memory


@dataclass(frozen=True)
class Accuracy:
    """Percentages of correct joints at one threshold.

    Attributes:
        mean: over the scored joints, each joint weighted equally: the search's objective, and what papers report.
        by_count: over the scored joints, weighted by how often they are labelled.
        groups: per joint group (head, shoulder, …), its joints weighted equally.
        joints: per joint, including those that are not scored.
        threshold: fraction of the reference length.
        people: number of people.
        metric: "PCKh" or "PCK".
        left_out: number of people who have no reference length and are not among ``people``.
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
    """The reference lengths that distances are divided by, and the joints that count.

    Attributes:
        metric: "PCKh" or "PCK".
        size: (N,) float64 reference lengths in original pixels; positive, 1 for people who are left out.
        labelled: (N, J) bool, the joints that count; none of a person who is left out.
        left_out: number of people without a reference length.
    """

    metric: str
    size: Tensor
    labelled: Tensor
    left_out: int = 0


def head_normalizer(head_size: Tensor, labelled: Tensor) -> PCKNormalizer:
    """The normalizer of PCKh.

    Args:
        head_size: (N,) pixels, 0.6 × the diagonal of the head box; positive.
        labelled: (N, J) bool.
    """
    return PCKNormalizer("PCKh", head_size.double(), labelled)


def torso_normalizer(truth: Tensor, labelled: Tensor, torso: tuple[int, int]) -> PCKNormalizer:
    """The normalizer of PCK: each person's torso, between two joints of the ground truth.

    Args:
        truth: (N, J, 2) pixels.
        labelled: (N, J) bool. People without both ends of the torso, or with a torso of length 0, are left out.
        torso: indices of the two joints, such as left shoulder and right hip.
    """
    size = (truth[:, torso[0]].double() - truth[:, torso[1]].double()).norm(dim=-1)
    measured = labelled[:, list(torso)].all(dim=1) & (size > 0)
    left_out = int((~measured).sum())
    return PCKNormalizer("PCK", size.where(measured, 1.0), labelled & measured.unsqueeze(-1), left_out)


def correct_joints(predicted: Tensor, truth: Tensor, normalizer: PCKNormalizer, threshold: float) -> Tensor:
    """Which labelled joints are closer to the ground truth than ``threshold`` reference lengths; NaN is not.

    Args:
        predicted: (N, J, 2) pixels of the original image.
        truth: (N, J, 2) pixels.
        normalizer: of the N people.
        threshold: fraction of the reference length.

    Returns:
        (N, J) bool.
    """
    distance = (predicted.double() - truth.double()).norm(dim=-1) / normalizer.size.unsqueeze(-1)
    within: Tensor = distance < threshold
    return within & normalizer.labelled


def mean_errors(predicted: Tensor, truth: Tensor, normalizer: PCKNormalizer) -> Tensor:
    """Mean distance of each person's labelled joints from the ground truth, in reference lengths.

    Args:
        predicted: (N, J, 2) pixels of the original image.
        truth: (N, J, 2) pixels.
        normalizer: of the N people.
    """
    distance = (predicted.double() - truth.double()).norm(dim=-1) / normalizer.size.unsqueeze(-1)
    mean: Tensor = distance.where(normalizer.labelled, torch.nan).nanmean(dim=1)
    return mean


def compute_accuracy(hits: Tensor, normalizer: PCKNormalizer, skeleton: Skeleton, threshold: float) -> Accuracy:
    """Compute percentages of correct joints.

    Args:
        hits: (N, J) bool, from :func:`correct_joints`.
        normalizer: used for ``hits``.
        skeleton: says which joints are scored, and their groups.
        threshold: used for ``hits``.

    Returns:
        Percentages. Joints without any label are left out of the means (NaN where none is left).
    """
    correct = hits.sum(dim=0).double()
    count = normalizer.labelled.sum(dim=0).double()

    def mean_of(joints: Sequence[int]) -> float:
        present = [j for j in joints if count[j] > 0]
        return float((100 * correct[present] / count[present]).mean()) if present else float("nan")

    scored = list(skeleton.scored)
    total = float(count[scored].sum())
    return Accuracy(
        mean=mean_of(scored),
        by_count=100 * float(correct[scored].sum()) / total if total else float("nan"),
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
    """PCKh of predicted joints. All labelled joints count, including occluded ones.

    Args:
        predicted: (N, J, 2) pixels.
        truth: (N, J, 2) pixels.
        labelled: (N, J) bool.
        head_size: (N,) pixels, 0.6 × the diagonal of the head box.
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
    """PCK of predicted joints by torso size. People whose torso is not labelled are left out.

    Args:
        predicted: (N, J, 2) pixels.
        truth: (N, J, 2) pixels.
        labelled: (N, J) bool.
        torso: indices of the two joints at its ends.
        skeleton: says which joints are scored, and their groups.
        threshold: fraction of the torso.
    """
    normalizer = torso_normalizer(truth, labelled, torso)
    return compute_accuracy(correct_joints(predicted, truth, normalizer, threshold), normalizer, skeleton, threshold)


@dataclass(frozen=True)
class Interval:
    """95 % bootstrap intervals of both means, each (low, high); NaN where nobody has a scored joint."""

    mean: tuple[float, float]
    by_count: tuple[float, float]


def bootstrap_intervals(
    hits: Sequence[Tensor], labelled: Tensor, skeleton: Skeleton, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Confidence intervals of the means: percentile bootstrap over people (Efron 1979).

    People are resampled with replacement, and both means are computed from each sample. All results use the same
    samples.

    Args:
        hits: (N, J) bool each, from :func:`correct_joints`, all with the same normalizer.
        labelled: (N, J) bool, from the normalizer.
        skeleton: says which joints are scored.
        resamples: number of samples.
        seed: of the samples.

    Returns:
        One interval for each of ``hits``.
    """
    scored = list(skeleton.scored)
    # People without a joint that counts are not sampled.
    counted = labelled.any(dim=1)
    count = labelled[counted][:, scored].double().cpu().numpy()
    correct = np.stack([one[counted][:, scored].double().cpu().numpy() for one in hits])
    results, people, joints = correct.shape
    if not count.any():
        nan = (float("nan"), float("nan"))
        return [Interval(nan, nan)] * results
    columns = np.concatenate([correct.transpose(1, 0, 2).reshape(people, -1), count], axis=1)
    rng = np.random.default_rng(seed)
    means, by_counts = [], []
    for start in range(0, resamples, step := max(1, _CHUNK // people)):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, people, (rows, people)) + people * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * people).reshape(rows, people)
        sums = (times.astype(np.float64) @ columns).reshape(rows, results + 1, joints)
        right, of = sums[:, :results], sums[:, results:]  # (rows, results, joints), (rows, 1, joints)
        # As in compute_accuracy(): a joint that no drawn person has is left out of the mean.
        share = np.divide(right, of, out=np.zeros_like(right), where=of > 0)
        means.append(100 * share.sum(-1) / np.maximum((of > 0).sum(-1), 1))
        by_counts.append(100 * right.sum(-1) / np.maximum(of.sum(-1), 1))
    percentiles = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    bounds = (
        [(low, high) for low, high in np.percentile(np.concatenate(parts), percentiles, axis=0).T.tolist()]
        for parts in (means, by_counts)
    )
    return [Interval(*both) for both in zip(*bounds, strict=True)]


@dataclass(frozen=True)
class Score:
    """An accuracy and its confidence interval."""

    accuracy: Accuracy
    interval: Interval


def score_predictions(
    predicted: Sequence[Tensor],
    truth: Tensor,
    normalizer: PCKNormalizer,
    skeleton: Skeleton,
    thresholds: Sequence[float],
) -> list[list[Score]]:
    """Compute accuracies and confidence intervals of several predictions of the same people.

    Args:
        predicted: (N, J, 2) pixels each.
        truth: (N, J, 2) pixels.
        normalizer: of the N people.
        skeleton: says which joints are scored, and their groups.
        thresholds: fractions of the reference length.

    Returns:
        For each threshold, one score per prediction.
    """
    hits = [[correct_joints(one, truth, normalizer, threshold) for one in predicted] for threshold in thresholds]
    intervals = iter(bootstrap_intervals([one for row in hits for one in row], normalizer.labelled, skeleton))
    return [
        [Score(compute_accuracy(one, normalizer, skeleton, threshold), next(intervals)) for one in row]
        for threshold, row in zip(thresholds, hits, strict=True)
    ]
