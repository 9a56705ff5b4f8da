"""The results of a benchmark suite as text and tables."""

from __future__ import annotations

from rich.table import Table

from nas.benchmark.concurrency import best_workers
from nas.benchmark.measure import EVALUATED, Case
from nas.benchmark.suite import SuiteResults


def device_line(results: SuiteResults) -> str:
    """The device and what it can do at most."""
    settings, rates = results.settings, results.rates
    threads = f", {settings.threads} thread{'s'[: settings.threads > 1]} of {settings.cores} cores"
    return (
        f"{settings.device_name}{threads if settings.device == 'cpu' else ''}: "
        f"{rates.madds / 1e9:,.0f} G multiply-adds/s in {rates.dtype}, "
        f"{rates.bytes / 1e9:,.1f} GB/s read and written"
    )


def case_title(case: Case) -> str:
    """A case in words."""
    return f"{case.name} {case.input_size}×{case.input_size} batch {case.batch}"


def speed_table(results: SuiteResults) -> Table | None:
    """Rates of the workloads, and seconds of an evaluation and of a trial's start; None where nothing was measured."""
    measured = [case for case in results.cases if not case.skipped]
    if not measured:
        return None
    table = _table("images/s, median of the rounds", "network")
    workloads = list(dict.fromkeys(name for case in measured for name in case.rates))
    for name in ("roofline", *workloads, f"{EVALUATED:,} people", "first trial", "later"):
        table.add_column(name, justify="right")
    for case in measured:
        rates = [f"{case.rates[name].median:,.4g}" if name in case.rates else "–" for name in workloads]
        times = (case.evaluation_seconds, case.first, case.later.median if case.later else None)
        table.add_row(
            case_title(case),
            f"{case.floor_rate:,.4g}",
            *rates,
            *("–" if value is None else f"{value:.2g} s" for value in times),
        )
    return table


def target_table(results: SuiteResults) -> Table | None:
    """The targets beside what was measured; None where no case was measured."""
    if not results.cases:
        return None
    table = _table("targets", "network", "what")
    for column in ("measured", "wanted"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    spreads = {(case_title(case), name): spread for case in results.cases for name, spread in case.ratios.items()}
    for target in results.targets:
        value = spreads.get((target.case, target.what)) or target.value
        shown = "–" if value is None else str(value) if not isinstance(value, float) else f"{value:,.3g}"
        table.add_row(target.case, target.what, shown, target.wanted, target.verdict)
    return table


def concurrency_table(results: SuiteResults) -> Table | None:
    """Throughput by number of workers; None where it was not measured."""
    if not results.concurrency:
        return None
    table = _table("workers on one device", "network")
    for column in ("workers", "images/s", "startup", "trials/hour"):
        table.add_column(column, justify="right")
    table.add_column("")
    for case in results.concurrency:
        best = best_workers(case.tried) if case.tried else None
        for measurement in case.tried:
            table.add_row(
                f"{case.network} {case.input_size}×{case.input_size} batch {case.batch}",
                str(measurement.workers),
                f"{measurement.images_per_second:,.4g}",
                f"{measurement.beginning:.2g} s",
                f"{measurement.trials_per_hour:,.4g}",
                "best" if measurement is best else "",
            )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table
