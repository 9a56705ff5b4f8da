"""What ``nas.replay`` prints: hypervolumes of policies by trials and by images trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from nas.console import console, print_tables
from nas.study.analysis.replay import BenchmarkTable, Replayed
from nas.study.pareto import Floats

MARKS = (25, 50, 100, 150, 200)
"""Numbers of trials after which hypervolumes are printed."""


def policy_record(policy: str, replays: Sequence[Replayed]) -> dict[str, Any]:
    """A policy's replays as plain values for JSON, means and standard deviations over seeds."""
    volumes, images = _stacked(replays)
    return {
        "policy": policy,
        "seeds": len(replays),
        "hypervolume": {"mean": volumes.mean(0).tolist(), "sd": volumes.std(0).tolist()},
        "images": images.mean(0).tolist(),
        "seconds_per_proposal": _seconds(replays),
    }


def print_comparison(record: BenchmarkTable, results: Mapping[str, Sequence[Replayed]], seeds: int) -> None:
    """Print two tables: hypervolume after equal numbers of trials, and after equal numbers of images."""
    trials = len(next(iter(results.values()))[0].images)
    marks = sorted({*(mark for mark in MARKS if mark < trials), trials})
    by_trials = _table(
        "hypervolume by number of trials, and the share of images trained relative to full trials", marks
    )
    by_images = _table("hypervolume by number of images, in full trials", marks)
    by_trials.add_column("s / proposal", justify="right")
    for policy, replays in results.items():
        volumes, images = _stacked(replays)
        cells = []
        for mark in marks:
            share = images[:, mark - 1].mean() / (mark * record.images)
            cells.append(_spread(volumes[:, mark - 1]) + ("" if share > 0.999 else f", {100 * share:.0f}%"))
        by_trials.add_row(policy, *cells, f"{_seconds(replays):.3f}")
        by_images.add_row(policy, *(_spread(_volumes_after(volumes, images, mark * record.images)) for mark in marks))
    deviation = record.noise
    noise = "" if deviation is None else f"; PCKh of one network between seeds: standard deviation {deviation:.2f}"
    console.print(
        f"{len(record.rows)} recorded networks, {seeds} seeds, mean ± standard deviation{noise}", soft_wrap=True
    )
    print_tables(by_trials, by_images)


def _table(title: str, marks: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column("policy")
    for mark in marks:
        table.add_column(f"{mark}", justify="right")
    return table


def _stacked(replays: Sequence[Replayed]) -> tuple[Floats, Floats]:
    """Hypervolumes and images of replays, (seeds, trials) each."""
    return np.stack([replay.hypervolume for replay in replays]), np.stack([replay.images for replay in replays])


def _seconds(replays: Sequence[Replayed]) -> float:
    """Mean seconds of a proposal."""
    return float(np.mean([replay.seconds.mean() for replay in replays]))


def _volumes_after(volumes: Floats, images: Floats, limit: float) -> Floats:
    """Each replay's hypervolume when it had trained on so many images; empty where a replay ended before.

    Args:
        volumes: (seeds, trials).
        images: (seeds, trials), ascending.
        limit: number of images.
    """
    if (images[:, -1] < limit).any():
        return np.array([])
    last = (images <= limit).sum(axis=1) - 1
    return np.asarray(np.where(last >= 0, volumes[np.arange(len(volumes)), last], 0.0), np.float64)


def _spread(values: Floats) -> str:
    return f"{values.mean():.4f} ± {values.std():.4f}" if len(values) else "–"
