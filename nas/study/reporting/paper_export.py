"""A study's figures for a paper: one column wide, as PNG and SVG, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.console import format_count
from nas.errors import UserError
from nas.study.analysis.results import StudyResults
from nas.study.files import write_file
from nas.study.reporting.figure_series import (
    BLUE,
    GREY,
    ORANGE,
    CostAxis,
    FrontSeries,
    axis_label,
    label_offsets,
    log_ticks,
    percent,
    trained_in_both,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN_WIDTH = 3.35
"""Inches: the width of a column of a two-column paper."""
_STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "hourglass-nas",
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
}
_ERROR_BARS: Any = {"elinewidth": 0.6, "capsize": 1.2, "linestyle": "none"}


def write_figures(results: StudyResults, folder: Path) -> list[Path]:
    """Write all figures of a study as PNG (300 dpi) and SVG.

    Returns:
        the written files.

    Raises:
        UserError: matplotlib is not installed, no trial has finished, or the folder cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("--figures needs matplotlib; install it with `pip install -e '.[figures]'`") from error
    if not results.measured:
        raise UserError(f"study {results.name} has no finished trial yet; run `python -m nas.search`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--figures {folder}: cannot be made: {error.strerror}; choose another folder") from error
    written = []
    with matplotlib.rc_context(_STYLE):
        for name, (height, draw) in _figures(results).items():
            figure = Figure(figsize=(COLUMN_WIDTH, height))
            draw(figure.add_subplot())
            for suffix in ("png", "svg"):
                data = io.BytesIO()
                figure.savefig(data, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
                write_file(folder / f"{name}.{suffix}", data.getvalue(), "--figures")
                written.append(folder / f"{name}.{suffix}")
    return written


def _figures(results: StudyResults) -> dict[str, tuple[float, Callable[[Axes], None]]]:
    """File name → height in inches and a function that draws the figure."""
    figures: dict[str, tuple[float, Callable[[Axes], None]]] = {
        "front-params": (2.4, lambda axes: _draw_front(results, "params", axes)),
        "front-madds": (2.4, lambda axes: _draw_front(results, "madds", axes)),
        "history": (1.9, lambda axes: _draw_history(results, axes)),
    }
    if results.importance:
        figures["importance"] = (0.7 + 0.16 * len(results.importance), lambda axes: _draw_importance(results, axes))
    if len(trained_in_both(results)) > 1:
        figures["agreement"] = (2.4, lambda axes: _draw_rank_correlation(results, axes))
    return figures


def _draw_front(results: StudyResults, cost: CostAxis, axes: Axes) -> None:
    series = FrontSeries.of(results, cost)
    axes.plot(
        [getattr(m, cost) for m in series.dominated],
        [m.mean for m in series.dominated],
        "o",
        ms=2.5,
        mfc="none",
        mec=GREY,
        mew=0.5,
    )
    axes.step([x for x, _ in series.step_line], [y for _, y in series.step_line], where="post", color=BLUE, lw=0.8)
    axes.errorbar(
        [getattr(m, cost) for m in series.front],
        [m.mean for m in series.front],
        yerr=[results.error(m.number) for m in series.front],
        fmt="o",
        ms=3.5,
        color=BLUE,
        label="front",
        **_ERROR_BARS,
    )
    if series.published:
        _draw_published(results, series, axes)
    axes.set_xscale("log")
    ticks = log_ticks(series.costs, most=6)
    axes.set_xticks(ticks, [format_count(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(axis_label(results, cost))
    axes.set_ylabel("PCKh@0.5 (%)")


def _draw_published(results: StudyResults, series: FrontSeries, axes: Axes) -> None:
    points = [baseline.point for baseline in series.published]
    axes.errorbar(
        [getattr(p, series.axis) for p in points],
        [p.pckh for p in points],
        yerr=[results.error(p.number) for p in points],
        fmt="D",
        ms=4,
        mfc="white",
        color=ORANGE,
        label="published",
        **_ERROR_BARS,
    )
    offsets = label_offsets(results, series.axis, plot_size=(200.0, 125.0), letter_width=4.4)
    for baseline, (dx, dy) in zip(series.published, offsets, strict=True):
        axes.annotate(
            baseline.name,
            (getattr(baseline.point, series.axis), baseline.point.pckh),
            (dx, -dy),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": ORANGE, "shrinkA": 0, "shrinkB": 3},
        )
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handletextpad=0.3)


def _draw_history(results: StudyResults, axes: Axes) -> None:
    axes.step([s.images / 1000 for s in results.steps], [s.volume for s in results.steps], where="post", color=BLUE)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("thousands of images trained")
    axes.set_ylabel("hypervolume")


def _draw_importance(results: StudyResults, axes: Axes) -> None:
    choices = results.importance[::-1]
    for row, choice in enumerate(choices):
        style: dict[str, Any] = (
            {"color": BLUE} if choice.matters else {"color": "white", "edgecolor": GREY, "hatch": "/////"}
        )
        axes.barh(row, percent(choice.share), height=0.65, linewidth=0.5, **style)
    axes.plot([percent(c.noise) for c in choices], range(len(choices)), "|", color="black", ms=6, mew=0.8)
    axes.set_yticks(range(len(choices)), [choice.name for choice in choices])
    axes.set_xlabel("explained variance at equal cost (%)")


def _draw_rank_correlation(results: StudyResults, axes: Axes) -> None:
    pairs = trained_in_both(results)
    axes.plot([short for _, short in pairs], [result.pckh for result, _ in pairs], "o", ms=3.5, color=BLUE)
    axes.set_xlabel("PCKh in the search (%)")
    axes.set_ylabel("PCKh after full training (%)")
    if results.agreement:
        axes.set_title(f"Spearman {results.agreement}", fontsize=8)
