"""Interactive figures of the importance and effects of a search space's choices."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from nas.study.analysis.importance import Effect, Importance
from nas.study.reporting.figure_series import BLUE, GREY, INK, percent
from nas.study.reporting.plotly_layout import new_figure

MAX_EFFECTS = 32
"""Most rows of one figure of effects; those of the most important choices are shown."""


def importance_figure(choices: Sequence[Importance]) -> go.Figure:
    """The share of the variance of PCKh at equal cost that each choice explains."""
    figure = new_figure("Importance of the choices at equal cost")
    rows = list(reversed(choices))
    for name, significant in (("significant", True), ("not significant", False)):
        group = [choice for choice in rows if choice.matters == significant]
        figure.add_bar(
            y=[choice.name for choice in group],
            x=[percent(choice.share) for choice in group],
            orientation="h",
            name=name,
            marker={
                "color": BLUE if significant else "#FFFFFF",
                "line": {"color": BLUE if significant else GREY, "width": 1},
                "pattern": {"shape": "" if significant else "/", "fgcolor": GREY, "size": 5},
            },
            text=[f"{100 * choice.share:.0f}%" if significant else "" for choice in group],
            textposition="outside",
            cliponaxis=False,
            customdata=[[choice.networks, choice.chance] for choice in group],
            hovertemplate="%{y}: %{x:.1f}%, %{customdata[0]} networks, p = %{customdata[1]:.3f}<extra></extra>",
            visible=True if group else "legendonly",
            showlegend=bool(group),
        )
    figure.add_scatter(
        y=[choice.name for choice in rows],
        x=[percent(choice.noise) for choice in rows],
        mode="markers",
        name="95th percentile of chance",
        marker={"symbol": "line-ns", "size": 12, "line": {"color": INK, "width": 1.5}},
        hovertemplate="%{y}: 95% of random permutations explain less than %{x:.1f}%<extra></extra>",
    )
    figure.update_layout(height=150 + 22 * len(choices), bargap=0.25, margin={"l": 105})
    figure.update_xaxes(title="explained variance at equal cost (%)", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[choice.name for choice in rows], showgrid=False)
    return figure


def effects_figure(choices: Sequence[Importance]) -> go.Figure:
    """What each value of some choices adds to PCKh at equal cost."""
    several = len(choices) != 1
    rows = [(f"{c.name}: {effect.value}" if several else effect.value, effect) for c in choices for effect in c.effects]
    rows = rows[:MAX_EFFECTS][::-1]
    figure = new_figure("Effects of the significant choices" if several else f"Effect of {choices[0].name}")
    for clear in (True, False):
        _add_effects(figure, [row for row in rows if (row[1].low > 0 or row[1].high < 0) == clear], clear)
    if rows:
        figure.add_vline(x=0, line={"color": INK, "width": 1})
    else:
        figure.add_annotation(text="No choice has a significant effect.", showarrow=False, x=0.5, y=0.5)
    label_width = 12 + 7 * max((len(label) for label, _ in rows), default=0)
    margin = {"l": max(60, label_width), "b": 65}
    figure.update_layout(height=120 + 24 * max(len(rows), 2), margin=margin, showlegend=False)
    figure.update_xaxes(title="PCKh relative to the average at equal cost<br>(95% interval; filled: excludes 0)")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[label for label, _ in rows])
    if len(rows) > 13:  # a panel of the dashboard has no room for more rows of the usual size
        figure.update_yaxes(tickmode="linear", tickfont={"size": 9})
    return figure


def _add_effects(figure: go.Figure, rows: Sequence[tuple[str, Effect]], clear: bool) -> None:
    """Draw effects with their intervals; filled where the interval excludes 0."""
    colour = BLUE if clear else GREY
    figure.add_scatter(
        x=[effect.mean for _, effect in rows],
        y=[label for label, _ in rows],
        error_x={
            "array": [effect.high - effect.mean for _, effect in rows],
            "arrayminus": [effect.mean - effect.low for _, effect in rows],
            "color": colour,
            "thickness": 1.5,
            "width": 3,
        },
        mode="markers",
        marker={"symbol": "circle" if clear else "circle-open", "size": 8, "color": colour},
        customdata=[[effect.networks, effect.low, effect.high] for _, effect in rows],
        hovertemplate="%{y}: %{x:+.1f} (95%: %{customdata[1]:+.1f} to %{customdata[2]:+.1f}), "
        "%{customdata[0]} networks<extra></extra>",
    )
