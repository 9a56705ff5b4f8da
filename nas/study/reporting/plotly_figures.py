"""A study's figures, as Plotly draws them: in the HTML report and on the dashboard's page of the study.

Kinds of points differ by shape and filling, lines by dashes: nothing is told by colour alone. Colours are Okabe and
Ito's, which the colour-blind tell apart, of clearly different lightness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from nas.console import format_count
from nas.study.analysis.importance import Importance
from nas.study.analysis.results import StudyResults

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#9A9A9A", "#222222"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TITLE = {"x": 0, "xref": "container", "y": 1, "yanchor": "top", "pad": {"t": 12, "l": 8}}
MOST_EFFECTS = 32
"""Values that one figure of effects has room for; those of the choices that matter most."""
Axis = Literal["params", "madds"]


def figures(found: StudyResults, apart: bool = True) -> dict[str, go.Figure]:
    """All figures that there is something for, by a name that is a valid HTML id.

    Args:
        found: what to draw.
        apart: a figure of effects for each choice that matters; else one for all, also where none does.
    """
    drawn = {}
    if found.measured:
        drawn["front-params"] = front_figure(found, "params")
        drawn["front-madds"] = front_figure(found, "madds")
        drawn["front-3d"] = cube(found)
    if found.steps:
        drawn["history"] = history(found)
    if found.importance:
        drawn["importance"] = shares(found.importance)
        matter = [one for one in found.importance if one.matters]
        together = {"effects": effects(matter)}
        drawn |= {f"effects-{one.name.replace('_', '-')}": effects([one]) for one in matter} if apart else together
    if found.measured and found.full:
        drawn["fronts"] = fronts(found)
    if found.agreement is not None:
        drawn["agreement"] = agreement(found)
    return drawn


def axis_title(found: StudyResults, axis: Axis) -> str:
    """Of a cost."""
    size = found.experiment.config.data.input_size
    return "parameters" if axis == "params" else f"multiply-adds at {size}×{size}"


def front_figure(found: StudyResults, axis: Axis) -> go.Figure:
    """PCKh against one cost: all finished networks, the front with its uncertainty, the published networks by name."""
    ahead = {m.number for m in found.front}
    behind = [m for m in found.measured if m.number not in ahead and m.number not in found.published]
    best = [m for m in found.front if m.number not in found.published]
    cost = axis

    def hover(m: Any) -> str:
        network = found.trials[m.number].user_attrs.get("network", "")
        seeds = f" (mean of {len(m.values)} seeds)" if len(m.values) > 1 else ""
        return (
            f"trial {m.number}: PCKh {m.mean:.1f} ± {found.error(m.number):.1f}{seeds}<br>"
            f"{m.params:,} params, {format_count(m.madds)} MAdds<br>on the front with {100 * m.chance:.0f} %<br>"
            f"{_folded(network)}"
        )

    figure = _figure(f"PCKh against {axis_title(found, axis)}")
    if behind:
        figure.add_scatter(
            x=[getattr(m, cost) for m in behind],
            y=[m.mean for m in behind],
            mode="markers",
            name="finished",
            marker={"symbol": "circle-open", "size": 6, "color": GREY, "opacity": 0.7, "line": {"width": 1}},
            text=[hover(m) for m in behind],
            hovertemplate="%{text}<extra></extra>",
        )
    line = staircase([(getattr(m, cost), m.mean) for m in found.measured])
    figure.add_scatter(
        x=[x for x, _ in line],
        y=[y for _, y in line],
        mode="lines",
        line={"shape": "hv", "color": BLUE, "width": 1.5},
        name="most PCKh for the cost",
        hoverinfo="skip",
    )
    if best:
        figure.add_scatter(
            x=[getattr(m, cost) for m in best],
            y=[m.mean for m in best],
            error_y={"array": [found.error(m.number) for m in best], "thickness": 1, "width": 2, "color": BLUE},
            mode="markers",
            name="front (± standard error)",
            marker={"symbol": "circle", "size": 8, "color": BLUE},
            text=[hover(m) for m in best],
            hovertemplate="%{text}<extra></extra>",
        )
    if found.baselines:
        known = {m.number: m for m in found.measured}
        figure.add_scatter(
            x=[getattr(b.point, cost) for b in found.baselines],
            y=[b.point.pckh for b in found.baselines],
            error_y={
                "array": [found.error(b.point.number) for b in found.baselines],
                "thickness": 1,
                "width": 2,
                "color": ORANGE,
            },
            mode="markers",
            name="published",
            marker={
                "symbol": ["diamond" if b.point.number in ahead else "diamond-open" for b in found.baselines],
                "size": 10,
                "color": ORANGE,
                "line": {"width": 1.5, "color": ORANGE},
            },
            text=[
                f"<b>{b.name}</b>{' (over the budget)' if b.over_budget else ''}<br>"
                + (
                    hover(known[b.point.number])
                    if b.point.number in known
                    else f"PCKh {b.point.pckh:.1f}<br>{b.point.params:,} params, {format_count(b.point.madds)} MAdds"
                )
                for b in found.baselines
            ],
            hovertemplate="%{text}<extra></extra>",
        )
        for b, (dx, dy) in zip(found.baselines, apart(found, axis), strict=True):
            figure.add_annotation(
                x=np.log10(getattr(b.point, cost)),
                y=b.point.pckh,
                text=b.name,
                showarrow=True,
                arrowhead=0,
                arrowwidth=0.8,
                arrowcolor=ORANGE,
                ax=dx,
                ay=dy,
                font={"size": 11, "color": INK},
                bgcolor="rgba(255,255,255,0.8)",
                borderpad=1,
            )
    figure.update_xaxes(title=axis_title(found, axis), type="log", **_ticks([getattr(m, cost) for m in found.measured]))
    figure.update_yaxes(title="PCKh@0.5 (%)")
    return figure


def staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """(cost, PCKh) of the points that are the most accurate of all that cost no more, cheapest first."""
    line: list[tuple[float, float]] = []
    for cost, pckh in sorted(points, key=lambda p: (p[0], -p[1])):
        if not line or pckh > line[-1][1]:
            line.append((cost, pckh))
    return line


def cube(found: StudyResults) -> go.Figure:
    """The front in all three objectives."""
    ahead = {m.number for m in found.front}
    groups = [
        ("finished", "circle-open", GREY, 3, [m for m in found.measured if m.number not in ahead]),
        ("front", "circle", BLUE, 5, [m for m in found.front if m.number not in found.published]),
        ("published", "diamond", ORANGE, 6, [m for m in found.measured if m.number in found.published]),
    ]
    figure = _figure("The front in three objectives")
    for name, symbol, colour, size, members in groups:
        if members:
            figure.add_scatter3d(
                x=[m.params for m in members],
                y=[m.madds for m in members],
                z=[m.mean for m in members],
                mode="markers",
                name=name,
                marker={"symbol": symbol, "size": size, "color": colour},
                text=[found.published.get(m.number, f"trial {m.number}") for m in members],
                hovertemplate="%{text}: PCKh %{z:.1f}<br>%{x:,} params, %{y:,} MAdds<extra></extra>",
            )
    params, madds = [m.params for m in found.measured], [m.madds for m in found.measured]
    figure.update_layout(
        scene={
            "xaxis": {"title": "params", "type": "log", **_ticks(params, few=True)},
            "yaxis": {"title": "MAdds", "type": "log", **_ticks(madds, few=True)},
            "zaxis": {"title": "PCKh"},
            "camera": {"eye": {"x": -1.5, "y": -1.6, "z": 0.8}},
        },
        margin={"l": 0, "r": 0, "b": 40},
    )
    return figure


def history(found: StudyResults) -> go.Figure:
    """Hypervolume and the size of the front against the pictures trained."""
    images = [s.images for s in found.steps]
    figure = _figure("Progress of the search")
    figure.add_scatter(
        x=images,
        y=[s.volume for s in found.steps],
        mode="lines",
        name="hypervolume",
        line={"color": BLUE, "width": 2, "shape": "hv"},
        hovertemplate="%{x:,} pictures: hypervolume %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=images,
        y=[s.size for s in found.steps],
        mode="lines",
        name="networks on the front (right)",
        yaxis="y2",
        line={"color": ORANGE, "width": 1.5, "dash": "dot", "shape": "hv"},
        hovertemplate="%{x:,} pictures: front of %{y}<extra></extra>",
    )
    figure.update_xaxes(title="pictures trained")
    figure.update_yaxes(title="hypervolume", rangemode="tozero")
    figure.update_layout(
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
            "title": "front",
            "tickmode": "auto",
            "nticks": 6,
            "tickformat": "d",
        },
        margin={"r": 50},
    )
    return figure


def shares(judged: Sequence[Importance]) -> go.Figure:
    """How much of the PCKh that costs leave unexplained each choice explains."""
    figure = _figure("Which choices matter at equal cost")
    ordered = list(reversed(judged))
    for name, matters in (("more than noise", True), ("within noise", False)):
        some = [one for one in ordered if one.matters == matters]
        figure.add_bar(
            y=[one.name for one in some],
            x=[100 * max(0.0, one.share) for one in some],
            orientation="h",
            name=name,
            marker={
                "color": BLUE if matters else "#FFFFFF",
                "line": {"color": BLUE if matters else GREY, "width": 1},
                "pattern": {"shape": "" if matters else "/", "fgcolor": GREY, "size": 5},
            },
            text=[f"{100 * one.share:.0f} %" if matters else "" for one in some],
            textposition="outside",
            cliponaxis=False,
            customdata=[[one.networks, one.chance] for one in some],
            hovertemplate="%{y}: %{x:.1f} %, %{customdata[0]} networks, by chance: p = %{customdata[1]:.3f}"
            "<extra></extra>",
            visible=True if some else "legendonly",
            showlegend=bool(some),
        )
    figure.add_scatter(
        y=[one.name for one in ordered],
        x=[100 * max(0.0, one.noise) for one in ordered],
        mode="markers",
        name="what chance reaches 1 time in 20",
        marker={"symbol": "line-ns", "size": 12, "line": {"color": INK, "width": 1.5}},
        hovertemplate="%{y}: chance reaches %{x:.1f} % in 1 of 20<extra></extra>",
    )
    figure.update_layout(height=150 + 22 * len(judged), bargap=0.25, margin={"l": 105})
    figure.update_xaxes(title="share of the variance left by costs (%)", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[one.name for one in ordered], showgrid=False)
    return figure


def effects(judged: Sequence[Importance]) -> go.Figure:
    """What each value of some choices adds to PCKh at equal cost."""
    several = len(judged) != 1
    rows = [(f"{one.name}: {e.value}" if several else e.value, e) for one in judged for e in one.effects]
    rows = rows[:MOST_EFFECTS][::-1]
    figure = _figure("Effects of the choices that matter" if several else judged[0].name)
    for clear in (True, False):
        some = [(label, e) for label, e in rows if (e.low > 0 or e.high < 0) == clear]
        figure.add_scatter(
            x=[e.mean for _, e in some],
            y=[label for label, _ in some],
            error_x={
                "array": [e.high - e.mean for _, e in some],
                "arrayminus": [e.mean - e.low for _, e in some],
                "color": BLUE if clear else GREY,
                "thickness": 1.5,
                "width": 3,
            },
            mode="markers",
            marker={"symbol": "circle" if clear else "circle-open", "size": 8, "color": BLUE if clear else GREY},
            customdata=[[e.networks, e.low, e.high] for _, e in some],
            hovertemplate="%{y}: %{x:+.1f} (95 %: %{customdata[1]:+.1f} to %{customdata[2]:+.1f}), "
            "%{customdata[0]} networks<extra></extra>",
        )
    if rows:
        figure.add_vline(x=0, line={"color": INK, "width": 1})
    else:
        figure.add_annotation(text="No choice makes more difference than noise.", showarrow=False, x=0.5, y=0.5)
    wide = 12 + 7 * max((len(label) for label, _ in rows), default=0)
    figure.update_layout(height=120 + 24 * max(len(rows), 2), margin={"l": max(60, wide), "b": 65}, showlegend=False)
    figure.update_xaxes(title="PCKh above the average at equal cost<br>(95 %; filled: clear of 0)")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[label for label, _ in rows])
    if len(rows) > 13:  # a panel of the dashboard holds no more at full size
        figure.update_yaxes(tickmode="linear", tickfont={"size": 9})
    return figure


def fronts(found: StudyResults) -> go.Figure:
    """The search's front and that of the networks trained in full, against params; what became of each network."""
    figure = _figure("The front of the search, and what full training made of it")
    both = [f for f in found.full if f.short is not None]
    if both:
        figure.add_scatter(
            x=[x for f in both for x in (f.params, f.params, None)],
            y=[y for f in both for y in (f.short, f.pckh, None)],
            mode="lines",
            line={"color": GREY, "width": 1},
            name="one network",
            showlegend=False,
            hoverinfo="skip",
        )
    searched = [(m.params, m.mean) for m in found.measured]
    trained = [(f.params, f.pckh) for f in found.full]
    for title, points, colour, dash in (
        ("search", searched, BLUE, "dot"),
        ("trained in full", trained, ORANGE, "solid"),
    ):
        line = staircase(points)
        figure.add_scatter(
            x=[x for x, _ in line],
            y=[y for _, y in line],
            mode="lines",
            line={"shape": "hv", "color": colour, "width": 1.5, "dash": dash},
            name=f"most PCKh for the cost, {title}",
            showlegend=False,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=[m.params for m in found.front],
        y=[m.mean for m in found.front],
        mode="markers",
        marker={"symbol": "circle-open", "size": 7, "color": BLUE, "line": {"width": 1.5}},
        text=[f"trial {m.number}: PCKh {m.mean:.1f} in the search<br>{m.params:,} params" for m in found.front],
        hovertemplate="%{text}<extra></extra>",
        name="front of the search",
    )
    figure.add_scatter(
        x=[f.params for f in found.full],
        y=[f.pckh for f in found.full],
        mode="markers+text",
        marker={
            "symbol": ["square" if f.on_front else "square-open" for f in found.full],
            "size": 9,
            "color": ORANGE,
            "line": {"width": 1.5, "color": ORANGE},
        },
        text=[f.name.removeprefix("trial ") for f in found.full],
        textposition="top center",
        cliponaxis=False,
        customdata=[[f.name, f.params] for f in found.full],
        hovertemplate="%{customdata[0]}: PCKh %{y:.1f} in full<br>%{customdata[1]:,} params<extra></extra>",
        name="trained in full (filled: on the front of these)",
    )
    figure.update_xaxes(title="parameters", type="log", **_ticks([x for x, _ in searched + trained]))
    figure.update_yaxes(title="PCKh@0.5 (%)")
    return figure


