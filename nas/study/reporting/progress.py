"""Progress of a running search: a live display in a terminal, one line per trial in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.study import Study
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.console import format_count, format_duration
from nas.study.execution.worker_pool import PoolProgress
from nas.study.experiment import Experiment, points_of
from nas.study.pareto import Point, front, hypervolume
from nas.study.storage.engine import mask_password
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import count


class SearchProgress:
    """The state of a running search, read from the storage only when a trial has ended.

    Args:
        experiment: what is searched.
        study: its study.
        total: number of trials after which the search ends.
        quiet: show nothing.
        console: where to show the progress.
    """

    def __init__(self, experiment: Experiment, study: Study, total: int, quiet: bool, console: Console) -> None:
        self.experiment, self.study, self.total, self.console, self.quiet = experiment, study, total, console, quiet
        self.start = time.monotonic()
        self._ended = -1
        self.refresh(0)

    def refresh(self, ended: int) -> None:
        """Read the study again if more trials have ended since the last call."""
        if ended == self._ended:
            return
        self._ended = ended
        self.points: list[Point]
        self.points, self.done = retry_while_unavailable(
            mask_password(self.experiment.url), lambda: (points_of(self.study), count(self.study).done)
        )
        StudyStore(self.study).release_connections()
        self.hypervolume = hypervolume(self.points, self.experiment.scale)

    def time_left(self, progress: PoolProgress) -> float | None:
        """Seconds until the search ends, estimated from the trials that this session has finished; None without any."""
        if not progress.trial_seconds:
            return None
        seconds_per_trial = sum(progress.trial_seconds) / len(progress.trial_seconds)
        partly_done = sum(worker.done for worker in progress.workers if worker.trial is not None)
        remaining = max(0.0, self.total - self.done - partly_done)
        return remaining * seconds_per_trial / max(1, len(progress.workers))

    def headline(self, progress: PoolProgress) -> str:
        """One line: trials done, elapsed and remaining time, best PCKh, size of the front, hypervolume."""
        best = f"{max(p.pckh for p in self.points):.1f}" if self.points else "–"
        left = self.time_left(progress)
        remaining = f", {format_duration(left)} left" if left is not None else ""
        return (
            f"{self.done} of {self.total} trials, {format_duration(time.monotonic() - self.start)}{remaining} · "
            f"best PCKh {best} · front of {len(front(self.points))} · hypervolume {self.hypervolume:.4f}"
        )

    def display(self, progress: PoolProgress) -> Group:
        """The live display: the headline, a bar for the search, a row for each worker."""
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
        search_bar = Table.grid(expand=True)  # a bare ProgressBar does not end its line
        search_bar.add_row(ProgressBar(total=self.total, completed=min(self.done, self.total)))
        return Group(Text(self.headline(progress)), search_bar, workers)

    def trial_line(self, number: int, pckh: float | None, reason: str | None) -> str:
        """One line of a log about an ended trial: its PCKh, its costs, its network, and why it was stopped early."""
        trials = retry_while_unavailable(
            mask_password(self.experiment.url), lambda: self.study.get_trials(deepcopy=False)
        )
        StudyStore(self.study).release_connections()
        trial = next((t for t in trials if t.number == number), None)
        if trial is None:
            return f"trial {number}: changed by somebody else: left out"
        cost = trial.user_attrs.get("cost", {})
        value = "no PCKh" if pckh is None else f"PCKh {pckh:5.1f}"
        costs = f"{format_count(cost.get('params', 0))} params, {format_count(cost.get('madds', 0))} MAdds"
        restarted = ", restarted from the first epoch" if trial.user_attrs.get("started_again") else ""
        suffix = f" ({reason})" if reason else ""
        return f"trial {number}: {value}, {costs}: {self.experiment.title_of(trial)}{restarted}{suffix}"


@contextmanager
def live_progress(search: SearchProgress) -> Iterator[Callable[[PoolProgress], None]]:
    """Show the progress of a search: live in a terminal, else two lines for each ended trial; nothing if quiet.

    Yields:
        A function to call with the workers' latest progress.
    """
    if search.quiet:
        yield lambda progress: search.refresh(len(progress.ended))
        return
    if search.console.is_terminal:
        with Live(console=search.console, refresh_per_second=4, transient=True) as live:

            def update_display(progress: PoolProgress) -> None:
                search.refresh(len(progress.ended))
                live.update(search.display(progress))

            yield update_display
        return
    printed = 0

    def print_ended_trials(progress: PoolProgress) -> None:
        nonlocal printed
        search.refresh(len(progress.ended))
        for number, pckh, reason in progress.ended[printed:]:
            printed += 1
            search.console.print(search.trial_line(number, pckh, reason), soft_wrap=True)
            search.console.print("  " + search.headline(progress), soft_wrap=True)

    yield print_ended_trials
