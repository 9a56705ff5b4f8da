"""A study's interactive figures, drawn by Plotly, for the HTML report and the dashboard.

Kinds of points differ by shape and fill, lines by dashes, so that no information is in colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nas.console import format_count
from nas.study.analysis.baselines import Baseline
from nas.study.analysis.importance import Effect, Importance
from nas.study.analysis.results import FullTrainingResult, StudyResults
from nas.study.analysis.seed_noise import SeedStatistics
from nas.study.reporting.figure_series import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    CostAxis,
    FrontSeries,
    axis_label,
    label_offsets,
    log_ticks,
    percent,
    staircase,
    trained_in_both,
)

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TITLE = {"x": 0, "xref": "container", "y": 1, "yanchor": "top", "pad": {"t": 12, "l": 8}}
MAX_EFFECTS = 32
"""Most rows of one figure of effects; those of the most important choices are shown."""
_TEXT_ONLY = "%{text}<extra></extra>"
_FULL_TRAINING = "fully trained (filled: on their front)"


def study_figures(results: StudyResults, separate_effects: bool = True) -> dict[str, go.Figure]:
    """All figures that a study has data for.

    Args:
        results: the study's results.
        separate_effects: one figure of effects for each significant choice; else a single one, even if no choice is
            significant.

    Returns:
        Name, a valid HTML id, → figure. On the dashboard, a figure replaces an earlier one of the same name.
    """
    figures = {}
    if results.measured:
        figures["front-params"] = front_figure(results, "params")
        figures["front-madds"] = front_figure(results, "madds")
        figures["front-3d"] = front_3d_figure(results)
    if results.steps:
        figures["history"] = history_figure(results)
    if results.importance:
        figures["importance"] = importance_figure(results.importance)
        significant = [choice for choice in results.importance if choice.matters]
        if separate_effects:
            figures |= {f"effects-{c.name.replace('_', '-')}": effects_figure([c]) for c in significant}
        else:
            figures["effects"] = effects_figure(significant)
    if results.measured and results.full:
        figures["fronts"] = full_training_figure(results)
    if results.agreement is not None:
        figures["agreement"] = rank_correlation_figure(results)
    return figures


def front_figure(results: StudyResults, axis: CostAxis) -> go.Figure:
    """PCKh against one cost: all finished networks, the front with standard errors, the published networks by name."""
    series = FrontSeries.of(results, axis)
    figure = _new_figure(f"PCKh against {axis_label(results, axis)}")
    if series.dominated:
        figure.add_scatter(
            x=[getattr(m, axis) for m in series.dominated],
            y=[m.mean for m in series.dominated],
            mode="markers",
            name="dominated",
            marker={"symbol": "circle-open", "size": 6, "color": GREY, "opacity": 0.7, "line": {"width": 1}},
            text=[_hover_text(results, m) for m in series.dominated],
            hovertemplate=_TEXT_ONLY,
        )
    figure.add_scatter(
        x=[x for x, _ in series.step_line],
        y=[y for _, y in series.step_line],
        mode="lines",
        line={"shape": "hv", "color": BLUE, "width": 1.5},
        name="best PCKh within this cost",
        hoverinfo="skip",
    )
    if series.front:
        errors = [results.error(m.number) for m in series.front]
        figure.add_scatter(
            x=[getattr(m, axis) for m in series.front],
            y=[m.mean for m in series.front],
            error_y={"array": errors, "thickness": 1, "width": 2, "color": BLUE},
            mode="markers",
            name="front (± standard error)",
            marker={"symbol": "circle", "size": 8, "color": BLUE},
            text=[_hover_text(results, m) for m in series.front],
            hovertemplate=_TEXT_ONLY,
        )
    if series.published:
        _add_published(figure, results, series)
    figure.update_xaxes(title=axis_label(results, axis), type="log", **_tick_labels(series.costs))
    figure.update_yaxes(title="PCKh@0.5 (%)")
    return figure


def _add_published(figure: go.Figure, results: StudyResults, series: FrontSeries) -> None:
    """Draw the published networks as diamonds, filled if on the front, with their names beside them."""
    on_front = {m.number for m in results.front}
    errors = [results.error(b.point.number) for b in series.published]
    figure.add_scatter(
        x=[getattr(b.point, series.axis) for b in series.published],
        y=[b.point.pckh for b in series.published],
        error_y={"array": errors, "thickness": 1, "width": 2, "color": ORANGE},
        mode="markers",
        name="published",
        marker={
            "symbol": ["diamond" if b.point.number in on_front else "diamond-open" for b in series.published],
            "size": 10,
            "color": ORANGE,
            "line": {"width": 1.5, "color": ORANGE},
        },
        text=[_published_hover_text(results, b) for b in series.published],
        hovertemplate=_TEXT_ONLY,
    )
    offsets = label_offsets(results, series.axis, plot_size=(360.0, 280.0), letter_width=6.3)
    for baseline, (dx, dy) in zip(series.published, offsets, strict=True):
        figure.add_annotation(
            x=np.log10(getattr(baseline.point, series.axis)),
            y=baseline.point.pckh,
            text=baseline.name,
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


def _hover_text(results: StudyResults, network: SeedStatistics) -> str:
    description = results.trials[network.number].user_attrs.get("network", "")
    seeds = f" (mean of {len(network.values)} seeds)" if len(network.values) > 1 else ""
    return (
        f"trial {network.number}: PCKh {network.mean:.1f} ± {results.error(network.number):.1f}{seeds}<br>"
        f"{network.params:,} params, {format_count(network.madds)} MAdds<br>"
        f"on the front with probability {100 * network.chance:.0f}%<br>{_wrapped(description)}"
    )


def _published_hover_text(results: StudyResults, baseline: Baseline) -> str:
    """Of a baseline; one over the budget is no finished trial of the study, and has no statistics."""
    point = baseline.point
    network = next((m for m in results.measured if m.number == point.number), None)
    title = f"<b>{baseline.name}</b>{' (over budget)' if baseline.over_budget else ''}<br>"
    if network is not None:
        return title + _hover_text(results, network)
    return f"{title}PCKh {point.pckh:.1f}<br>{point.params:,} params, {format_count(point.madds)} MAdds"


def front_3d_figure(results: StudyResults) -> go.Figure:
    """The front in all three objectives."""
    series = FrontSeries.of(results, "params")
    published = [m for m in results.measured if m.number in results.published]
    on_front = {m.number for m in results.front}
    published_symbols = ["diamond" if m.number in on_front else "diamond-open" for m in published]
    figure = _new_figure("The front in three objectives")
    for name, symbol, colour, size, networks in (
        ("dominated", "circle-open", GREY, 3, series.dominated),
        ("front", "circle", BLUE, 5, series.front),
        ("published", published_symbols, ORANGE, 6, published),
    ):
        if networks:
            figure.add_scatter3d(
                x=[m.params for m in networks],
                y=[m.madds for m in networks],
                z=[m.mean for m in networks],
                mode="markers",
                name=name,
                marker={"symbol": symbol, "size": size, "color": colour},
                text=[results.published.get(m.number, f"trial {m.number}") for m in networks],
                hovertemplate="%{text}: PCKh %{z:.1f}<br>%{x:,} params, %{y:,} MAdds<extra></extra>",
            )
    params, madds = [m.params for m in results.measured], [m.madds for m in results.measured]
    figure.update_layout(
        scene={
            "xaxis": {"title": "params", "type": "log", **_tick_labels(params, most=5)},
            "yaxis": {"title": "MAdds", "type": "log", **_tick_labels(madds, most=5)},
            "zaxis": {"title": "PCKh"},
            "camera": {"eye": {"x": -1.6, "y": -1.7, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.15}},
        },
        margin={"l": 0, "r": 0, "b": 40},
    )
    return figure


def history_figure(results: StudyResults) -> go.Figure:
    """Hypervolume and size of the front against the number of images trained."""
    images = [step.images for step in results.steps]
    figure = _new_figure("Progress of the search")
    figure.add_scatter(
        x=images,
        y=[step.volume for step in results.steps],
        mode="lines",
        name="hypervolume",
        line={"color": BLUE, "width": 2, "shape": "hv"},
        hovertemplate="%{x:,} images: hypervolume %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=images,
        y=[step.size for step in results.steps],
        mode="lines",
        name="networks on the front (right)",
        yaxis="y2",
        line={"color": ORANGE, "width": 1.5, "dash": "dot", "shape": "hv"},
        hovertemplate="%{x:,} images: %{y} networks on the front<extra></extra>",
    )
    figure.update_xaxes(title="images trained")
    figure.update_yaxes(title="hypervolume", rangemode="tozero")
    figure.update_layout(
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
            "title": {"text": "networks on the front", "standoff": 8},
            "tickmode": "auto",
            "nticks": 6,
            "tickformat": "d",
        },
        margin={"r": 50},
    )
    return figure


def importance_figure(choices: Sequence[Importance]) -> go.Figure:
    """The share of the variance of PCKh at equal cost that each choice explains."""
    figure = _new_figure("Importance of the choices at equal cost")
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
    figure = _new_figure("Effects of the significant choices" if several else f"Effect of {choices[0].name}")
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


def full_training_figure(results: StudyResults) -> go.Figure:
    """PCKh against params in the search and after full training, with a front of each."""
    figure = _new_figure("PCKh in the search and after full training")
    _add_connections(figure, trained_in_both(results))
    searched = [(m.params, m.mean) for m in results.measured]
    trained = [(result.params, result.pckh) for result in results.full]
    for title, points, colour, dash in (
        ("search", searched, BLUE, "dot"),
        ("full training", trained, ORANGE, "solid"),
    ):
        line = staircase(points)
        figure.add_scatter(
            x=[x for x, _ in line],
            y=[y for _, y in line],
            mode="lines",
            line={"shape": "hv", "color": colour, "width": 1.5, "dash": dash},
            name=f"best PCKh within this cost, {title}",
            showlegend=False,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=[m.params for m in results.front],
        y=[m.mean for m in results.front],
        mode="markers",
        marker={"symbol": "circle-open", "size": 7, "color": BLUE, "line": {"width": 1.5}},
        text=[f"trial {m.number}: PCKh {m.mean:.1f} in the search<br>{m.params:,} params" for m in results.front],
        hovertemplate=_TEXT_ONLY,
        name="front of the search",
    )
    symbols = ["square" if result.on_front else "square-open" for result in results.full]
    figure.add_scatter(
        x=[result.params for result in results.full],
        y=[result.pckh for result in results.full],
        marker={"symbol": symbols, "size": 9, "color": ORANGE, "line": {"width": 1.5, "color": ORANGE}},
        hovertemplate="%{customdata[0]}: PCKh %{y:.1f} after full training<br>%{customdata[1]:,} params<extra></extra>",
        **_full_training_labels(results.full),
    )
    figure.update_xaxes(title="parameters", type="log", **_tick_labels([x for x, _ in searched + trained]))
    figure.update_yaxes(title="PCKh@0.5 (%)")
    return figure


def _add_connections(figure: go.Figure, pairs: Sequence[tuple[FullTrainingResult, float]]) -> None:
    """Draw a line from each network's PCKh in the search to that after full training."""
    if pairs:
        figure.add_scatter(
            x=[x for result, _ in pairs for x in (result.params, result.params, None)],
            y=[y for result, short in pairs for y in (short, result.pckh, None)],
            mode="lines",
            line={"color": GREY, "width": 1},
            name="same network",
            showlegend=False,
            hoverinfo="skip",
        )


