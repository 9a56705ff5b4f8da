"""What a search looks like while it runs, in a terminal and in a log, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.console import format_count, format_duration
from nas.study.analysis.baselines import baselines_of, compare, tradeoffs
from nas.study.analysis.seed_noise import SeedStatistics, mean_points, seed_statistics
from nas.study.execution.worker_pool import PoolProgress
from nas.study.experiment import Experiment, points_of
from nas.study.pareto import Point, front, hypervolume
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import count, mask_password, release_connections


class SearchProgress:
    """The study's figures, read from the storage again only when a trial has ended."""

    def __init__(self, experiment: Experiment, study: Study, total: int, quiet: bool, console: Console) -> None:
        self.experiment, self.study, self.total, self.console, self.quiet = experiment, study, total, console, quiet
        self.began = time.monotonic()
        self._ended = -1
        self.refresh(0)

    def refresh(self, ended: int) -> None:
        """Read the figures if more trials have ended since."""
        if ended == self._ended:
            return
        self._ended = ended
        self.points: list[Point]
        self.points, self.done = retry_while_unavailable(
            mask_password(self.experiment.url), lambda: (points_of(self.study), count(self.study).done)
        )
        release_connections(self.study._storage)
        self.volume = hypervolume(self.points, self.experiment.scale)

    def time_left(self, progress: PoolProgress) -> float | None:
        """Seconds until the last trial ends, from the mean of those that ended in this sitting."""
        if not progress.trial_seconds:
            return None
        each = sum(progress.trial_seconds) / len(progress.trial_seconds)
        begun = sum(w.done for w in progress.workers if w.trial is not None)
        return max(0.0, (self.total - self.done - begun)) * each / max(1, len(progress.workers))

    def headline(self, progress: PoolProgress) -> str:
        """Trials done, time, best PCKh, hypervolume."""
        best = f"{max(p.pckh for p in self.points):.1f}" if self.points else "–"
        left = self.time_left(progress)
        waiting = f", {format_duration(left)} left" if left is not None else ""
        return (
            f"{self.done} of {self.total} trials, {format_duration(time.monotonic() - self.began)}{waiting} · "
            f"best PCKh {best} · front of {len(front(self.points))} · hypervolume {self.volume:.4f}"
        )

    def panel(self, progress: PoolProgress) -> Group:
        """The live display."""
        workers = Table(box=None, padding=(0, 1), show_header=False, expand=True)
        workers.add_column(width=10)
        workers.add_column(width=10)
        workers.add_column(width=20)
        workers.add_column(width=12, justify="right")
        workers.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for worker in progress.workers:
            if worker.trial is None:
                workers.add_row(f"worker {worker.index}", worker.device, "", "", worker.note)
            else:
                rate = f"{worker.rate:,.0f} img/s" if worker.rate else ""
                bar = ProgressBar(total=1, completed=worker.done, width=20)
                workers.add_row(f"worker {worker.index}", f"trial {worker.trial}", bar, rate, worker.network)
        whole = Table.grid(expand=True)  # a bar alone ends no line
        whole.add_row(ProgressBar(total=self.total, completed=min(self.done, self.total)))
        return Group(Text(self.headline(progress)), whole, workers)

    def line(self, number: int, pckh: float | None, reason: str | None, progress: PoolProgress) -> str:
        """One ended trial, for a log."""
        trials = retry_while_unavailable(
            mask_password(self.experiment.url), lambda: self.study.get_trials(deepcopy=False)
        )
        release_connections(self.study._storage)
        trial = next(t for t in trials if t.number == number)
        cost = trial.user_attrs.get("cost", {})
        value = "no PCKh" if pckh is None else f"PCKh {pckh:5.1f}"
        again = ", started again from the beginning" if trial.user_attrs.get("started_again") else ""
        costs = f"{format_count(cost.get('params', 0))} params, {format_count(cost.get('madds', 0))} MAdds"
        return f"trial {number}: {value}, {costs}: {self.experiment.title_of(trial)}{again}" + (
            f" ({reason})" if reason else ""
        )


@contextmanager
def live_progress(standing: SearchProgress) -> Iterator[Callable[[PoolProgress], None]]:
    """Show a search as it goes: live in a terminal, else a line for each trial that ends; nothing if quiet."""
    if standing.quiet:
        yield lambda progress: standing.refresh(len(progress.ended))
        return
    if standing.console.is_terminal:
        with Live(console=standing.console, refresh_per_second=4, transient=True) as live:

            def draw(progress: PoolProgress) -> None:
                standing.refresh(len(progress.ended))
                live.update(standing.panel(progress))

            yield draw
        return
    shown = 0

    def write(progress: PoolProgress) -> None:
        nonlocal shown
        standing.refresh(len(progress.ended))
        for number, pckh, reason in progress.ended[shown:]:
            shown += 1
            standing.console.print(standing.line(number, pckh, reason, progress), soft_wrap=True)
            standing.console.print("  " + standing.headline(progress), soft_wrap=True)

    yield write


NEAR = 0.2
"""A network whose chance of being on the front is at least this is shown though it is behind."""


