"""All commands under one name: ``hourglass-nas search …`` is ``python -m nas.search …``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from nas import __version__
from nas.console import exit_with_error, run

COMMANDS = (
    "search",
    "report",
    "retrain",
    "evaluate",
    "predict",
    "export",
    "prepare",
    "describe",
    "replay",
    "workers",
    "dashboard",
    "bench",
)
"""Modules of this package that are commands, in the order in which they are listed."""

PROGRAM = "hourglass-nas"


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command named by the first argument with the arguments that follow, and end the process.

    Args:
        args: the arguments; by default those of the process.
    """
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name == "--help":
        print(_overview())
    elif name == "--version":
        print(f"{PROGRAM} {__version__}")
    elif name in COMMANDS:
        run(importlib.import_module(f"nas.{name}").app, rest, program=f"{PROGRAM} {name}")
    else:
        exit_with_error(f"{PROGRAM} {name}: no such command; one of {', '.join(COMMANDS)}")
    sys.exit(0)


def _overview() -> str:
    """Every command with one line: what its module's docstring says before the example."""
    lines = [f"Usage: {PROGRAM} COMMAND [OPTIONS]", "", "Commands:"]
    for name in COMMANDS:
        summary = (importlib.import_module(f"nas.{name}").__doc__ or "").partition(":")[0]
        lines.append(f"  {name:<10} {summary}")
    lines += ["", "Options:", "  --version  Print the version and exit.", "  --help     Print this overview and exit."]
    lines += ["", f"`{PROGRAM} COMMAND --help` explains a command; `python -m nas.COMMAND` is the same command."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
