"""A study's finished trials as a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from nas.study.analysis.importance import active
from nas.study.analysis.results import StudyResults
from nas.study.files import write_file

COLUMNS = ("pckh", "pckh_of_seeds", "standard_error", "params", "madds", "layers", "on_front", "chance", "tradeoff")


def _text_cell(value: Any) -> Any:
    """A value of a choice or a text; a text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_csv(results: StudyResults, path: Path) -> None:
    """Write one row per finished trial: results, costs, the value of every choice, and the network's description.

    A choice that has no effect on a network is left empty. The PCKh of several seeds are separated by semicolons.

    Raises:
        UserError: the file cannot be written.
    """
    choices = list(results.experiment.space.choices)
    on_front = {m.number for m in results.front}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", *COLUMNS, "published", *choices, "network"])
    for m in results.measured:
        trial = results.trials[m.number]
        effective = active(results.experiment.space, trial.params) if set(choices) <= set(trial.params) else set()
        candidate = results.experiment.candidate_of(trial)
        table.writerow(
            [m.number, repr(m.mean), ";".join(map(repr, m.values)), repr(results.error(m.number)), m.params, m.madds]
            + [results.experiment.cost(candidate).layers, int(m.number in on_front), repr(m.chance)]
            + [results.scores.get(m.number, ""), _text_cell(results.published.get(m.number, ""))]
            + [_text_cell(trial.params[name]) if name in effective else "" for name in choices]
            + [_text_cell(trial.user_attrs.get("network") or str(candidate))]
        )
    write_file(path, text.getvalue().encode(), "--csv")
