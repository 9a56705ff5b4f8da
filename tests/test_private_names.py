"""Optuna's private names are used in one package only: nas.study.storage."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

NAS = Path(__file__).resolve().parents[1] / "nas"
ALLOWED = NAS / "study" / "storage"
# Private attributes of Optuna's studies, trials and storages.
ATTRIBUTES = {"_storage", "_trial_id", "_study_id", "_backend", "_get_trials", "_cached_frozen_trial"}
LIBRARIES = ("optuna", "optuna_dashboard")


def private_names(source: str) -> list[str]:
    """Uses of Optuna's private attributes, and imports of its private modules and names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            found.append(f"line {node.lineno}: .{node.attr}")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner.split(".")[0] in LIBRARIES:
                found.append(f"line {node.lineno}: {owner}.{node.attr}")
        elif isinstance(node, ast.Import):
            found += [f"line {node.lineno}: {a.name}" for a in node.names if _is_private(a.name)]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{a.name}" for a in node.names]
            found += [f"line {node.lineno}: {name}" for name in names if _is_private(name)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and name.value in ATTRIBUTES:
                found.append(f"line {node.lineno}: getattr {name.value}")
    return found


def _is_private(name: str) -> bool:
    library, *rest = name.split(".")
    return library in LIBRARIES and any(part.startswith("_") for part in rest)


def test_only_the_storage_package_uses_them() -> None:
    files = [path for path in NAS.rglob("*.py") if ALLOWED not in path.parents]
    assert len(files) > 100
    found = {str(path.relative_to(NAS)): private_names(path.read_text(encoding="utf-8")) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("storage = study._storage", "._storage"),
        ("trials = study._get_trials(deepcopy=False)", "._get_trials"),
        ("number = trial._trial_id", "._trial_id"),
        ("engine = getattr(storage, '_backend').engine", "_backend"),
        ("from optuna.storages._cached_storage import _CachedStorage", "_CachedStorage"),
        ("import optuna._hypervolume", "optuna._hypervolume"),
        ("from optuna import _hypervolume", "optuna._hypervolume"),
        ("volume = optuna._hypervolume.compute_hypervolume(points, bound)", "optuna._hypervolume"),
        ("from optuna_dashboard._note import get_note_from_system_attrs", "optuna_dashboard._note"),
    ],
)
def test_it_notices_them(line: str, name: str) -> None:
    (found,) = private_names(line)
    assert name in found


def test_it_accepts_public_names() -> None:
    assert private_names("import optuna\nfrom optuna.trial import TrialState\nx = study.trials\ny = self._store") == []
