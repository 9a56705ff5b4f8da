"""Report the results of a study: ``python -m nas.report --study quickstart``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.console import console, run, stderr
from nas.errors import UserError
from nas.options import CodeOptions, LocationOptions, OutputOptions, People, SelectionOptions, command, new_app
from nas.study.files import check_study_exists

if TYPE_CHECKING:
    from optuna.study import Study

    from nas.study.analysis.results import StudyResults
    from nas.study.experiment import Experiment

app = new_app()


@dataclass(frozen=True)
class DocumentOptions:
    """Files to write besides what is printed."""

    html: Annotated[Path | None, typer.Option(help="Write one page that explains the study, for a browser.")] = None
    csv: Annotated[Path | None, typer.Option(help="Write all finished trials as a table.")] = None
    copy_to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Copy the study, its companions, notes and images into a database."),
    ] = None
    figures: Annotated[Path | None, typer.Option(help="Write PNG and SVG figures for a paper into a folder.")] = None

    def paths(self) -> list[Path]:
        """Those that are wanted."""
        return [path for path in (self.html, self.csv, self.figures) if path is not None]


@command(app)
def main(
    location: LocationOptions,
    documents: DocumentOptions,
    code: CodeOptions,
    selection: SelectionOptions,
    output: OutputOptions,
    study: Annotated[str, typer.Option(help="Name of a study that was searched.")] = "quickstart",
    data: People = None,
) -> None:
    """Print the front, and row by row how it compares with the published networks.

    The published networks are those of the study's `baselines`, trained under
    the same short schedule as every candidate. "Trade-off" is the score of Samadh
    & Al Khatib (2023) against the study's own hg2: 0.8 times the change of PCKh,
    0.1 times the MAdds and 0.1 times the params saved, all in per cent. "On
    front" is the probability, given the noise between seeds, that no other
    network dominates it; nas.search --confirm trains the least certain again.
    The panels of the study's dashboard are updated as well.

    --pick, --trial and --published print a single trial.

    Example: python -m nas.report --study quickstart --html quickstart.html
    """
    check_study_exists(study, location.runs, location.storage)

    from nas.study.analysis.results import load_results
    from nas.study.experiment import load
    from nas.study.reporting.study_report import print_study, print_trial, study_record

    _check_selection(selection)
    experiment, opened = load(study, location.runs, location.storage, data)
    number = _selected_trial(experiment, opened, selection)
    results = load_results(experiment, opened)
    if documents.copy_to is not None:
        from nas.study.reporting.study_move import copy_study_to

        names = copy_study_to(results, documents.copy_to)
        stderr.print(f"copied: {', '.join(names)}", soft_wrap=True)
    if number is not None:
        print_trial(results, number, output.as_json)
        return
    _write(results, documents)
    if output.as_json:
        print(json.dumps(study_record(results)))
        return
    from nas.study.reporting.dashboard import save_panels

    save_panels(results)
    print_study(results)
    for path in documents.paths():
        console.print(f"wrote {path}", soft_wrap=True)


def _check_selection(selection: SelectionOptions) -> None:
    from nas.study.analysis.selection import PICKS

    limits = selection.limits()
    if sum(way is not None for way in (selection.pick, selection.trial, selection.published)) > 1:
        raise UserError("give one of --pick, --trial and --published")
    if limits and selection.pick is None:
        raise UserError(f"{limits}: say what to pick within it: --pick {'|'.join(PICKS)}")


def _selected_trial(experiment: Experiment, study: Study, selection: SelectionOptions) -> int | None:
    """The number of the trial that the flags choose; None where they choose none."""
    from nas.study.analysis.baselines import baseline_trial
    from nas.study.analysis.selection import pick

    if selection.pick is not None:
        return pick(experiment, study, selection.pick, selection.limits()).number
    if selection.published is not None:
        return baseline_trial(experiment, study, selection.published)
    return selection.trial


def _write(results: StudyResults, documents: DocumentOptions) -> None:
    """Write the files that flags ask for."""
    if not documents.paths():
        return
    from nas.study.reporting.csv_export import write_csv
    from nas.study.reporting.html_report import write_html_report
    from nas.study.reporting.paper_export import write_figures

    if documents.html is not None:
        write_html_report(results, documents.html)
    if documents.csv is not None:
        write_csv(results, documents.csv)
    if documents.figures is not None:
        write_figures(results, documents.figures)


if __name__ == "__main__":
    run(app)