def agreement(found: StudyResults) -> go.Figure:
    """PCKh after full training against that of the search."""
    both = [f for f in found.full if f.short is not None]
    rho = found.agreement
    figure = _figure(f"Short schedule against full training: Spearman {rho}, {len(both)} networks")
    figure.add_scatter(
        x=[f.short for f in both],
        y=[f.pckh for f in both],
        mode="markers+text",
        text=[f.name.removeprefix("trial ") for f in both],
        textposition="top center",
        cliponaxis=False,
        marker={"size": 9, "color": BLUE, "symbol": ["circle" if f.on_front else "circle-open" for f in both]},
        customdata=[[f.name, f.params] for f in both],
        hovertemplate="%{customdata[0]}: %{x:.1f} → %{y:.1f}, %{customdata[1]:,} params<extra></extra>",
        name="trained in full (filled: on the front of these)",
        showlegend=True,
    )
    figure.update_xaxes(title="PCKh of the search, hold-out people")
    figure.update_yaxes(title="PCKh in full, validation people")
    return figure


def _figure(title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        title={"text": title, "font": {"size": 15}, **TITLE},
        font={"family": FONT, "size": 12, "color": INK},
        legend={"orientation": "h", "x": 0, "yref": "container", "y": 0.01, "yanchor": "bottom", "font": {"size": 11}},
        margin={"l": 55, "r": 20, "t": 45, "b": 95},
        height=430,
        hoverlabel={"bgcolor": "#FFFFFF", "bordercolor": INK, "font": {"size": 12, "color": INK}, "align": "left"},
        paper_bgcolor="#FFFFFF",
        plot_bgcolor="#FFFFFF",
        dragmode=False,
    )
    axis = {"gridcolor": "#E6E6E6", "linecolor": INK, "zeroline": False, "ticks": "outside", "automargin": True}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def _ticks(values: Sequence[float], few: bool = False) -> dict[str, Any]:
    """Ticks of a log axis as people write counts: 10 k, 20 k, 50 k, 100 k."""
    low, high = min(values), max(values)
    steps = (1,) if few and high / low > 30 else (1, 3) if high / low > 300 else (1, 2, 5)
    ticks = [step * 10**power for power in range(0, 15) for step in steps]
    there = [t for t in ticks if low / 1.5 <= t <= high * 1.5]
    return {"tickvals": there, "ticktext": [format_count(t) for t in there]}


