"""Imports run one way: commands → study → training → {architecture, data}; and every library has its room."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# What each room may import of ours. `nas.errors` is free to all.
ROOMS: Mapping[str, frozenset[str]] = {
    "architecture": frozenset({"architecture"}),
    "data": frozenset({"data"}),
    "training": frozenset({"training", "architecture", "data"}),
    "study": frozenset({"study", "training", "architecture", "data", "console"}),
    "command": frozenset({"study", "training", "architecture", "data", "console"}),
    "console": frozenset(),
    "errors": frozenset(),
    "nas": frozenset({"training", "architecture"}),  # nas.load, which imports them when it is called
}
# Where a library may be imported: rooms, or single modules.
LIBRARIES: Mapping[str, frozenset[str]] = {
    "optuna": frozenset({"study", "command"}),
    "sqlalchemy": frozenset({"study", "command"}),
    "h5py": frozenset({"data"}),
    "cv2": frozenset({"data"}),
    "fvcore": frozenset({"nas.architecture.cost"}),
    "typer": frozenset({"command", "console"}),
    "optuna_dashboard": frozenset({"nas.study.panels", "nas.study.keepsakes"}),
    "plotly": frozenset({"nas.study.plots", "nas.study.page"}),
    "jinja2": frozenset({"nas.study.page"}),
    "matplotlib": frozenset({"nas.study.paper"}),
    "onnx": frozenset({"nas.training.exporting"}),
    "onnxruntime": frozenset({"nas.training.exporting"}),
}


def modules(root: Path) -> dict[str, ast.Module]:
    """Every module of the package, parsed, by its dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(module: str, tree: ast.Module, is_package: bool) -> set[str]:
    """Dotted names of all that a module imports, wherever in it; those of a `from` with what is taken from there."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                here = here[: len(here) - node.level + (1 if is_package else 0)]
                base = ".".join([*here, *([base] if base else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def room(module: str, commands: set[str]) -> str:
    """Where a module of ours lives."""
    if module in commands:
        return "command"
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "nas"


def violations(root: Path) -> list[str]:
    """Every import that runs against the arrows."""
    trees = modules(root)
    commands = {
        name
        for name, tree in trees.items()
        if name.count(".") == 1
        and any(isinstance(n, ast.Assign) and [ast.unparse(t) for t in n.targets] == ["app"] for n in tree.body)
    }
    wrong = []
    for module, tree in trees.items():
        here = room(module, commands)
        package = any(other.startswith(f"{module}.") for other in trees)
        if here not in ROOMS:
            wrong.append(f"{module}: a room that this test does not know")
            continue
        for name in sorted(imports(module, tree, package)):
            library = name.split(".")[0]
            if library == "nas":
                target = name if name in trees else name.rpartition(".")[0]
                there = room(target, commands)
                if there not in ROOMS[here] | {"errors"}:
                    wrong.append(f"{module} ({here}) imports {target} ({there})")
            elif library in LIBRARIES and not {here, module} & LIBRARIES[library]:
                wrong.append(f"{module} ({here}) imports {library}")
    return wrong


def test_the_arrows_hold() -> None:
    found = modules(REPOSITORY / "nas")
    assert {"nas.search", "nas.study.workers", "nas.training.loop", "nas.data.packed"} <= set(found)
    assert violations(REPOSITORY / "nas") == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("architecture/spec", "from nas.data.people import Person", "nas.architecture.spec (architecture) imports"),
        ("architecture/spec", "import nas.training.loop", "nas.training.loop (training)"),
        ("architecture/spec", "from nas.console import run", "(console)"),
        ("architecture/spec", "from ..data import people", "nas.data.people (data)"),
        ("architecture/blocks/ghost", "from ...study import space", "nas.study.space (study)"),
        ("architecture/spec", "import fvcore.nn", "imports fvcore"),
        ("data/people", "def late():\n    from nas.architecture import spec", "nas.architecture.spec (architecture)"),
        ("training/loop", "from nas.study.space import SearchSpace", "nas.study.space (study)"),
        ("training/loop", "from nas import console", "nas.console (console)"),
        ("training/loop", "import optuna", "imports optuna"),
        ("training/loop", "import cv2 as cv", "imports cv2"),
        ("study/space", "from nas.search import app", "nas.search (command)"),
        ("study/space", "import h5py", "imports h5py"),
        ("retrain", "import nas.search", "nas.retrain (command) imports nas.search (command)"),
        ("retrain", "from nas import search", "nas.retrain (command) imports nas.search (command)"),
        ("console", "from nas.study import space", "nas.console (console) imports nas.study.space (study)"),
        ("cluster/nodes", "", "nas.cluster.nodes: a room that this test does not know"),
    ],
)
def test_it_notices_what_runs_against_them(module: str, line: str, complaint: str, tmp_path: Path) -> None:
    good = {
        "__init__": "",
        "errors": "",
        "console": "from nas.errors import UserError",
        "search": "from nas import console\nfrom nas.study import space\nimport optuna\napp = None",
        "retrain": "from nas.console import run\nimport nas.training.loop\napp = None",
        "study/__init__": "",
        "study/space": "import sqlalchemy\nfrom nas.console import run\nfrom nas.training import loop",
        "training/__init__": "",
        "training/loop": "from nas.architecture.spec import Architecture\nfrom ..data.people import Person",
        "architecture/__init__": "",
        "architecture/spec": "from nas import errors\nfrom nas.architecture.blocks import ghost",
        "architecture/cost": "from fvcore.nn import FlopCountAnalysis",
        "architecture/blocks/__init__": "from . import ghost",
        "architecture/blocks/ghost": "from nas.errors import UserError",
        "data/__init__": "",
        "data/people": "import cv2\nimport h5py",
    }
    for name, text in good.items():
        path = tmp_path / "nas" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert violations(tmp_path / "nas") == []
    changed = tmp_path / "nas" / f"{module}.py"
    changed.parent.mkdir(parents=True, exist_ok=True)
    changed.write_text(good.get(module, "") + "\n" + line)
    found = violations(tmp_path / "nas")
    assert len(found) == 1
    assert complaint in found[0]
