"""A learning curve as a small SVG picture: text and lines, drawn in no time, sharp at any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nas.console import format_count

_WIDTH, _HEIGHT = 360, 220  # pixels of one plot
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 30, 38
_BLUE, _GREY, _INK = "#0072B2", "#D9D9D9", "#222222"


def learning_curve(history: Sequence[Mapping[str, Any]]) -> str:
    """PCKh and loss against pictures trained on, side by side.

    Args:
        history: a record an epoch, as :class:`nas.training.loop.Trained` has them; at least one.

    Returns:
        an SVG file's text.
    """
    measured = [(h["images"], h["pckh"]) for h in history if "pckh" in h]
    plots: list[tuple[str, list[tuple[int, float]], float | None]] = []
    if measured:
        plots.append(("PCKh of held-out people", measured, 0.0))
    plots.append(("loss, mean of each epoch", [(h["images"], h["loss"]) for h in history], None))
    most = max(h["images"] for h in history)
    body = "".join(_plot(place * _WIDTH, *plot, most) for place, plot in enumerate(plots))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH * len(plots)}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH * len(plots)} {_HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="11" '
        f'fill="{_INK}"><rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _plot(offset: int, title: str, points: Sequence[tuple[int, float]], floor: float | None, most: int) -> str:
    values = [value for _, value in points]
    low, high = min(values) if floor is None else floor, max(values)
    step = _step((high - low) / 4)
    low, high = step * (low // step), step * -(-high // step)
    high = high if high > low else low + step
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(images: float) -> float:
        return offset + _LEFT + wide * images / most

    def y(value: float) -> float:
        return _TOP + tall * (high - value) / (high - low)

    parts = [f'<text x="{offset + 12}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>']
    for tick in range(round((high - low) / step) + 1):
        value = low + tick * step
        parts.append(f'<path d="M{x(0):.1f} {y(value):.1f}H{x(most):.1f}" stroke="{_GREY}"/>')
        parts.append(f'<text x="{x(0) - 6:.1f}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for images in (0, most / 2, most):
        anchor = "end" if images == most else "middle"
        parts.append(
            f'<text x="{x(images):.1f}" y="{_HEIGHT - 22}" text-anchor="{anchor}">{format_count(images)}</text>'
        )
    parts.append(f'<text x="{x(most / 2):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">pictures</text>')
    line = " ".join(f"{x(images):.1f},{y(value):.1f}" for images, value in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_BLUE}" stroke-width="2"/>')
    parts += [f'<circle cx="{x(i):.1f}" cy="{y(v):.1f}" r="3" fill="{_BLUE}"/>' for i, v in points]
    last = points[-1]
    above = -8 if y(last[1]) > _TOP + 14 else 16
    parts.append(
        f'<text x="{x(last[0]):.1f}" y="{y(last[1]) + above:.1f}" text-anchor="end" font-weight="bold">'
        f"{last[1]:.3g}</text>"
    )
    return "".join(parts)


def _step(least: float) -> float:
    """The smallest of 1, 2, 5 and their tenfolds that is not below."""
    power = 1e-6
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10
