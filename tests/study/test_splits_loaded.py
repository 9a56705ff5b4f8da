"""Which people each part of the system looks at: a search never sees those that final figures are made on."""

from __future__ import annotations

import ast
from pathlib import Path

NAS = Path(__file__).resolve().parents[2] / "nas"


def loads(path: Path) -> set[str | None]:
    """Splits that a module loads; None: one that is not written there."""
    splits: set[str | None] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = ast.unparse(node.func.value)
        if node.func.attr == "load_people":
            wanted = node.args[0]
        elif node.func.attr == "load" and owner == "PackedPeople":
            wanted = node.args[1]
        else:
            continue
        try:
            found = ast.literal_eval(wanted)
        except ValueError:
            splits.add(None)
        else:
            splits |= {found} if isinstance(found, str) else set(found)
    return splits


def test_only_retraining_and_evaluation_see_the_validation_people() -> None:
    found = {str(path.relative_to(NAS)): loads(path) for path in NAS.rglob("*.py")}
    assert {name: splits for name, splits in found.items() if splits} == {
        "study/execution/worker.py": {"train", "holdout"},
        "study/execution/full_training.py": {"train", "holdout", "valid"},
        "study/experiment.py": {None},  # load_people itself
        "benchmark/task.py": {"train"},  # to measure speed
        "benchmark/workloads.py": {"train"},
        "inference/scoring.py": {None},  # --split of nas.evaluate
        "inference/network_export.py": {"valid"},  # PCKh of a finished network, for its card; nothing is chosen by it
    }
