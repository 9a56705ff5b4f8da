"""A study's own page on optuna-dashboard: Plotly panels, and a note that says what they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from optuna.study import Study

from nas.console import format_count
from nas.errors import UserError
from nas.study.analysis.results import StudyResults, load_results
from nas.study.execution.trial_artifacts import escape_markdown
from nas.study.experiment import Experiment, images_of
from nas.study.reporting import plotly_figures as plots
from nas.study.storage.study_store import database_of

HEIGHT = 450
"""Pixels of a panel: the dashboard cuts off what is below."""


def save_panels(experiment: Experiment, study: Study) -> StudyResults:
    """Save the study's figures and note for the dashboard, in place of earlier ones.

    Returns:
        what they show.
    """
    found = load_results(experiment, study)
    # Effects together: the dashboard cannot take away a panel of a choice that turns out to be noise.
    for name, figure in plots.figures(found, apart=False).items():
        figure.update_layout(height=HEIGHT)
        optuna_dashboard.save_plotly_graph_object(study, figure, graph_object_id=name)
    optuna_dashboard.save_note(study, note(found))
    return found


def note(found: StudyResults) -> str:
    """What the study is and how to read it, in Markdown."""
    config, schedule = found.experiment.config, found.experiment.config.short_schedule()
    lines = [
        f"# {escape_markdown(found.name)}",
        "",
        "Networks that find people's joints: as much PCKh as possible with as few params and MAdds as possible. "
        f"Each was trained on {schedule.images:,} pictures of {config.data.input_size}×{config.data.input_size}, "
        "annealed fully, and scored on hold-out people.",
        "",
        f"- {found.counts.complete} finished, {found.counts.pruned} ended early; {images_of(found.study):,} pictures; "
        f"hypervolume {found.volume:.4f}",
        f"- seeds of one network differ by {found.noise:.1f} PCKh (standard deviation)",
    ]
    if found.comparisons:
        met = sum(one.met for one in found.comparisons)
        lines.append(
            f"- {met} of {len(found.comparisons)} published networks are met: at least their PCKh at half their costs"
        )
    sure = [escape_markdown(one.name) for one in found.importance if one.matters]
    if found.importance:
        lines.append(f"- choices that matter at equal cost: {', '.join(sure) or 'none beyond noise'}")
    lines += [
        "",
        "| trial | PCKh | params | MAdds | on front | network |",
        "|--:|--:|--:|--:|--:|---|",
    ]
    for m in found.front:
        network = found.experiment.title_of(found.trials[m.number])
        lines.append(
            f"| {m.number} | {m.mean:.1f} ± {found.error(m.number):.1f} | {m.params:,} | {format_count(m.madds)} | "
            f"{100 * m.chance:.0f} % | {escape_markdown(network)} |"
        )
    where = found.experiment.location_flags
    lines += [
        "",
        "*On front*: the probability that no other finished network beats it. In the panels of the study's first page, "
        "filled points are on the front, diamonds are published networks, bars are standard errors. The dashboard's "
        "own plots have linear axes.",
        "",
        f"Train a choice in full: `python -m nas.retrain --study {found.name} --pick knee{where}`. "
        f"All of this as a page: `python -m nas.report --study {found.name} --html {found.name}.html{where}`.",
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def serving(experiment: Experiment, study: Study, port: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve a study's storage on the dashboard, to this machine alone.

    Args:
        experiment: of the study.
        study: to show.
        port: to listen on; 0 for a free one.

    Yields:
        address of the study's page, and a function that serves until Ctrl-C.

    Raises:
        UserError: the port is taken or not allowed.
    """
    artifacts = experiment.artifacts_of(study)
    with suppress(OSError):  # without it the dashboard shows everything but pictures
        artifacts.mkdir(parents=True, exist_ok=True)
    app = optuna_dashboard.wsgi(database_of(study._storage), artifact_store=FileSystemArtifactStore(artifacts))
    try:
        server = make_server("127.0.0.1", port, app, server_class=_Server, handler_class=_Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--port {port}: cannot be listened on: {reason}; choose another") from error
    with server:
        yield f"http://127.0.0.1:{server.server_port}/dashboard/studies/{study._study_id}", server.serve_forever


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a browser asks every few seconds."""
