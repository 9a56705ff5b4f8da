"""A study on optuna-dashboard: panels of Plotly figures, a note that summarizes the results, and a local server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard
from bottle import HTTPError
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study

from nas.console import format_count
from nas.errors import UserError
from nas.study.analysis.results import StudyResults
from nas.study.execution.trial_artifacts import escape_markdown
from nas.study.experiment import Experiment, images_of
from nas.study.reporting.plotly_figures import study_figures
from nas.study.reporting.study_move import repair_copied_notes
from nas.study.storage.study_store import StudyStore

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PANEL_HEIGHT = 450
"""Pixels; the dashboard cuts off what is below."""


def save_panels(results: StudyResults) -> None:
    """Save a study's figures and note for the dashboard, replacing earlier ones."""
    repair_copied_notes(results)
    # One panel for all effects: the dashboard cannot remove the panel of a choice that turns out not to be significant.
    for name, figure in study_figures(results, separate_effects=False).items():
        figure.update_layout(height=PANEL_HEIGHT)
        optuna_dashboard.save_plotly_graph_object(results.study, figure, graph_object_id=name)
    optuna_dashboard.save_note(results.study, dashboard_note(results))


def dashboard_note(results: StudyResults) -> str:
    """A summary of the study in Markdown: its objectives, its results, its front and how to continue."""
    experiment, name = results.experiment, results.name
    config, schedule = experiment.config, experiment.config.short_schedule()
    lines = [
        f"# {escape_markdown(name)}",
        "",
        "Search for human pose networks with high PCKh, few parameters and few multiply-adds (MAdds). "
        f"Every network was trained on {schedule.images:,} images of {config.data.input_size}×{config.data.input_size} "
        "with a fully annealed schedule and evaluated on the hold-out split.",
        "",
        f"- {results.counts.complete} trials finished, {results.counts.pruned} stopped early; "
        f"{images_of(results.study):,} images trained; hypervolume {results.volume:.4f}",
        f"- standard deviation of PCKh between seeds of one network: {results.noise:.1f}",
    ]
    if results.comparisons:
        met = sum(comparison.met for comparison in results.comparisons)
        lines.append(
            f"- {met} of {len(results.comparisons)} published networks matched: at least their PCKh with at most half "
            "their params and MAdds"
        )
    significant = [escape_markdown(choice.name) for choice in results.importance if choice.matters]
    if results.importance:
        lines.append(f"- choices with a significant effect at equal cost: {', '.join(significant) or 'none'}")
    lines += ["", *_front_table(results), ""]
    flags = experiment.location_flags
    lines += [
        "*On front*: the probability that no other finished network dominates this one, given the noise between seeds. "
        "In the panels on the study's main page, filled points are on the front, diamonds are published networks, and "
        "error bars are standard errors. The dashboard's own plots have linear axes.",
        "",
        f"Train a network in full: `python -m nas.retrain --study {name} --pick knee{flags}`. "
        f"Write this report as one HTML page: `python -m nas.report --study {name} --html {name}.html{flags}`.",
    ]
    return "\n".join(lines) + "\n"


def _front_table(results: StudyResults) -> list[str]:
    """The lines of a Markdown table of the front."""
    lines = ["| trial | PCKh | params | MAdds | on front | network |", "|--:|--:|--:|--:|--:|---|"]
    for m in results.front:
        network = escape_markdown(results.experiment.title_of(results.trials[m.number]))
        lines.append(
            f"| {m.number} | {m.mean:.1f} ± {results.error(m.number):.1f} | {m.params:,} | {format_count(m.madds)} | "
            f"{100 * m.chance:.0f}% | {network} |"
        )
    return lines


@contextmanager
def serve_dashboard(experiment: Experiment, study: Study, port: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Open a server of optuna-dashboard for a study's storage that accepts connections from this machine only.

    Args:
        experiment: the study's experiment.
        study: the study whose page is announced.
        port: TCP port; 0 for any free one.

    Yields:
        The URL of the study's page, and a function that serves requests until Ctrl-C.

    Raises:
        UserError: the port is in use or not permitted.
    """
    artifacts = experiment.artifacts_of(study)
    with suppress(OSError):  # without the folder, the dashboard shows no artifacts
        artifacts.mkdir(parents=True, exist_ok=True)
    app = optuna_dashboard.wsgi(
        StudyStore(study).database, artifact_store=_Artifacts(experiment.artifact_folders(study))
    )
    try:
        server = make_server("127.0.0.1", port, _for_this_machine(app), server_class=_Server, handler_class=_Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--port {port}: cannot listen on it: {reason}; choose another port") from error
    with server:
        yield f"http://127.0.0.1:{server.server_port}{StudyStore(study).dashboard_path}", server.serve_forever


def _for_this_machine(app: WSGIApplication) -> WSGIApplication:
    """Answer only requests for this machine's own names: a page of another host whose name leads here gets nothing."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        name = environ.get("HTTP_HOST", "").lower().removesuffix(f":{environ.get('HTTP_HOST', '').rpartition(':')[2]}")
        if name in ("127.0.0.1", "localhost", "[::1]"):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"this dashboard answers to http://127.0.0.1 and http://localhost only\n"]

    return guarded


class _Artifacts(FileSystemArtifactStore):
    """Files of the first folder, else of the others; one that is nowhere is not found, not an error of the server."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__(folders[0])
        self._folders = folders

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """See :class:`optuna.artifacts.FileSystemArtifactStore`."""
        for store in (FileSystemArtifactStore(folder) for folder in self._folders):
            with suppress(ArtifactNotFound, OSError):
                file: BinaryIO = store.open_reader(artifact_id)
                return file
        raise HTTPError(404, "this file is not where the study's images are kept")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a browser polls every few seconds."""
