"""Scores as tables for people and as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from nas.inference.scoring import ScoreReport
from nas.training.metrics import RESAMPLES, Score


def score_record(report: ScoreReport, about: dict[str, Any]) -> dict[str, Any]:
    """Plain values for JSON.

    Args:
        report: what was scored.
        about: values to add.

    Returns:
        The keys of the headline: the last variant at the first threshold; and ``scores``, a list of all with the
        same keys.
    """
    records = [
        {**vars(variant), **_plain_score(score)}
        for row in report.scores
        for variant, score in zip(report.variants, row, strict=True)
    ]
    return {**records[len(report.variants) - 1], **about, "scores": records}


def _plain_score(score: Score) -> dict[str, Any]:
    accuracy, interval = score.accuracy, score.interval

    def plain(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "metric": accuracy.metric,
        "threshold": accuracy.threshold,
        "mean": plain(accuracy.mean),
        "interval": [plain(end) for end in interval.mean],
        "by_count": plain(accuracy.by_count),
        "by_count_interval": [plain(end) for end in interval.by_count],
        "groups": {name: plain(value) for name, value in accuracy.groups.items()},
        "joints": {name: plain(value) for name, value in accuracy.joints.items()},
        "people": accuracy.people,
        "left_out": accuracy.left_out,
    }


def score_tables(report: ScoreReport) -> list[Table]:
    """A table for each threshold, and one of the headline's joints."""
    return [*(_threshold_table(report, row) for row in report.scores), _joint_table(report)]


def footnotes(report: ScoreReport) -> list[str]:
    """What the tables' columns mean, and who is left out."""
    lines = [f"95 %: bootstrap over people, {RESAMPLES:,} draws"]
    if report.normalizer.left_out:
        lines.append(f"left out: {report.normalizer.left_out:,} people whose torso is not labelled")
    return lines


def _threshold_table(report: ScoreReport, row: Sequence[Score]) -> Table:
    first = row[0].accuracy
    table = _table(f"{first.metric}@{first.threshold:g}, {first.people:,} people", "")
    for column in (*first.groups, "mean of joints", "95 %", "by count", "95 %"):
        table.add_column(column, justify="right")
    for variant, score in zip(report.variants, row, strict=True):
        accuracy, interval = score.accuracy, score.interval
        groups = [_percent(value, 1) for value in accuracy.groups.values()]
        joints = (_percent(accuracy.mean), _range(interval.mean))
        table.add_row(variant.name, *groups, *joints, _percent(accuracy.by_count), _range(interval.by_count))
    return table


def _joint_table(report: ScoreReport) -> Table:
    table = _table(f"joints, {report.variants[-1].name}", "joint")
    headline = [row[-1].accuracy for row in report.scores]
    for column in ("labelled", *(f"{accuracy.metric}@{accuracy.threshold:g}" for accuracy in headline)):
        table.add_column(column, justify="right")
    skeleton = report.skeleton
    for j, count in enumerate(report.normalizer.labelled.sum(dim=0).tolist()):
        name = skeleton.joints[j] + ("" if j in skeleton.scored else " (in no mean)")
        table.add_row(name, f"{count:,}", *(_percent(accuracy.joints[skeleton.joints[j]]) for accuracy in headline))
    return table


def _table(title: str, first: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column(first)
    return table


def _percent(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _range(ends: tuple[float, float]) -> str:
    return "–" if math.isnan(ends[0]) else f"{ends[0]:.2f} to {ends[1]:.2f}"
