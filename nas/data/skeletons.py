"""Skeletons: the joints of annotation schemes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Skeleton:
    """The joints of an annotation scheme.

    Attributes:
        name: of the scheme ("mpii", "lsp", …).
        joints: name of each joint, in storage order; J of them.
        flip_pairs: index pairs that are swapped when an image is mirrored.
        limbs: index pairs to draw as lines.
        groups: group name → joint indices; accuracy is reported per group, and the mean is over the joints of all
            groups. A joint in no group is trained but not scored (MPII: pelvis, thorax).
        torso: the two joints whose distance is the torso PCK's normalizer; None if that metric is not used.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    groups: Mapping[str, tuple[int, ...]] = field(hash=False)
    torso: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", MappingProxyType({k: tuple(v) for k, v in self.groups.items()}))
        paired = [joint for pair in self.flip_pairs for joint in pair]
        if len(set(paired)) != len(paired):
            raise ValueError(f"skeleton {self.name}: a joint is in two flip pairs")
        used = [*paired, *(j for limb in self.limbs for j in limb), *(j for g in self.groups.values() for j in g)]
        used += self.torso or ()
        if any(not 0 <= j < len(self.joints) for j in used):
            raise ValueError(f"skeleton {self.name}: a joint index is outside 0..{len(self.joints) - 1}")

    def __reduce__(self) -> tuple[object, ...]:
        return Skeleton.from_json, (self.to_json(),)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Permutation of the J joints that undoes mirroring: ``mirrored[flip_order[j]]`` is joint j."""
        order = list(range(len(self.joints)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return tuple(order)

    @property
    def scored(self) -> tuple[int, ...]:
        """Indices of the joints that count in the mean, ascending."""
        return tuple(sorted({j for group in self.groups.values() for j in group}))

    def to_json(self) -> str:
        """Serialise to JSON; :meth:`from_json` is the inverse."""
        raw: dict[str, object] = {
            "name": self.name,
            "joints": self.joints,
            "flip_pairs": self.flip_pairs,
            "limbs": self.limbs,
            "groups": dict(self.groups),
        }
        if self.torso:  # only then: the text is part of the checksums of packed files older than this field
            raw["torso"] = self.torso
        return json.dumps(raw)

    @classmethod
    def from_json(cls, text: str) -> Skeleton:
        """Parse the result of :meth:`to_json`; raises KeyError, TypeError or ValueError on anything else."""
        raw = json.loads(text)
        return cls(
            name=str(raw["name"]),
            joints=tuple(str(j) for j in raw["joints"]),
            flip_pairs=tuple((int(a), int(b)) for a, b in raw["flip_pairs"]),
            limbs=tuple((int(a), int(b)) for a, b in raw["limbs"]),
            groups={str(k): tuple(int(j) for j in v) for k, v in raw["groups"].items()},
            torso=(int(raw["torso"][0]), int(raw["torso"][1])) if raw.get("torso") else None,
        )


MPII = Skeleton(
    name="mpii",
    joints=(
        "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle",
        "pelvis", "thorax", "upper neck", "head top",
        "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    limbs=(
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9),
        (10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15),
    ),
    groups={
        "head": (8, 9), "shoulder": (12, 13), "elbow": (11, 14), "wrist": (10, 15),
        "hip": (2, 3), "knee": (1, 4), "ankle": (0, 5),
    },
)  # fmt: skip

LSP = Skeleton(
    name="lsp",
    joints=(
        "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle",
        "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist",
        "neck", "head top",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    limbs=(
        (0, 1), (1, 2), (2, 8), (8, 12), (3, 4), (4, 5), (3, 9), (9, 12), (2, 3),
        (6, 7), (7, 8), (9, 10), (10, 11), (12, 13),
    ),
    groups={
        "head": (12, 13), "shoulder": (8, 9), "elbow": (7, 10), "wrist": (6, 11),
        "hip": (2, 3), "knee": (1, 4), "ankle": (0, 5),
    },
    torso=(9, 2),
)  # fmt: skip

# In the order of the hourglass code's HDF5. The literature reports elbows and wrists, at 0.2 of the torso.
FLIC = Skeleton(
    name="flic",
    joints=(
        "left shoulder", "left elbow", "left wrist", "right shoulder", "right elbow", "right wrist",
        "left hip", "right hip", "left eye", "right eye", "nose",
    ),
    flip_pairs=((0, 3), (1, 4), (2, 5), (6, 7), (8, 9)),
    limbs=((0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (0, 6), (3, 7), (6, 7), (8, 10), (9, 10)),
    groups={"face": (8, 9, 10), "shoulder": (0, 3), "elbow": (1, 4), "wrist": (2, 5), "hip": (6, 7)},
    torso=(3, 6),
)  # fmt: skip
