"""What a network is trained to minimise, as a value and as a function.

Intermediate supervision: Newell et al. 2016, section 3.2. Perceptual loss: Samadh & Al Khatib (arXiv 2302.04815).
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
    """Weights of the terms: total = λ · (α · Σ wᵢ · heatmap lossᵢ + (1 − α) · perceptual).

    Attributes:
        weights: one weight per hourglass, or empty for 1 everywhere; 0 leaves an hourglass unsupervised, which the
            last one cannot be.
        alpha: α; 1 leaves the perceptual loss out.
        scale: λ.
        perceptual: how consecutive necks are compared: "mse", or "kl" (Kullback–Leibler divergence between
            their softmaxes over positions, the later neck being the target).

    Raises:
        ValueError: a value out of range.
    """

    weights: tuple[float, ...] = ()
    alpha: float = 1.0
    scale: float = 1.0
    perceptual: str = "mse"

    def __post_init__(self) -> None:
        good = all(0 <= w < math.inf for w in self.weights)
        if not good or (self.weights and self.weights[-1] == 0):
            raise ValueError(f"losses: weights must not be negative, and the last one not zero: {self.weights}")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"losses: alpha must be above 0 and at most 1, not {self.alpha}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"losses: scale must be above 0 and finite, not {self.scale}")
        if self.perceptual not in PERCEPTUAL:
            raise ValueError(f"losses: perceptual must be one of {', '.join(PERCEPTUAL)}, not {self.perceptual!r}")
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        object.__setattr__(self, "alpha", float(self.alpha))  # 1 and 1.0 are one value, and have one id
        object.__setattr__(self, "scale", float(self.scale))
        if self.alpha == 1:
            object.__setattr__(self, "perceptual", "mse")

    def of_stacks(self, stacks: int) -> Losses:
        """The canonical form for a network of so many hourglasses: what has no effect on it is dropped.

        Raises:
            ValueError: there are weights, but not one per hourglass.
        """
        if self.weights and len(self.weights) != stacks:
            raise ValueError(f"losses: {len(self.weights)} weights for {stacks} hourglasses")
        weights = () if all(w == 1 for w in self.weights) else self.weights
        if stacks == 1:
            # One hourglass has no pair of necks, and its single weight is a scale of the whole.
            return Losses()
        return Losses(weights, self.alpha, self.scale, self.perceptual)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` gives equal losses."""
        return {
            "weights": list(self.weights),
            "alpha": self.alpha,
            "scale": self.scale,
            "perceptual": self.perceptual,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Losses:
        """Read plain values. Raises ValueError on an unknown key or a bad value."""
        for key in raw:
            if key not in cls.__dataclass_fields__:
                raise ValueError(f"losses: unknown key {key!r}; allowed: {', '.join(cls.__dataclass_fields__)}")
        values: dict[str, Any] = {**raw, "weights": tuple(raw.get("weights", ()))}
        return cls(**values)

    @property
    def id(self) -> str:
        """Six hexadecimal digits, the same on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:6]


def heatmap_loss(predicted: Tensor, target: Tensor, labelled: Tensor, kind: HeatmapLoss) -> Tensor:
    """Loss of one hourglass, summed over the cells of a map and averaged over the labelled joints.

    A sum over cells, not a mean: averaged over the cells, the gradients of a 64×64 map come near Adam's epsilon and
    the network collapses to zero maps.

    Args:
        predicted: (N, J, H, W) raw network output.
        target: (N, J, H, W) Gaussians of height 1.
        labelled: (N, J) bool; other joints do not count.
        kind: "mse", the papers' loss; "cross_entropy" reads a map as logits of the joint's position.
    """
    predicted = predicted.float()
    if kind == "mse":
        each = (predicted - target).square().sum(dim=(2, 3))
    else:
        wanted = target / target.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
        each = -(wanted.flatten(2) * F.log_softmax(predicted.flatten(2), dim=-1)).sum(dim=-1)
    return (each * labelled).sum() / labelled.sum().clamp_min(1)


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
    """The scalar to minimise: λ · (α · Σ wᵢ · heatmap lossᵢ + (1 − α) · perceptual)."""
    weights = losses.weights or (1.0,) * len(output.heatmaps)
    total = target.new_zeros(())
    for weight, heatmaps in zip(weights, output.heatmaps, strict=True):
        if weight:
            total = total + weight * heatmap_loss(heatmaps, target, labelled, kind)
    if losses.alpha < 1:
        total = losses.alpha * total + (1 - losses.alpha) * perceptual_loss(output.necks, losses.perceptual)
    return losses.scale * total


def as_maps(raw: Tensor, kind: HeatmapLoss) -> Tensor:
    """Network output → maps that can be averaged and decoded: probabilities where it was trained as logits."""
    if kind == "mse":
        return raw.float()
    return F.softmax(raw.float().flatten(2), dim=-1).view_as(raw)
