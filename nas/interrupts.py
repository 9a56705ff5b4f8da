"""Ctrl-C while a command starts.

Python raises KeyboardInterrupt wherever it happens to be. Inside an import that leaves half-initialized modules, and
some libraries turn it into another error. While a command starts there is nothing to save, so it ends at once instead.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

MESSAGE = "interrupted; run the same command again to continue"


def is_command() -> bool:
    """Whether this process was started as ``python -m nas.COMMAND`` or ``hourglass-nas``, and is still importing it."""
    started = sys.argv[:1]
    if started == ["-m"]:
        arguments = sys.orig_argv
        return any(flag == "-m" and name.split(".")[0] == "nas" for flag, name in pairwise(arguments))
    return bool(started) and os.path.basename(started[0]) == "hourglass-nas"


def end_at_once_while_starting() -> None:
    """End the process at once on Ctrl-C; a process that ignores Ctrl-C, or handles it otherwise, is left alone."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def command_begins() -> None:
    """From now on, end at once only during an import."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _end_during_imports)


def work_begins() -> None:
    """From now on, raise KeyboardInterrupt as usual: there is something to save."""
    if signal.getsignal(signal.SIGINT) in (_end, _end_during_imports):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{MESSAGE}\n".encode())
    os._exit(INTERRUPTED)


def _end_during_imports(number: int, frame: FrameType | None) -> None:
    inner = frame
    while inner is not None:
        if inner.f_globals.get("__name__") == "importlib._bootstrap":
            _end(number, frame)
        inner = inner.f_back
    signal.default_int_handler(number, frame)