def front_table(experiment: Experiment, study: Study) -> Table:
    """The front, cheapest first, the most accurate last."""
    ahead, _ = _front_and_near(experiment, study)
    return measured_table(f"front of study {experiment.config.name}", experiment, study, ahead)


def near_table(experiment: Experiment, study: Study) -> Table | None:
    """Networks behind the front that another seed might put on it, the likeliest first; None if there are none."""
    _, near = _front_and_near(experiment, study)
    if not near:
        return None
    title = f"behind it by less than the noise of a seed (standard deviation {near[0].noise:.1f})"
    return measured_table(title, experiment, study, near)


def _front_and_near(experiment: Experiment, study: Study) -> tuple[list[SeedStatistics], list[SeedStatistics]]:
    """The front, cheapest first, and those behind it that another seed might put on it, the likeliest first."""
    measured = {m.number: m for m in seed_statistics(experiment, study)}
    ahead = {p.number: measured.pop(p.number) for p in front([m.point for m in measured.values()])}
    near = [m for m in measured.values() if m.chance >= NEAR]
    return list(ahead.values()), sorted(near, key=lambda m: -m.chance)


def measured_table(title: str, experiment: Experiment, study: Study, measured: Sequence[SeedStatistics]) -> Table:
    """Finished networks, a row for each."""
    trials: dict[int, FrozenTrial] = {t.number: t for t in study.get_trials(deepcopy=False)}
    scores = tradeoffs([m.point for m in measured], baselines_of(experiment, study))
    table = _table(
        title,
        ["trial", "PCKh", "on front", "params", _madds_title(experiment), *(["trade-off"] if scores else [])],
        ["network"],
    )
    for one in measured:
        pckh = f"{one.mean:.1f}" if one.spread is None else f"{one.mean:.1f} ± {one.spread:.1f}"
        score = [f"{scores[one.number]:+.1f}"] if scores else []
        network = experiment.title_of(trials[one.number])
        costs = (f"{one.params:,}", format_count(one.madds))
        table.add_row(str(one.number), pckh, f"{100 * one.chance:.0f} %", *costs, *score, network)
    return table


def comparison_table(experiment: Experiment, study: Study) -> Table | None:
    """Each published baseline, and how near the search has come to its PCKh at half its costs; None without any."""
    baselines = baselines_of(experiment, study)
    if not baselines:
        return None
    scaled = experiment.config.width_scale
    widths = "" if scaled == 1 else f", widths × {scaled:g}"
    table = _table(
        f"published networks under the same schedule{widths}; aim: at least their PCKh at half their params and MAdds",
        ["PCKh", "params", _madds_title(experiment), "met", "by trial", "Δ PCKh", "× params", "× MAdds"],
        [],
        first="published",
    )
    for one in compare(baselines, mean_points(experiment, study)):
        base, found = one.baseline.point, one.found
        row = [one.baseline.name, f"{base.pckh:.1f}", f"{base.params:,}", format_count(base.madds)]
        if found is None or one.ratios is None:
            row += ["no", "–", "–", "–", "–"]
        else:
            row += ["yes" if one.met else "no", str(found.number), f"{found.pckh - base.pckh:+.1f}"]
            row += [f"{ratio:.2f}" for ratio in one.ratios]
        table.add_row(*row)
    return table


def _madds_title(experiment: Experiment) -> str:
    size = experiment.config.data.input_size
    return f"MAdds at {size}×{size}"


def _table(title: str, numbers: list[str], texts: list[str], first: str | None = None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for name in [first] if first else []:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    for name in texts:
        table.add_column(name)
    return table


def front_records(experiment: Experiment, study: Study) -> list[dict[str, object]]:
    """The front as plain values, for ``--json``."""
    return records(experiment, study, _front_and_near(experiment, study)[0])


def near_records(experiment: Experiment, study: Study) -> list[dict[str, object]]:
    """Networks behind the front that another seed might put on it, the likeliest first."""
    return records(experiment, study, _front_and_near(experiment, study)[1])


def records(experiment: Experiment, study: Study, measured: Sequence[SeedStatistics]) -> list[dict[str, object]]:
    """Finished networks as plain values."""
    trials = {t.number: t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    scores = tradeoffs([m.point for m in measured], baselines_of(experiment, study))
    return [
        {
            "trial": m.number,
            "pckh": m.mean,
            "pckh_of_seeds": m.values,
            "on_front": m.chance,
            "params": m.params,
            "madds": m.madds,
            "input_size": experiment.config.data.input_size,
            "tradeoff": scores.get(m.number),
            "published": trials[m.number].user_attrs.get("published"),
            "candidate": trials[m.number].user_attrs["candidate"],
            "network": trials[m.number].user_attrs["network"],
        }
        for m in measured
    ]


def comparison_records(experiment: Experiment, study: Study) -> list[dict[str, object]]:
    """The published baselines and where the search stands against each, as plain values."""
    return [
        {
            "published": one.baseline.name,
            "trial": one.baseline.point.number,
            "pckh": one.baseline.point.pckh,
            "params": one.baseline.point.params,
            "madds": one.baseline.point.madds,
            "over_budget": one.baseline.over_budget,
            "met": one.met,
            "found": None if one.found is None else asdict(one.found),
        }
        for one in compare(baselines_of(experiment, study), mean_points(experiment, study))
    ]