def apart(
    found: StudyResults, axis: Axis, plot: tuple[float, float] = (330.0, 270.0), letter: float = 6.3
) -> list[tuple[int, int]]:
    """Where to put the baselines' names, in pixels from their points: beside other names and off the points.

    Args:
        found: whose baselines.
        axis: of the figure.
        plot: width and height to reckon with.
        letter: width of one.
    """
    every = [m.point for m in found.measured] + [b.point for b in found.baselines]
    raw = np.array([(np.log(getattr(p, axis)), p.pckh) for p in every])
    low, spread = raw.min(axis=0), np.maximum(np.ptp(raw, axis=0), 1e-9)
    dots = (raw - low) / spread * plot * np.array([1, -1]) + np.array([0, plot[1]])  # pixels, y downwards
    mine = dots[len(found.measured) :]
    taken: list[tuple[float, float, float, float]] = []
    places = []
    rings = [(dx, dy) for reach in (26, 44, 64, 88, 114) for dx in (0, 30, -30, 60, -60) for dy in (reach, -reach)]
    for baseline, (x, y) in zip(found.baselines, mine, strict=True):
        half = letter * len(baseline.name) / 2 + 3

        def cost(place: tuple[int, int], x: float = x, y: float = y, half: float = half) -> tuple[float, float]:
            left, top = x + place[0] - half, y + place[1] - 8
            box = (left, top, left + 2 * half, top + 16)
            names = sum(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
            inside = (dots[:, 0] > box[0] - 5) & (dots[:, 0] < box[2] + 5)
            inside &= (dots[:, 1] > box[1] - 7) & (dots[:, 1] < box[3] + 7)
            beyond = max(0.0, -box[0]) + max(0.0, box[2] - plot[0] - 15)
            return 100.0 * names + int(inside.sum()) + beyond / 10, abs(place[0]) + abs(place[1])

        dx, dy = min(rings, key=cost)
        taken.append((x + dx - half, y + dy - 8, x + dx + half, y + dy + 8))
        places.append((dx, dy))
    return places


def _folded(text: str, width: int = 60) -> str:
    """A text in lines, for a hover box."""
    lines = [""]
    for word in str(text).split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word} "
    return "<br>".join(line.strip().replace("<", "&lt;") for line in lines)
