"""A study's results for papers and for other programs: a table of all finished networks, and figures in PNG and SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.console import format_count
from nas.errors import UserError
from nas.study.analysis.importance import active
from nas.study.analysis.results import StudyResults
from nas.study.files import write_file
from nas.study.reporting.plotly_figures import Axis, apart, staircase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN = 3.35
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
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8C8C8C"


def write_csv(found: StudyResults, path: Path) -> None:
    """Write a row for each finished trial: results, costs, what was chosen, the network in words.

    A choice that makes no difference to a network is empty; PCKh of several seeds are separated by semicolons.

    Raises:
        UserError: the file cannot be written.
    """
    choices = list(found.experiment.space.choices)
    ahead = {m.number for m in found.front}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    figures = ("pckh", "pckh_of_seeds", "standard_error", "params", "madds", "layers", "on_front", "chance", "tradeoff")
    table.writerow(["trial", *figures, "published", *choices, "network"])
    for m in found.measured:
        trial = found.trials[m.number]
        inside = active(found.experiment.space, trial.params) if set(choices) <= set(trial.params) else set()
        candidate = found.experiment.candidate_of(trial)
        table.writerow(
            [m.number, repr(m.mean), ";".join(map(repr, m.values)), repr(found.error(m.number)), m.params, m.madds]
            + [found.experiment.cost(candidate).layers, int(m.number in ahead), repr(m.chance)]
            + [found.scores.get(m.number, ""), found.published.get(m.number, "")]
            + [trial.params[name] if name in inside else "" for name in choices]
            + [trial.user_attrs.get("network") or str(candidate)]
        )
    write_file(path, text.getvalue().encode(), "--csv")


def write_figures(found: StudyResults, folder: Path) -> list[Path]:
    """Write figures of one column's width, as PNG of 300 dpi and SVG.

    Raises:
        UserError: matplotlib is not installed, nothing has finished, or the folder cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("--figures needs matplotlib; install it with `pip install -e '.[figures]'`") from error
    if not found.measured:
        raise UserError(f"study {found.name} has no finished trial yet; run `python -m nas.search`")
    draw: dict[str, tuple[float, Callable[[Axes], None]]] = {
        "front-params": (2.4, lambda axes: _front(found, "params", axes)),
        "front-madds": (2.4, lambda axes: _front(found, "madds", axes)),
        "history": (1.9, lambda axes: _history(found, axes)),
    }
    if found.importance:
        draw["importance"] = (0.7 + 0.16 * len(found.importance), lambda axes: _importance(found, axes))
    if sum(f.short is not None for f in found.full) > 1:
        draw["agreement"] = (2.4, lambda axes: _agreement(found, axes))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--figures {folder}: cannot be made: {error.strerror}; choose another folder") from error
    written = []
    with matplotlib.rc_context(_STYLE):
        for name, (height, paint) in draw.items():
            figure = Figure(figsize=(COLUMN, height))
            paint(figure.add_subplot())
            for kind in ("png", "svg"):
                data = io.BytesIO()
                figure.savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None)
                write_file(folder / f"{name}.{kind}", data.getvalue(), "--figures")
                written.append(folder / f"{name}.{kind}")
    return written


def _front(found: StudyResults, cost: Axis, axes: Axes) -> None:
    ahead = {m.number for m in found.front}
    own = [m for m in found.measured if m.number not in found.published]
    behind, best = [m for m in own if m.number not in ahead], [m for m in own if m.number in ahead]
    axes.plot([getattr(m, cost) for m in behind], [m.mean for m in behind], "o", ms=2.5, mfc="none", mec=GREY, mew=0.5)
    line = staircase([(getattr(m, cost), m.mean) for m in found.measured])
    axes.step([x for x, _ in line], [y for _, y in line], where="post", color=BLUE, lw=0.8)
    bars: dict[str, Any] = {"elinewidth": 0.6, "capsize": 1.2, "linestyle": "none"}
    axes.errorbar(
        [getattr(m, cost) for m in best],
        [m.mean for m in best],
        yerr=[found.error(m.number) for m in best],
        fmt="o",
        ms=3.5,
        color=BLUE,
        label="found",
        **bars,
    )
    if found.baselines:
        points = [b.point for b in found.baselines]
        axes.errorbar(
            [getattr(p, cost) for p in points],
            [p.pckh for p in points],
            yerr=[found.error(p.number) for p in points],
            fmt="D",
            ms=4,
            mfc="white",
            color=ORANGE,
            label="published",
            **bars,
        )
        places = apart(found, cost, plot=(185.0, 115.0), letter=4.4)
        for baseline, (dx, dy) in zip(found.baselines, places, strict=True):
            axes.annotate(
                baseline.name,
                (getattr(baseline.point, cost), baseline.point.pckh),
                (dx, -dy),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=7,
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": ORANGE, "shrinkA": 0, "shrinkB": 3},
            )
        axes.legend(frameon=False, loc="lower right", handletextpad=0.3)
    axes.set_xscale("log")
    values = [getattr(m, cost) for m in found.measured]
    ratio = max(values) / min(values)
    steps = (1,) if ratio > 300 else (1, 3) if ratio > 30 else (1, 2, 5)
    ticks = [s * 10**p for p in range(15) for s in steps if min(values) / 1.3 <= s * 10**p <= max(values) * 1.3]
    axes.set_xticks(ticks, [format_count(t) for t in ticks])
    axes.minorticks_off()
    size = found.experiment.config.data.input_size
    axes.set_xlabel("parameters" if cost == "params" else f"multiply-adds at {size}×{size}")
    axes.set_ylabel("PCKh@0.5 (%)")


def _history(found: StudyResults, axes: Axes) -> None:
    axes.step([s.images / 1000 for s in found.steps], [s.volume for s in found.steps], where="post", color=BLUE)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("thousand pictures trained")
    axes.set_ylabel("hypervolume")


def _importance(found: StudyResults, axes: Axes) -> None:
    rows = found.importance[::-1]
    for place, one in enumerate(rows):
        look: dict[str, Any] = (
            {"color": BLUE} if one.matters else {"color": "white", "edgecolor": GREY, "hatch": "/////"}
        )
        axes.barh(place, 100 * max(0.0, one.share), height=0.65, linewidth=0.5, **look)
    axes.plot([100 * max(0.0, one.noise) for one in rows], range(len(rows)), "|", color="black", ms=6, mew=0.8)
    axes.set_yticks(range(len(rows)), [one.name for one in rows])
    axes.set_xlabel("variance left by costs, explained (%)")


def _agreement(found: StudyResults, axes: Axes) -> None:
    both = [f for f in found.full if f.short is not None]
    axes.plot([f.short for f in both if f.short is not None], [f.pckh for f in both], "o", ms=3.5, color=BLUE)
    axes.set_xlabel("PCKh of the search")
    axes.set_ylabel("PCKh in full")
    if found.agreement:
        axes.set_title(f"Spearman {found.agreement}", fontsize=8)
