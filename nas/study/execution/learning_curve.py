"""Learning curves as small SVG images, written as text without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nas.console import format_count

_WIDTH, _HEIGHT = 360, 220  # pixels of one plot
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 30, 38  # margins
_BLUE, _GREY, _BLACK = "#0072B2", "#D9D9D9", "#222222"


def learning_curve(history: Sequence[Mapping[str, Any]]) -> str:
    """Plot PCKh and loss against the number of images trained on, side by side.

    Args:
        history: of a :class:`~nas.training.loop.TrainingResult`, with at least one epoch.

    Returns:
        the text of an SVG file.
    """
    pckh = [(epoch["images"], epoch["pckh"]) for epoch in history if "pckh" in epoch]
    loss = [(epoch["images"], epoch["loss"]) for epoch in history]
    images = max(epoch["images"] for epoch in history)
    plots: list[tuple[str, list[tuple[int, float]], float | None]] = []
    if pckh:
        plots.append(("PCKh of held-out people", pckh, 0.0))
    plots.append(("loss, mean of each epoch", loss, None))
    body = "".join(_plot(index * _WIDTH, *plot, images) for index, plot in enumerate(plots))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH * len(plots)}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH * len(plots)} {_HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="11" '
        f'fill="{_BLACK}"><rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _plot(left: int, title: str, points: Sequence[tuple[int, float]], minimum: float | None, max_images: int) -> str:
    """One plot.

    Args:
        left: pixels left of the plot.
        title: above it.
        points: (images, value), in order.
        minimum: where the vertical axis starts; None for the smallest value.
        max_images: where the horizontal axis ends.
    """
    values = [value for _, value in points]
    low, high = min(values) if minimum is None else minimum, max(values)
    step = _tick_step((high - low) / 4)
    low, high = step * (low // step), step * -(-high // step)
    high = high if high > low else low + step
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(images: float) -> float:
        return left + _LEFT + width * images / max_images

    def y(value: float) -> float:
        return _TOP + height * (high - value) / (high - low)

    parts = [f'<text x="{left + 12}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>']
    for tick in range(round((high - low) / step) + 1):
        value = low + tick * step
        parts.append(f'<path d="M{x(0):.1f} {y(value):.1f}H{x(max_images):.1f}" stroke="{_GREY}"/>')
        parts.append(f'<text x="{x(0) - 6:.1f}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for images in (0, max_images / 2, max_images):
        anchor = "end" if images == max_images else "middle"
        parts.append(
            f'<text x="{x(images):.1f}" y="{_HEIGHT - 22}" text-anchor="{anchor}">{format_count(images)}</text>'
        )
    parts.append(f'<text x="{x(max_images / 2):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">images</text>')
    line = " ".join(f"{x(images):.1f},{y(value):.1f}" for images, value in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_BLUE}" stroke-width="2"/>')
    parts += [f'<circle cx="{x(images):.1f}" cy="{y(value):.1f}" r="3" fill="{_BLUE}"/>' for images, value in points]
    last_images, last_value = points[-1]
    label_offset = -8 if y(last_value) > _TOP + 14 else 16
    parts.append(
        f'<text x="{x(last_images):.1f}" y="{y(last_value) + label_offset:.1f}" text-anchor="end" font-weight="bold">'
        f"{last_value:.3g}</text>"
    )
    return "".join(parts)


def _tick_step(minimum: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, … × 10⁻⁶ that is not below ``minimum``."""
    assert math.isfinite(minimum), "an infinite axis has no ticks"
    power = 1e-6
    while True:
        for factor in (1, 2, 5):
            if factor * power >= minimum:
                return factor * power
        power *= 10
