"""PCKh: the share of joints found within a fraction of the head's size (Andriluka et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nas.data.people import Skeleton


@dataclass(frozen=True)
class Accuracy:
    """Percentages at one threshold.

    Attributes:
        mean: over the scored joints, each joint weighted equally: the objective, and what papers print.
        by_count: over all labelled scored joints: joints that are labelled more often weigh more.
        groups: per joint group (head, shoulder, …), its joints weighted equally.
        threshold: fraction of the head size within which a joint counts as found.
        people: number of people.
    """

    mean: float
    by_count: float
    groups: dict[str, float]
    threshold: float
    people: int


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

    Returns:
        Percentages. A joint that nobody has labelled is left out of the means (nan where none is left).
    """
    distance = (predicted.double() - truth.double()).norm(dim=-1) / head_size.double().unsqueeze(-1)
    found = ((distance < threshold) & labelled).sum(dim=0).double()
    count = labelled.sum(dim=0).double()

    def mean_of(joints: tuple[int, ...]) -> float:
        seen = [j for j in joints if count[j] > 0]
        return float((100 * found[seen] / count[seen]).mean()) if seen else float("nan")

    scored = list(skeleton.scored)
    total = float(count[scored].sum())
    return Accuracy(
        mean=mean_of(skeleton.scored),
        by_count=100 * float(found[scored].sum()) / total if total else float("nan"),
        groups={name: mean_of(joints) for name, joints in skeleton.groups.items()},
        threshold=threshold,
        people=len(labelled),
    )