def rank_correlation_figure(results: StudyResults) -> go.Figure:
    """PCKh after full training against that of the search."""
    pairs = trained_in_both(results)
    trained = [result for result, _ in pairs]
    figure = _new_figure(f"Full training against search: Spearman {results.agreement}, {len(pairs)} networks")
    symbols = ["circle" if result.on_front else "circle-open" for result in trained]
    figure.add_scatter(
        x=[short for _, short in pairs],
        y=[result.pckh for result in trained],
        marker={"size": 9, "color": BLUE, "symbol": symbols},
        hovertemplate="%{customdata[0]}: %{x:.1f} → %{y:.1f}, %{customdata[1]:,} params<extra></extra>",
        showlegend=True,
        **_full_training_labels(trained),
    )
    figure.update_xaxes(title="PCKh in the search, hold-out split (%)")
    figure.update_yaxes(title="PCKh after full training, validation split (%)")
    return figure


def _full_training_labels(trained: Sequence[FullTrainingResult]) -> dict[str, Any]:
    """Trial numbers or published names above the points of fully trained networks."""
    return {
        "mode": "markers+text",
        "text": [result.name.removeprefix("trial ") for result in trained],
        "textposition": "top center",
        "cliponaxis": False,
        "customdata": [[result.name, result.params] for result in trained],
        "name": _FULL_TRAINING,
    }


def _new_figure(title: str) -> go.Figure:
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


def _tick_labels(values: Sequence[float], most: int = 9) -> dict[str, Any]:
    """Ticks of a logarithmic axis with short labels: 10 k, 20 k, 50 k, 100 k."""
    ticks = log_ticks(values, most)
    return {"tickvals": ticks, "ticktext": [format_count(tick) for tick in ticks]}


def _wrapped(text: str, width: int = 60) -> str:
    """A text in lines of a hover box, with HTML escaped."""
    lines = [""]
    for word in str(text).split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word} "
    return "<br>".join(line.strip().replace("<", "&lt;") for line in lines)
