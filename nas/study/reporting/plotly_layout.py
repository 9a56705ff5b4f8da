"""The layout that all Plotly figures share, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from nas.console import format_count
from nas.study.reporting.figure_series import INK, log_ticks

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TITLE = {"x": 0, "xref": "container", "y": 1, "yanchor": "top", "pad": {"t": 12, "l": 8}}


def new_figure(title: str) -> go.Figure:
    """An empty figure in the style of all reports."""
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


def tick_labels(values: Sequence[float], most: int = 7) -> dict[str, Any]:
    """Ticks of a logarithmic axis with short labels: 10 k, 20 k, 50 k, 100 k."""
    ticks = log_ticks(values, most)
    return {"tickvals": ticks, "ticktext": [format_count(tick) for tick in ticks]}


def wrapped(text: str, width: int = 60) -> str:
    """A text in lines of a hover box, with HTML escaped."""
    lines = [""]
    for word in str(text).split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word} "
    return "<br>".join(line.strip().replace("<", "&lt;") for line in lines)
