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
    staircase,
    trained_in_both,
)
from nas.study.reporting.plotly_importance import effects_figure, importance_figure
from nas.study.reporting.plotly_layout import new_figure, tick_labels, wrapped

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
    figure = new_figure(f"PCKh against {axis_label(results, axis)}")
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
    figure.update_xaxes(title=axis_label(results, axis), type="log", **tick_labels(series.costs))
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
        f"on the front with probability {100 * network.chance:.0f}%<br>{wrapped(description)}"
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
    figure = new_figure("The front in three objectives")
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
            "xaxis": {"title": "params", "type": "log", **tick_labels(params, most=5)},
            "yaxis": {"title": "MAdds", "type": "log", **tick_labels(madds, most=5)},
            "zaxis": {"title": "PCKh"},
            "camera": {"eye": {"x": -1.6, "y": -1.7, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.15}},
        },
        margin={"l": 0, "r": 0, "b": 40},
    )
    return figure


def history_figure(results: StudyResults) -> go.Figure:
    """Hypervolume and size of the front against the number of images trained."""
    images = [step.images for step in results.steps]
    figure = new_figure("Progress of the search")
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


def full_training_figure(results: StudyResults) -> go.Figure:
    """PCKh against params in the search and after full training, with a front of each."""
    figure = new_figure("PCKh in the search and after full training")
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
    figure.update_xaxes(title="parameters", type="log", **tick_labels([x for x, _ in searched + trained]))
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
    figure = new_figure(f"Full training against search: Spearman {results.agreement}, {len(pairs)} networks")
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
