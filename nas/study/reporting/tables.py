"""A study's front and its comparison with published networks, as console tables and as plain values for ``--json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from nas.console import format_count
from nas.study.analysis.results import StudyResults
from nas.study.analysis.seed_noise import SeedStatistics

NEAR_FRONT = 0.2
"""Dominated networks are reported if the probability that they are on the front is at least this."""


def near_front(results: StudyResults) -> list[SeedStatistics]:
    """Dominated networks that may be on the front under other seeds, the most probable first."""
    on_front = {m.number for m in results.front}
    near = [m for m in results.measured if m.number not in on_front and m.chance >= NEAR_FRONT]
    return sorted(near, key=lambda m: (-m.chance, m.number))


def front_table(results: StudyResults) -> Table:
    """The front by rising params."""
    return trial_table(f"front of study {results.name}", results, results.front)


def near_front_table(results: StudyResults) -> Table | None:
    """Dominated networks that may be on the front under other seeds; None if there are none."""
    near = near_front(results)
    if not near:
        return None
    title = f"dominated, but within the noise between seeds (standard deviation {results.noise:.1f})"
    return trial_table(title, results, near)


def trial_table(title: str, results: StudyResults, networks: Sequence[SeedStatistics]) -> Table:
    """Finished networks, one per row."""
    numbers = ["trial", "PCKh", "on front", "params", _madds_title(results)]
    table = _new_table(title, numbers + (["trade-off"] if results.scores else []), ["network"])
    for m in networks:
        pckh = f"{m.mean:.1f}" if m.spread is None else f"{m.mean:.1f} ± {m.spread:.1f}"
        score = [f"{results.scores[m.number]:+.1f}"] if results.scores else []
        network = results.experiment.title_of(results.trials[m.number])
        costs = (f"{m.params:,}", format_count(m.madds))
        table.add_row(str(m.number), pckh, f"{100 * m.chance:.0f}%", *costs, *score, network)
    return table


def baseline_table(results: StudyResults) -> Table | None:
    """Each published baseline, and the trial that comes closest to the target; None without baselines."""
    if not results.baselines:
        return None
    scale = results.experiment.config.width_scale
    widths = "" if scale == 1 else f", widths × {scale:g}"
    table = _new_table(
        f"published networks under the same schedule{widths}; target: at least their PCKh with at most half their "
        "params and MAdds",
        ["PCKh", "params", _madds_title(results), "met", "by trial", "Δ PCKh", "× params", "× MAdds"],
        [],
        first="published",
    )
    for comparison in results.comparisons:
        base, closest = comparison.baseline.point, comparison.closest
        row = [comparison.baseline.name, f"{base.pckh:.1f}", f"{base.params:,}", format_count(base.madds)]
        if closest is None or comparison.ratios is None:
            row += ["no", "–", "–", "–", "–"]
        else:
            row += ["yes" if comparison.met else "no", str(closest.number), f"{closest.pckh - base.pckh:+.1f}"]
            row += [f"{ratio:.2f}" for ratio in comparison.ratios]
        table.add_row(*row)
    return table


def _madds_title(results: StudyResults) -> str:
    size = results.experiment.config.data.input_size
    return f"MAdds at {size}×{size}"


def _new_table(title: str, numbers: list[str], texts: list[str], first: str | None = None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for name in [first] if first else []:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    for name in texts:
        table.add_column(name)
    return table


def front_records(results: StudyResults) -> list[dict[str, object]]:
    """The front as plain values."""
    return trial_records(results, results.front)


def near_front_records(results: StudyResults) -> list[dict[str, object]]:
    """Dominated networks that may be on the front under other seeds, as plain values."""
    return trial_records(results, near_front(results))


def trial_records(results: StudyResults, networks: Sequence[SeedStatistics]) -> list[dict[str, object]]:
    """Finished networks as plain values."""
    return [
        {
            "trial": m.number,
            "pckh": m.mean,
            "pckh_of_seeds": m.values,
            "on_front": m.chance,
            "params": m.params,
            "madds": m.madds,
            "input_size": results.experiment.config.data.input_size,
            "tradeoff": results.scores.get(m.number),
            "published": results.trials[m.number].user_attrs.get("published"),
            "candidate": results.experiment.candidate_of(results.trials[m.number]).to_dict(),
            "network": results.experiment.network_of(results.trials[m.number]),
        }
        for m in networks
    ]


def baseline_records(results: StudyResults) -> list[dict[str, object]]:
    """The published baselines, and the trial that comes closest to the target of each, as plain values."""
    return [
        {
            "published": comparison.baseline.name,
            "trial": comparison.baseline.point.number,
            "pckh": comparison.baseline.point.pckh,
            "params": comparison.baseline.point.params,
            "madds": comparison.baseline.point.madds,
            "over_budget": comparison.baseline.over_budget,
            "met": comparison.met,
            "found": None if comparison.closest is None else asdict(comparison.closest),
        }
        for comparison in results.comparisons
    ]
