"""An architecture as a value: immutable, canonical, serializable as JSON, with a stable id.

Different descriptions of the same network are equal and have the same id: construction drops whatever has no effect
(the junction of a single stack, options at their defaults).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nas.architecture.blocks import Option, block_class, block_options, canonical_kind, simplest

JUNCTIONS = ("add", "resconcat", "dense")
STEMS = ("7x7", "patchify")


def round_channels(channels: float) -> int:
    """Round to a multiple of 4, at least 4, on which every block family can be built."""
    return max(4, 4 * round(channels / 4))


@dataclass(frozen=True)
class BlockChoice:
    """A block family and its options, such as ``BlockChoice.of("separable", dilation=2)``.

    Attributes:
        kind: registered name, or ``module:Class``.
        options: (name, value) pairs that differ from the block's defaults, sorted by name.

    Raises:
        ValueError: unknown block or option, or a value of the wrong type.
    """

    kind: str = "bottleneck"
    options: tuple[tuple[str, Option], ...] = ()

    def __post_init__(self) -> None:
        block_class(self.kind)
        object.__setattr__(self, "kind", canonical_kind(self.kind))
        defaults = block_options(self.kind)
        changed: dict[str, Option] = {}
        for name, value in self.options:
            if name not in defaults:
                allowed = ", ".join(defaults) or "none"
                raise ValueError(f"block {self.kind!r} has no option {name!r}; its options: {allowed}")
            value = _check_type(defaults[name], value, f"block {self.kind!r}, option {name!r}")
            if isinstance(value, tuple):
                value = tuple(sorted(value))  # parallel branches, whose order has no effect
            if value != defaults[name]:
                changed[name] = value
        object.__setattr__(self, "options", tuple(sorted(changed.items())))

    @classmethod
    def of(cls, kind: str, **options: Option) -> BlockChoice:
        """A block with some of its options set.

        Raises:
            ValueError: the block does not have an option.
        """
        return cls(kind, tuple(options.items()))

    @classmethod
    def using(cls, kind: str, options: Mapping[str, Option]) -> BlockChoice:
        """A block with those of the options that it has; others are ignored: a flat space has options of all blocks."""
        return cls(kind, tuple((name, value) for name, value in options.items() if name in block_options(kind)))

    def __str__(self) -> str:
        if not self.options:
            return self.kind
        return f"{self.kind}({', '.join(f'{k}={_format_option(v)}' for k, v in self.options)})"

    def simplest(self, shapes: Sequence[tuple[int, int]]) -> BlockChoice:
        """The canonical form that builds the same networks at these (in_channels, width)."""
        kind, options = simplest(self.kind, dict(self.options), shapes)
        return BlockChoice(kind, tuple(options.items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and TOML."""
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in self.options}}

    @classmethod
    def from_dict(cls, raw: str | Mapping[str, Any]) -> BlockChoice:
        """Read ``"separable"`` or ``{"kind": "separable", "dilation": 2}``.

        Raises:
            ValueError: anything else.
        """
        if isinstance(raw, str):
            return cls(raw)
        options = dict(raw) if isinstance(raw, Mapping) else {}
        kind = options.pop("kind", None)
        if not isinstance(kind, str):
            raise ValueError(f"a block is a name or a table with a `kind`, not {raw!r}")
        return cls(kind, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items()))


