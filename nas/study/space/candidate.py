"""What a trial tries: an architecture and the losses that it is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nas.architecture.spec import Architecture
from nas.training.losses import Losses


@dataclass(frozen=True)
class Candidate:
    """An architecture and its losses, both canonical; equal candidates have equal ids."""

    architecture: Architecture
    losses: Losses = field(default_factory=Losses)

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", self.losses.of_stacks(self.architecture.stacks))

    @cached_property
    def id(self) -> str:
        """Architecture id, a dash, losses id."""
        return f"{self.architecture.id}-{self.losses.id}"

    def __str__(self) -> str:
        text = str(self.architecture)
        losses = self.losses
        if losses.weights:
            text += f", weights {':'.join(f'{w:.3g}' for w in losses.weights)}"
        if losses.alpha < 1:
            text += f", perceptual {losses.perceptual} α {losses.alpha:g} λ {losses.scale:g}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` gives an equal candidate."""
        return {"architecture": self.architecture.to_dict(), "losses": self.losses.to_dict()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Candidate:
        """Read what :meth:`to_dict` wrote. Raises ValueError on anything else."""
        for key in raw:
            if key not in ("architecture", "losses"):
                raise ValueError(f"candidate: unknown key {key!r}; allowed: architecture, losses")
        return cls(Architecture.from_dict(raw.get("architecture", {})), Losses.from_dict(raw.get("losses", {})))
