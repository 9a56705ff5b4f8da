"""Text summaries of an architecture: a list of its parts, and a diagram."""

from __future__ import annotations

from nas.architecture.hourglass import STRIDE
from nas.architecture.spec import Architecture


def structure(a: Architecture, joints: int, input_size: int) -> list[str]:
    """List the parts of a network, one line each.

    Args:
        a: the architecture.
        joints: J.
        input_size: H = W of the images.
    """
    features = a.features
    kernel = {"7x7": "7×7", "patchify": "3×3"}[a.stem_kernel]
    side = input_size // STRIDE
    stem = [f"{kernel} convolution of stride 2, 3 → {a.stem}"]
    for index, (in_channels, width) in enumerate(a.trunk_shapes()[:3]):
        stem += ["2×2 max pool"] if index == 1 else []
        stem.append(f"{a.trunk} {in_channels} → {2 * width}")
    lines = [f"stem: {'; '.join(stem)}"]
    noun = "hourglasses" if a.stacks > 1 else "hourglass"
    blocks = f"{3 * a.depth + 1} blocks {features} → {features} (inner width {a.width})"
    lines.append(f"{a.stacks} {noun} of depth {a.depth}, {blocks}:")
    sides = [side >> level for level in range(a.depth + 1)]
    for level, (block, size) in enumerate(zip(a.level_blocks(), sides, strict=True)):
        if level < a.depth:
            lines.append(f"  level {level + 1}, {size}×{size} and {size // 2}×{size // 2}: {block}")
        else:
            lines.append(f"  neck, {size}×{size}: {block}")
    lines.append(
        f"head after each: {a.trunk}; 1×1, BN, ReLU: {features} features y; 1×1: {joints} heatmaps s of {side}×{side}"
    )
    return [*lines, *_junction_lines(a)]


def _junction_lines(a: Architecture) -> list[str]:
    if a.stacks == 1:
        return []
    reach = f"the last {a.reach}" if a.reach else "all"
    descriptions = {
        "add": "add: x + 1×1(y) + 1×1(s)",
        "resconcat": "ResConcat: x + 1×1(s) concatenated with 1×1(y), and a 1×1 that all junctions share",
        "dense": f"dense: x + 1×1(y) + 1×1(s), of {reach} earlier hourglasses concatenated, and a 1×1",
    }
    lines = [f"junction: {descriptions[a.junction]}"]
    if a.narrow_res:
        lines.append("NarrowRes: the neck's output is added to the next hourglass's")
    return lines


def diagram(a: Architecture, joints: int, input_size: int) -> list[str]:
    """Draw a network as text: one line per level, from the full resolution to the neck.

    Args:
        a: the architecture.
        joints: J.
        input_size: H = W of the images.
    """
    side = input_size // STRIDE
    sizes = [f"{side >> level}×{side >> level}" for level in range(a.depth + 1)]
    column = max(map(len, sizes))
    times = f", {a.stacks} of these in sequence" if a.stacks > 1 else ""
    rows = [(f"{'':{column}}  image {input_size}×{input_size} → stem", a.trunk)]
    for level, (size, block) in enumerate(zip(sizes, a.level_blocks(), strict=True)):
        arms = "■" if level == a.depth else f"■{'─' * (4 * (a.depth - level) + 1)}■"
        rows.append((f"{size:>{column}}  {' ' * (2 * level)}{arms}", block))
    rows.append((f"{'':{column}}  → {joints} heatmaps{times}", a.trunk))
    width = max(len(text) for text, _ in rows)
    return [f"{text:<{width}}  {block}" for text, block in rows]
