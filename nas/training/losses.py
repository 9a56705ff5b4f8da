"""Loss functions and their weights.

Intermediate supervision: Newell et al. 2016, section 3.2. Perceptual loss: Samadh & Al Khatib 2023 (arXiv 2302.04815).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.architecture.hourglass import Output

HeatmapLoss = Literal["mse", "cross_entropy"]
PERCEPTUAL = ("mse", "kl")


@dataclass(frozen=True)
class Losses:
    """Weights of the loss terms: total = λ · (α · Σ wᵢ · heatmap lossᵢ + (1 − α) · perceptual).

    Attributes:
        weights: wᵢ, one per hourglass, or empty for 1 everywhere; 0 leaves an hourglass without supervision, which is
            not possible for the last one.
        alpha: α; 1 for no perceptual loss.
        scale: λ.
        perceptual: comparison of consecutive necks: "mse", or "kl" (Kullback–Leibler divergence between
            their softmaxes over positions, the later neck being the target).

    Raises:
        ValueError: a value out of range.
    """

    weights: tuple[float, ...] = ()
    alpha: float = 1.0
    scale: float = 1.0
    perceptual: str = "mse"

    def __post_init__(self) -> None:
        valid = all(0 <= w < math.inf for w in self.weights)
        if not valid or (self.weights and self.weights[-1] == 0):
            raise ValueError(f"losses: weights must not be negative, and the last one not zero: {self.weights}")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"losses: alpha must be above 0 and at most 1, not {self.alpha}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"losses: scale must be above 0 and finite, not {self.scale}")
        if self.perceptual not in PERCEPTUAL:
            raise ValueError(f"losses: perceptual must be one of {', '.join(PERCEPTUAL)}, not {self.perceptual!r}")
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        object.__setattr__(self, "alpha", float(self.alpha))  # so that 1 and 1.0 have the same id
        object.__setattr__(self, "scale", float(self.scale))
        if self.alpha == 1:
            object.__setattr__(self, "perceptual", "mse")

    def of_stacks(self, stacks: int) -> Losses:
        """The canonical form for a number of hourglasses, without what has no effect.

        Raises:
            ValueError: the number of weights is not the number of hourglasses.
        """
        if self.weights and len(self.weights) != stacks:
            raise ValueError(f"losses: {len(self.weights)} weights for {stacks} hourglasses")
        weights = () if all(w == 1 for w in self.weights) else self.weights
        if stacks == 1:
            # There is no pair of necks, and a single weight only scales the loss.
            return Losses()
        return Losses(weights, self.alpha, self.scale, self.perceptual)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "weights": list(self.weights),
            "alpha": self.alpha,
            "scale": self.scale,
            "perceptual": self.perceptual,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Losses:
        """Inverse of :meth:`to_dict`; missing keys take their defaults.

        Raises:
            ValueError: an unknown key or a bad value.
        """
        for key in raw:
            if key not in cls.__dataclass_fields__:
                raise ValueError(f"losses: unknown key {key!r}; allowed: {', '.join(cls.__dataclass_fields__)}")
        values: dict[str, Any] = {**raw, "weights": tuple(raw.get("weights", ()))}
        return cls(**values)

    @property
    def id(self) -> str:
        """Six hexadecimal digits that identify the losses, the same on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:6]


def heatmap_loss(predicted: Tensor, target: Tensor, labelled: Tensor, kind: HeatmapLoss) -> Tensor:
    """Loss of one hourglass, summed over the cells of a map and averaged over the labelled joints.

    Not averaged over cells: the gradients of a 64×64 map would come near Adam's epsilon, and the network would collapse
    to zero maps.

    Args:
        predicted: (N, J, H, W) raw network output.
        target: (N, J, H, W) Gaussians of height 1.
        labelled: (N, J) bool; other joints are ignored.
        kind: "mse", the papers' loss; "cross_entropy" reads a map as logits of the joint's position.
    """
    predicted = predicted.float()
    if kind == "mse":
        joint_losses = (predicted - target).square().sum(dim=(2, 3))
    else:
        distribution = target / target.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
        joint_losses = -(distribution.flatten(2) * F.log_softmax(predicted.flatten(2), dim=-1)).sum(dim=-1)
    return (joint_losses * labelled).sum() / labelled.sum().clamp_min(1)


def perceptual_loss(necks: tuple[Tensor, ...], kind: str) -> Tensor:
    """Difference between the necks of consecutive hourglasses, summed over the pairs.

    Args:
        necks: (N, F, h, w) each.
        kind: "mse": mean squared error; "kl": divergence of each channel's softmax over positions.
    """
    total = necks[0].new_zeros((), dtype=torch.float32)
    for earlier, later in pairwise(necks):
        if kind == "mse":
            total = total + F.mse_loss(earlier.float(), later.float())
        else:
            p, q = (F.log_softmax(neck.float().flatten(2), dim=-1) for neck in (earlier, later))
            total = total + F.kl_div(p, q, reduction="none", log_target=True).sum(dim=-1).mean()
    return total


def total_loss(output: Output, target: Tensor, labelled: Tensor, losses: Losses, kind: HeatmapLoss) -> Tensor:
    """The training loss: λ · (α · Σ wᵢ · heatmap lossᵢ + (1 − α) · perceptual)."""
    weights = losses.weights or (1.0,) * len(output.heatmaps)
    total = target.new_zeros(())
    for weight, heatmaps in zip(weights, output.heatmaps, strict=True):
        if weight:
            total = total + weight * heatmap_loss(heatmaps, target, labelled, kind)
    if losses.alpha < 1:
        total = losses.alpha * total + (1 - losses.alpha) * perceptual_loss(output.necks, losses.perceptual)
    return losses.scale * total


def as_maps(raw: Tensor, kind: HeatmapLoss) -> Tensor:
    """Convert network output to heatmaps that can be averaged and decoded: of logits, the softmax over positions."""
    if kind == "mse":
        return raw.float()
    return F.softmax(raw.float().flatten(2), dim=-1).view_as(raw)
