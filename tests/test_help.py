"""The help of every command fits a screen and has an example; long-running commands have ``--quiet``."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import typer
from typer.testing import CliRunner

import nas
from nas.console import Quiet, console, progress, run

COMMANDS = [
    module.name
    for module in pkgutil.iter_modules(nas.__path__)
    if not module.ispkg and hasattr(importlib.import_module(f"nas.{module.name}"), "app")
]
PACKERS = ("lsp", "mpii", "flic", "coco", "synthetic")
LONG = {"search", "retrain", "evaluate", "predict", "report", "export", "replay", "describe", "bench"} | {
    f"prepare {packer}" for packer in PACKERS
}


def app_of(name: str) -> typer.Typer:
    found = importlib.import_module(f"nas.{name}").app
    assert isinstance(found, typer.Typer)
    return found


@pytest.mark.parametrize("command", [*COMMANDS, *(f"prepare {packer}" for packer in (*PACKERS, "check"))])
def test_help_fits_a_screen(command: str) -> None:
    name, *rest = command.split()
    done = CliRunner().invoke(app_of(name), [*rest, "--help"], env={"COLUMNS": "80"}, terminal_width=80)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert "Example: python -m nas." in done.output
    assert ("--quiet" in done.output) == (command in LONG)


def test_all_commands_are_found() -> None:
    assert {"search", "report", "retrain", "prepare", "evaluate", "predict", "export", "describe"} <= set(COMMANDS)
    assert {name.split()[0] for name in LONG} <= set(COMMANDS)


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_quiet_hides_progress_but_not_results(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def main(quiet: Quiet = False) -> None:
        with progress("counting", 2, every=0) as advance:
            advance(1)
        console.print("a result")

    with pytest.raises(SystemExit):
        run(app, flags)
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert ("counting: 1 of 2" in err) == (not flags)
