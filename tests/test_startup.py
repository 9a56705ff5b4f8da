"""Help and mistyped flags or names answer at once: what is heavy is imported when work begins, and not before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas.__main__ import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("cv2", "fvcore", "h5py", "matplotlib", "onnx", "optuna", "plotly", "scipy", "sqlalchemy", "torch")

PACKERS = ("lsp", "mpii", "flic", "coco", "synthetic", "check")
HELP = [[name, "--help"] for name in COMMANDS] + [["prepare", packer, "--help"] for packer in PACKERS]
WRONG = [
    *(([name, "--no-such-flag"], "--no-such-flag") for name in COMMANDS),
    (["search", "--study", "nope"], "nope: no such file"),
    (["search", "--space", "nope"], "nope: no such file"),
    (["search", "--trials", "0"], "--trials 0"),
    (["search", "--workers", "many"], "--workers many"),
    (["search", "--calibrate", "2"], "--calibrate 2"),
    (["report", "--study", "nope"], "--study nope: there is no runs/nope/study.db"),
    (["retrain", "--study", "nope", "--pick", "knee"], "--study nope"),
    (["dashboard", "--study", "nope"], "--study nope"),
    (["workers", "--study", "nope"], "--study nope"),
    (["replay", "--study", "nope"], "--study nope"),
    (["replay", "--record", "nope.json"], "--record nope.json does not exist"),
    (["export", "--study", "nope", "--pick", "knee", "--onnx", "a.onnx"], "--study nope"),
    (["export", "nope.pt", "--onnx", "a.onnx"], "CHECKPOINT nope.pt does not exist"),
    (["evaluate", "nope.pt", "--data", "people.h5"], "CHECKPOINT nope.pt does not exist"),
    (["evaluate", "--predictions", "nope.mat", "--ground-truth", "nope.mat"], "nope.mat does not exist"),
    (["predict", "nope.pt", "a.jpg"], "CHECKPOINT nope.pt does not exist"),
    (["describe", "--space", "nope"], "nope: no such file"),
    (["describe", "hg2", "--joints", "0"], "--joints 0"),
    (["bench", "--seconds", "0"], "--seconds"),
    (["prepare", "lsp", "--images", "nope", "--annotations", "a.mat", "--out", "a.h5"], "--images nope"),
    (["prepare", "check", "nope.h5"], "PEOPLE.H5 nope.h5 does not exist"),
]

SCRIPT = """
import contextlib, io, json, sys
from nas.__main__ import main
results = []
for arguments in json.load(sys.stdin):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    loaded = [name for name in sys.argv[1:] if name in sys.modules]
    results.append([code, errors.getvalue(), loaded])
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """Exit code, standard error and heavy modules that are loaded after each command line, all in one process."""
    lines = [["--help"], ["--version"], *HELP, *(arguments for arguments, _ in WRONG)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *HEAVY],
        input=json.dumps(lines),
        cwd=tmp_path_factory.mktemp("empty"),
        capture_output=True,
        text=True,
        check=True,
    )
    return {" ".join(line): tuple(answer) for line, answer in zip(lines, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *HELP], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str], answers: dict[str, tuple[int, str, list[str]]]) -> None:
    assert answers[" ".join(arguments)] == (0, "", [])


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_mistakes_import_nothing_heavy(
    arguments: list[str], message: str, answers: dict[str, tuple[int, str, list[str]]]
) -> None:
    code, errors, loaded = answers[" ".join(arguments)]
    assert (code, errors.count("\n"), loaded) == (2, 1, [])
    assert message in errors


def test_every_command_is_listed() -> None:
    folder = Path(__file__).resolve().parents[1] / "nas"
    commands = {path.stem for path in folder.glob("*.py") if "\napp = new_app(" in path.read_text(encoding="utf-8")}
    assert commands == set(COMMANDS)


@pytest.mark.parametrize("library", ["typer", "torch"])
def test_ctrl_c_during_an_import_ends_with_one_line(tmp_path: Path, library: str) -> None:
    # A library that takes long to import, and turns the interrupt into another error, as numpy does.
    (tmp_path / f"{library}.py").write_text(
        "import time\n"
        "print('importing', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise ImportError('half imported')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    with subprocess.Popen(
        [sys.executable, "-m", "nas.describe", "hg2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted; run the same command again to continue\n")


def test_a_program_that_imports_the_package_keeps_its_own_ctrl_c() -> None:
    program = "import signal, nas; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    line = [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler); {program}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment, check=True)
    assert done.stdout == "True\n"
