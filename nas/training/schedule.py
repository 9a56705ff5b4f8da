"""How long and how a network is trained, as a value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from nas.data.augmentation import Augmentation
from nas.training.heatmaps import Decoder
from nas.training.losses import HeatmapLoss

Optimizer = Literal["adamw", "rmsprop"]
Anneal = Literal["cosine", "steps"]


@dataclass(frozen=True)
class ScheduleConfig:
    """Hyperparameters of a training run. The learning rate warms up and anneals to zero within its images.

    Attributes:
        images: shown in total (a person shown twice counts twice).
        epochs: number of equal parts of the schedule; a checkpoint is written after each one.
        batch: images per step.
        optimizer: "adamw", or "rmsprop" as in the papers.
        learning_rate: peak value.
        weight_decay: of the convolution weights.
        warmup: fraction of the steps in which the learning rate rises linearly.
        anneal: "cosine" to zero, or "steps": a tenth after 3/4 and a hundredth after 17/20 (epochs 15 and 17 of
            20 in Asokan et al.).
        ema: horizon of the averaged weights, which are evaluated, as a fraction of the steps; 0 for the last weights.
        clip: largest norm of the gradient; 0 for no limit.
        sigma: standard deviation of the targets, in heatmap cells.
        loss: heatmap loss, "mse" or "cross_entropy".
        decoder: "dark" or "quarter".
        augmentation: of the training images.

    Raises:
        ValueError: a value out of range.
    """

    images: int
    epochs: int = 8
    batch: int = 16
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    anneal: Anneal = "cosine"
    ema: float = 0.05
    clip: float = 1.0
    sigma: float = 1.0
    loss: HeatmapLoss = "mse"
    decoder: Decoder = "dark"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        def check(valid: bool, message: str) -> None:
            if not valid:
                raise ValueError(f"schedule: {message}")

        check(self.batch >= 1, f"batch must be at least 1, not {self.batch}")
        check(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        check(
            self.images >= self.batch * self.epochs,
            f"images ({self.images}) must be at least epochs × batch ({self.epochs} × {self.batch})",
        )
        for name, kinds in (("optimizer", Optimizer), ("anneal", Anneal), ("loss", HeatmapLoss), ("decoder", Decoder)):
            value, allowed = getattr(self, name), get_args(kinds)
            check(value in allowed, f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        check(self.learning_rate > 0, f"learning_rate must be above 0, not {self.learning_rate}")
        check(0 <= self.warmup < 1, f"warmup must be from 0 to below 1, not {self.warmup}")
        check(0 <= self.ema < 1, f"ema must be from 0 to below 1, not {self.ema}")
        check(self.sigma > 0, f"sigma must be above 0, not {self.sigma}")
        check(self.clip >= 0, f"clip must not be negative, not {self.clip}")
        check(self.weight_decay >= 0, f"weight_decay must not be negative, not {self.weight_decay}")
        for name in ("learning_rate", "weight_decay", "warmup", "ema", "clip", "sigma"):
            check(math.isfinite(getattr(self, name)), f"{name} must be a finite number, not {getattr(self, name)}")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return self.images // (self.batch * self.epochs)

    @property
    def steps(self) -> int:
        """Optimizer steps in total."""
        return self.steps_per_epoch * self.epochs

    def lr_factor(self, step: int) -> float:
        """Learning rate of a step (0-based), as a fraction of the peak."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        if self.anneal == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))
        done = step / self.steps
        return 1.0 if done < 0.75 else 0.1 if done < 0.85 else 0.01

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ScheduleConfig:
        """Inverse of :meth:`to_dict`."""
        values = dict(raw)
        values["augmentation"] = Augmentation(**values.get("augmentation", {}))
        return cls(**values)

    def longer(self, factor: float) -> ScheduleConfig:
        """The same schedule over ``factor`` times as many images."""
        return replace(self, images=round(self.images * factor))