@dataclass(frozen=True)
class Architecture:
    """One stacked hourglass network.

    Attributes:
        stem: channels after the first convolution; the trunk's first residual blocks have inner width ``stem``.
        width: inner width of the hourglass blocks; maps have F = 2·width channels.
        stacks: number of hourglasses.
        depth: number of times that each hourglass halves its maps.
        block: in the hourglasses.
        trunk: block in the stem and after each hourglass.
        levels: empty, or instead of ``block`` one per level (``depth`` of them, finest first) and one for the neck.
        stem_kernel: "7x7", or "patchify" for 3×3; both have stride 2.
        junction: how an hourglass's output becomes the next one's input: "add", "resconcat", or "dense".
        reach: with "dense", number of earlier hourglasses that each one is connected to; 0 for all.
        narrow_res: whether the neck's output is added to the next hourglass's neck.

    Raises:
        ValueError: a value out of range, an unknown block or option.
    """

    stem: int = 64
    width: int = 128
    stacks: int = 2
    depth: int = 4
    block: BlockChoice = field(default_factory=BlockChoice)
    trunk: BlockChoice = field(default_factory=BlockChoice)
    levels: tuple[BlockChoice, ...] = ()
    stem_kernel: str = "7x7"
    junction: str = "add"
    reach: int = 0
    narrow_res: bool = False

    def __post_init__(self) -> None:
        for name, least in (("stem", 1), ("width", 1), ("stacks", 1), ("depth", 1), ("reach", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"architecture: {name} must be an integer of at least {least}, not {value!r}")
        if not isinstance(self.narrow_res, bool):
            raise ValueError(f"architecture: narrow_res must be true or false, not {self.narrow_res!r}")
        if self.junction not in JUNCTIONS:
            raise ValueError(f"architecture: junction must be one of {', '.join(JUNCTIONS)}, not {self.junction!r}")
        if self.stem_kernel not in STEMS:
            raise ValueError(f"architecture: stem_kernel must be one of {', '.join(STEMS)}, not {self.stem_kernel!r}")
        if self.levels and len(self.levels) != self.depth + 1:
            raise ValueError(
                f"architecture: levels needs {self.depth + 1} blocks (depth {self.depth} and the neck), "
                f"not {len(self.levels)}"
            )
        self._canonicalize()

    def _canonicalize(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        hourglass_shapes = [(self.features, self.width)]
        put("block", self.block.simplest(hourglass_shapes))
        put("levels", tuple(level.simplest(hourglass_shapes) for level in self.levels))
        put("trunk", self.trunk.simplest(self.trunk_shapes()))
        if self.levels:
            if len(set(self.levels)) == 1:
                put("block", self.levels[0])
                put("levels", ())
            else:
                put("block", BlockChoice())
        if self.junction != "dense":
            put("reach", 0)
        else:
            # The second hourglass has one earlier output in any case: up to two stacks, dense equals add.
            earlier = self.stacks - 1
            reach = earlier if self.reach == 0 else min(self.reach, earlier)
            put("reach", 0 if reach == earlier else reach)
            if reach <= 1:
                put("junction", "add")
                put("reach", 0)
        if self.stacks == 1:
            put("junction", "add")
            put("narrow_res", False)

    @property
    def features(self) -> int:
        """F, the number of channels between blocks."""
        return 2 * self.width

    def level_blocks(self) -> tuple[BlockChoice, ...]:
        """The block of each level, finest first, and of the neck: ``depth`` + 1 of them."""
        return self.levels or (self.block,) * (self.depth + 1)

    def trunk_shapes(self) -> list[tuple[int, int]]:
        """(in_channels, width) of the trunk's blocks: three in the stem, and one after each hourglass."""
        # 2·stem → 4·stem → F reproduces the published parameter counts (at stem 48, no other even widths do).
        stem = self.stem
        return [(stem, stem), (2 * stem, 2 * stem), (4 * stem, self.width), (self.features, self.width)]

    def scaled(self, factor: float) -> Architecture:
        """The same structure with scaled channel widths, rounded to multiples of 4 (factor 1: unchanged)."""
        if factor == 1:
            return self
        return replace(self, stem=round_channels(self.stem * factor), width=round_channels(self.width * factor))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        raw: dict[str, Any] = {
            "stem": self.stem,
            "width": self.width,
            "stacks": self.stacks,
            "depth": self.depth,
            "trunk": self.trunk.to_dict(),
            "stem_kernel": self.stem_kernel,
            "junction": self.junction,
            "narrow_res": self.narrow_res,
        }
        if self.levels:
            raw["levels"] = [level.to_dict() for level in self.levels]
        else:
            raw["block"] = self.block.to_dict()
        if self.reach:
            raw["reach"] = self.reach
        return raw

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Architecture:
        """Inverse of :meth:`to_dict`; missing keys take their defaults.

        Raises:
            ValueError: an unknown key or a bad value.
        """
        if not isinstance(raw, Mapping):
            raise ValueError(f"architecture: expected a table, not {raw!r}")
        values = dict(raw)
        allowed = set(cls.__dataclass_fields__)
        for key in values:
            if key not in allowed:
                raise ValueError(f"architecture: unknown key {key!r}; allowed: {', '.join(sorted(allowed))}")
        for key in ("block", "trunk"):
            if key in values:
                values[key] = BlockChoice.from_dict(values[key])
        if "levels" in values:
            if not isinstance(values["levels"], list | tuple):
                raise ValueError(f"architecture: levels must be a list of blocks, not {values['levels']!r}")
            values["levels"] = tuple(BlockChoice.from_dict(level) for level in values["levels"])
        return cls(**values)

    def to_json(self) -> str:
        """Canonical JSON, equal for equal architectures."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Inverse of :meth:`to_json`."""
        return cls.from_dict(json.loads(text))

    @property
    def id(self) -> str:
        """Ten hexadecimal digits that identify the architecture, the same on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:10]

    def __str__(self) -> str:
        blocks = "/".join(map(str, self.levels)) if self.levels else str(self.block)
        parts = [f"{self.stacks}×{blocks}", f"width {self.width}", f"stem {self.stem}"]
        if self.trunk != self.block or self.levels:
            parts.append(f"trunk {self.trunk}")
        if self.stem_kernel != "7x7":
            parts.append(self.stem_kernel)
        if self.depth != 4:
            parts.append(f"depth {self.depth}")
        if self.junction != "add":
            parts.append(self.junction + (f" reach {self.reach}" if self.reach else ""))
        if self.narrow_res:
            parts.append("NarrowRes")
        return ", ".join(parts)


def _format_option(value: Option) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_type(default: Option, value: Option, where: str) -> Option:
    """Return ``value`` if it has the type of the default.

    Raises:
        ValueError: it has another type.
    """
    if isinstance(default, tuple):
        if not isinstance(value, tuple) or not value or any(type(v) is not int or v < 1 for v in value):
            raise ValueError(f"{where}: expected a list of integers of at least 1, not {value!r}")
    elif type(default) is int:
        if type(value) is not int or value < 1:
            raise ValueError(f"{where}: expected an integer of at least 1, not {value!r}")
    elif type(value) is not type(default):
        raise ValueError(f"{where}: expected {type(default).__name__}, not {value!r}")
    return value
