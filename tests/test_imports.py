"""Imports run one way, as CONTRIBUTING.md draws it, and every library has its room."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

_LEAVES = frozenset({"study.files", "study.pareto"})
_SPACE = _LEAVES | {"study.space"}
_EXPERIMENT = _SPACE | {"study.optimization", "study.storage", "study.experiment"}
_ANALYSIS = _EXPERIMENT | {"study.analysis"}
_EXECUTION = _ANALYSIS | {"study.execution"}
_REPORTING = _EXECUTION | {"study.reporting"}
_TRAINING = frozenset({"training", "architecture", "data"})
_BELOW_STUDY = _TRAINING | {"inference", "benchmark", "console"}

FREE = frozenset({"nas", "errors", "consent", "interrupts", "names"})

# What each room may import of ours, by the longest name that fits. Free to all: those of `FREE`.
ROOMS: Mapping[str, frozenset[str]] = {
    "architecture": frozenset({"architecture"}),
    "data": frozenset({"data"}),
    "training": _TRAINING,
    "inference": _TRAINING | {"inference"},
    "benchmark": _TRAINING | {"benchmark"},
    "study": frozenset(),
    "study.files": _BELOW_STUDY | _LEAVES,
    "study.pareto": _BELOW_STUDY | _LEAVES,
    "study.space": _BELOW_STUDY | _SPACE,
    "study.optimization": _BELOW_STUDY | _SPACE | {"study.optimization", "study.storage"},
    "study.storage": _BELOW_STUDY | _SPACE | {"study.storage"},
    "study.experiment": _BELOW_STUDY | _EXPERIMENT,
    "study.analysis": _BELOW_STUDY | _ANALYSIS,
    "study.execution": _BELOW_STUDY | _EXECUTION,
    "study.reporting": _BELOW_STUDY | _REPORTING,
    "command": _BELOW_STUDY | _REPORTING | {"options"},
    "console": frozenset(),
    "options": _TRAINING | _ANALYSIS | {"console"},  # imports them when an option is read
    "__main__": frozenset({"console"}),  # it imports a command by its name
    "errors": frozenset(),
    "consent": frozenset(),
    "interrupts": frozenset(),
    "names": frozenset(),
    "nas": frozenset({"training", "architecture"}),  # nas.load, which imports them when it is called
}
# Modules that stand beside a room and belong to it.
BESIDE: Mapping[str, str] = {
    "nas.study.config": "study.experiment",
    "nas.study.people_file": "study.experiment",
    "nas.study.provenance": "study.experiment",
    "nas.study.stored_settings": "study.experiment",
    "nas.study.understood_trials": "study.experiment",
}
# Where a library may be imported: rooms, rooms that hold them, or single modules.
LIBRARIES: Mapping[str, frozenset[str]] = {
    "optuna": frozenset({"study", "command"}),
    "sqlalchemy": frozenset({"study", "command"}),
    "h5py": frozenset({"data"}),
    "cv2": frozenset({"data", "nas.benchmark.dataloader_baseline"}),
    "fvcore": frozenset({"nas.architecture.cost"}),
    "typer": frozenset({"command", "console", "options"}),
    "optuna_dashboard": frozenset({"nas.study.reporting.dashboard", "nas.study.execution.trial_artifacts"}),
    "plotly": frozenset(
        {
            "nas.study.reporting.html_report",
            "nas.study.reporting.plotly_figures",
            "nas.study.reporting.plotly_importance",
            "nas.study.reporting.plotly_layout",
        }
    ),
    "jinja2": frozenset({"nas.study.reporting.html_report"}),
    "matplotlib": frozenset({"nas.study.reporting.paper_export"}),
    "onnx": frozenset({"nas.inference.onnx_export"}),
    "onnxruntime": frozenset({"nas.inference.onnx_export"}),
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
    if module in BESIDE:
        return BESIDE[module]
    inside = module.removeprefix("nas").removeprefix(".")
    found = [name for name in ROOMS if inside == name or inside.startswith(f"{name}.")]
    return max(found, key=len) if found else inside.split(".")[0] or "nas"


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
        if here not in ROOMS or (here == "study" and module != "nas.study"):
            wrong.append(f"{module}: a room that this test does not know")
            continue
        for name in sorted(imports(module, tree, package)):
            library = name.split(".")[0]
            if library == "nas":
                target = name if name in trees else name.rpartition(".")[0]
                there = room(target, commands)
                if there not in ROOMS[here] | FREE:
                    wrong.append(f"{module} ({here}) imports {target} ({there})")
            elif library in LIBRARIES and not {here, here.split(".")[0], module} & LIBRARIES[library]:
                wrong.append(f"{module} ({here}) imports {library}")
    return wrong


def test_the_arrows_hold() -> None:
    found = modules(REPOSITORY / "nas")
    assert {"nas.search", "nas.study.execution.worker_pool", "nas.training.loop", "nas.data.packed.format"} <= set(
        found
    )
    assert violations(REPOSITORY / "nas") == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("architecture/spec", "from nas.data.people import Person", "nas.architecture.spec (architecture) imports"),
        ("architecture/spec", "import nas.training.loop", "nas.training.loop (training)"),
        ("architecture/spec", "from nas.console import run", "(console)"),
        ("architecture/spec", "from ..data import people", "nas.data.people (data)"),
        ("architecture/blocks/ghost", "from ...study.space import choices", "nas.study.space.choices (study.space)"),
        ("architecture/spec", "import fvcore.nn", "imports fvcore"),
        ("data/people", "def late():\n    from nas.architecture import spec", "nas.architecture.spec (architecture)"),
        ("training/loop", "from nas.study.space.choices import Choice", "nas.study.space.choices (study.space)"),
        ("training/loop", "import nas.inference.predictor", "nas.inference.predictor (inference)"),
        ("training/loop", "from nas import console", "nas.console (console)"),
        ("training/loop", "import optuna", "imports optuna"),
        ("training/loop", "import cv2 as cv", "imports cv2"),
        ("inference/predictor", "import nas.benchmark", "nas.benchmark (benchmark)"),
        ("study/space/choices", "from nas.search import app", "nas.search (command)"),
        ("study/space/choices", "import h5py", "imports h5py"),
        ("study/space/choices", "import nas.study.experiment", "nas.study.experiment (study.experiment)"),
        ("study/space/choices", "from nas.study import config", "nas.study.config (study.experiment)"),
        ("study/storage/locks", "from ..optimization import samplers", "nas.study.optimization.samplers"),
        ("study/experiment", "from nas.study.analysis import results", "nas.study.analysis.results (study.analysis)"),
        ("study/analysis/results", "import nas.study.execution.trial", "nas.study.execution.trial (study.execution)"),
        ("study/execution/trial", "from nas.study.reporting import page", "nas.study.reporting.page (study.reporting)"),
        ("retrain", "import nas.search", "nas.retrain (command) imports nas.search (command)"),
        ("retrain", "from nas import search", "nas.retrain (command) imports nas.search (command)"),
        ("console", "from nas.study import files", "nas.console (console) imports nas.study.files (study.files)"),
        ("cluster/nodes", "", "nas.cluster.nodes: a room that this test does not know"),
        ("study/cluster", "", "nas.study.cluster: a room that this test does not know"),
    ],
)
def test_it_notices_what_runs_against_them(module: str, line: str, complaint: str, tmp_path: Path) -> None:
    good = {
        "__init__": "",
        "errors": "",
        "console": "from nas.errors import UserError",
        "search": "from nas import console\nfrom nas.study.reporting import page\nimport optuna\napp = None",
        "retrain": "from nas.console import run\nimport nas.training.loop\napp = None",
        "benchmark/__init__": "",
        "inference/__init__": "",
        "inference/predictor": "from nas.training import loop",
        "study/__init__": "",
        "study/files": "from nas.console import run",
        "study/config": "from nas.study.space.choices import Choice",
        "study/experiment": "from nas.study import config\nfrom nas.study.storage import locks",
        "study/space/__init__": "",
        "study/space/choices": "from nas.study.files import find\nfrom nas.training import loop",
        "study/optimization/__init__": "",
        "study/optimization/samplers": "from nas.study.space.choices import Choice",
        "study/storage/__init__": "",
        "study/storage/locks": "import sqlalchemy",
        "study/analysis/__init__": "",
        "study/analysis/results": "from nas.study.experiment import Experiment",
        "study/execution/__init__": "",
        "study/execution/trial": "from ..analysis.results import StudyResults",
        "study/reporting/__init__": "",
        "study/reporting/page": "from nas.study.execution.trial import run",
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
