"""An architecture in words: what stands where."""

from __future__ import annotations

from nas.architecture.hourglass import STRIDE
from nas.architecture.spec import Architecture


def structure(a: Architecture, joints: int, input_size: int) -> list[str]:
    """What stands where in a network, a line for each thing.

    Args:
        a: the network.
        joints: J.
        input_size: H = W of its pictures.
    """
    features = a.features
    kernel = {"7x7": "7×7", "patchify": "3×3"}[a.stem_kernel]
    side = input_size // STRIDE
    stem = [f"{kernel} convolution of stride 2, 3 → {a.stem}"]
    for place, (inside, width) in enumerate(a.trunk_shapes()[:3]):
        stem += ["2×2 max pool"] if place == 1 else []
        stem.append(f"{a.trunk} {inside} → {2 * width}")
    lines = [f"stem: {'; '.join(stem)}"]
    several = "hourglasses" if a.stacks > 1 else "hourglass"
    each = f"{3 * a.depth + 1} blocks {features} → {features} (inner width {a.width})"
    lines.append(f"{a.stacks} {several} of depth {a.depth}, {each}:")
    sides = [side >> level for level in range(a.depth + 1)]
    for place, (block, size) in enumerate(zip(a.level_blocks(), sides, strict=True)):
        if place < a.depth:
            lines.append(f"  level {place + 1}, {size}×{size} and {size // 2}×{size // 2}: {block}")
        else:
            lines.append(f"  neck, {size}×{size}: {block}")
    lines.append(
        f"head after each: {a.trunk}; 1×1, BN, ReLU: {features} features y; 1×1: {joints} heatmaps s of {side}×{side}"
    )
    return [*lines, *_between(a)]


def _between(a: Architecture) -> list[str]:
    if a.stacks == 1:
        return []
    reach = f"the last {a.reach}" if a.reach else "all"
    meet = {
        "add": "add: x + 1×1(y) + 1×1(s)",
        "resconcat": "ResConcat: x + 1×1(s) concatenated with 1×1(y), and a 1×1 that all junctions share",
        "dense": f"dense: x + 1×1(y) + 1×1(s), of {reach} earlier hourglasses concatenated, and a 1×1",
    }
    lines = [f"junction: {meet[a.junction]}"]
    if a.narrow_res:
        lines.append("NarrowRes: the neck's output is added to the next hourglass's")
    return lines


def diagram(a: Architecture, joints: int, input_size: int) -> list[str]:
    """A sketch of a network in lines of text: the maps' sides as an hourglass, narrow at the neck.

    Args:
        a: the network.
        joints: J.
        input_size: H = W of its pictures.
    """
    side = input_size // STRIDE
    sizes = [f"{side >> level}×{side >> level}" for level in range(a.depth + 1)]
    column = max(map(len, sizes))
    times = f", {a.stacks} of these in a row" if a.stacks > 1 else ""
    rows = [(f"{'':{column}}  picture {input_size}×{input_size} → stem", a.trunk)]
    for level, (size, block) in enumerate(zip(sizes, a.level_blocks(), strict=True)):
        arms = "■" if level == a.depth else f"■{'─' * (4 * (a.depth - level) + 1)}■"
        rows.append((f"{size:>{column}}  {' ' * (2 * level)}{arms}", block))
    rows.append((f"{'':{column}}  → {joints} heatmaps{times}", a.trunk))
    width = max(len(text) for text, _ in rows)
    return [f"{text:<{width}}  {block}" for text, block in rows]
