"""What all commands share: starting, printing, progress, errors and exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn, overload

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nas import interrupts
from nas.errors import TerminatedError, UserError
from nas.names import PRINTABLE, printable

_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"} | {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Control characters, and those that reverse the direction of what follows, as shown instead."""


def harmless(text: str) -> str:
    """Return a text with control characters escaped: a terminal would execute those in a file's name or content."""
    return printable(text).translate(_UNPRINTABLE)


class PlainConsole(Console):
    """A console that shows texts as they are: no markup, no emoji names, control characters escaped."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Turn a text into a renderable; rich calls it for everything that is printed, and for the cells of tables."""
        return super().render_str(harmless(text), **(settings | {"markup": False, "emoji": False}))


console = PlainConsole()
"""Results, on standard output."""

stderr = PlainConsole(stderr=True)
"""Progress and errors."""

TERMINATED = 143
"""Exit code after a SIGTERM, as shells report it."""

_showing = True
"""Whether progress is shown; results, notes and errors always are."""


def set_quiet(quiet: bool) -> bool:
    """Hide progress, or show it; returns what it was given, as the callback of an option must."""
    global _showing
    _showing = not quiet
    return quiet


Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.", callback=set_quiet)]
"""The flag of a command; parsing it is enough."""

# typer's own errors about flags derive from click's ClickException, which different versions keep in different
# places; the class is always the grandparent of the exported BadParameter.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]


def run(app: typer.Typer, args: Sequence[str] | None = None, program: str | None = None) -> NoReturn:
    """Run a command and end the process.

    Exit codes: 0, or what the command says; 2 for bad input (:class:`UserError`, unknown or ill-typed flags), with
    one line on standard error; 130 after Ctrl-C; 143 after a SIGTERM that a command handles. Anything else is a bug
    and shows its traceback.

    Args:
        app: the command.
        args: its arguments; by default those of the process.
        program: its name in the usage line; by default the name it was started under.
    """
    interrupts.command_begins()
    make_printable()
    try:
        code = app(args=args, prog_name=program, standalone_mode=False)
    except UserError as error:
        exit_with_error(str(error))
    except _UsageError as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        exit_with_error(f"{message.rstrip('.')}; see --help")
    except (KeyboardInterrupt, typer.Abort):
        code = interrupts.INTERRUPTED
    except TerminatedError as error:
        print(error, file=sys.stderr)
        code = TERMINATED
    if code == interrupts.INTERRUPTED:
        print(interrupts.MESSAGE, file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def make_printable() -> None:
    """Let standard output and error take any text in any locale: what they cannot encode is written as ``\\xe9``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PRINTABLE)


@contextmanager
def deferred_sigterm() -> Iterator[Callable[[], bool]]:
    """Keep a SIGTERM from ending the process; yields a function that tells whether one has come.

    Schedulers send it some seconds before they kill, so that a program can save its state.
    """
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_with_error(message: str) -> NoReturn:
    """Print an error as one line on standard error and end the process with exit code 2."""
    print("error:", harmless(" ".join(message.split())), file=sys.stderr)
    sys.exit(2)


def default_workers() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@overload
def parse_count(text: str, flag: str) -> int: ...
@overload
def parse_count(text: None, flag: str) -> None: ...
def parse_count(text: str | None, flag: str) -> int | None:
    """Parse a count such as 1.5M, 3G, 200k or 1000000; None where the flag is not given.

    Raises:
        UserError: not a positive number; the message names ``flag``.
    """
    if text is None:
        return None
    sizes = {"K": 1e3, "M": 1e6, "G": 1e9}
    cleaned = text.strip().upper()
    if re.fullmatch(r"\d{1,3}([,_]\d{3})+", cleaned):  # groups of three digits; 1,5M is 1.5M in some countries
        cleaned = re.sub("[,_]", "", cleaned)
    factor = sizes.get(cleaned[-1:], 1.0)
    try:
        value = float("nan") if "_" in cleaned else float(cleaned[:-1] if cleaned[-1:] in sizes else cleaned) * factor
    except ValueError:
        value = float("nan")
    if not 1 <= value < 1e18:
        raise UserError(f"{flag} {text}: must be a positive count such as 1.5M, 3G or 800000")
    return round(value)


def format_count(number: float) -> str:
    """Format a count with a unit: 6.73 M, 9.04 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def format_duration(seconds: float) -> str:
    """Format seconds as 1:05 or 2:03:04."""
    total = max(0, round(seconds))
    hours, rest = divmod(total, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def existing_file(path: Path, flag: str) -> Path:
    """Return the path of a file that exists.

    Raises:
        UserError: it is missing or not a file; the message names ``flag``.
    """
    if path.is_file():
        return path
    wrong = "is not a file" if path.exists() else "does not exist"
    raise UserError(f"{flag} {path} {wrong}; give the path of an existing file")


def existing_directory(path: Path, flag: str) -> Path:
    """Return the path of a directory that exists.

    Raises:
        UserError: it is missing or not a directory; the message names ``flag``.
    """
    if path.is_dir():
        return path
    wrong = "is not a directory" if path.exists() else "does not exist"
    raise UserError(f"{flag} {path} {wrong}; give the path of an existing directory")


def writable_directory(path: Path, flag: str) -> Path:
    """Return the path of a directory that can be written to; it is created if need be.

    Raises:
        UserError: it cannot be created or written to, or is a file; the message names ``flag``.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{flag} {path} is a file; give a directory") from error
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be created ({error.strerror}); choose another one") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path} cannot be written to; choose another one")
    return path


def writable_file(path: Path, flag: str) -> Path:
    """Return the path of a file that can be written; its directory is created if need be.

    Raises:
        UserError: it is a directory, or its directory cannot be written to; the message names ``flag``.
    """
    if path.is_dir():
        raise UserError(f"{flag} {path} is a directory; give the name of a file")
    writable_directory(path.parent, f"the folder of {flag},")
    return path


def print_note(text: str) -> None:
    """Print a note on standard error."""
    stderr.print(f"note: {text}", soft_wrap=True)


def print_json(value: object, **options: Any) -> None:
    """Print JSON that is valid in any locale: what standard output cannot encode is escaped as JSON does.

    Args:
        value: plain values; texts in them may be names of files, see :func:`nas.names.printable`.
        options: of ``json.dumps``.
    """
    value = _printable_texts(value)
    text = json.dumps(value, ensure_ascii=False, **options)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, **options)
    print(text)


def _printable_texts(value: object) -> object:
    if isinstance(value, dict):
        return {_printable_texts(key): _printable_texts(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable_texts(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def print_tables(*tables: Table | None) -> None:
    """Print tables at their own width: in a narrower terminal lines wrap, and no digits are cut off."""
    for table in tables:
        if table is None:
            continue
        if table.title:
            console.print(table.title, soft_wrap=True)  # rich would wrap it at the table's width
            table.title = None
        width = console.measure(table, options=console.options.update(max_width=1000)).maximum
        PlainConsole(width=width).print(table)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


@contextmanager
def progress(title: str, total: int, every: float = 5.0) -> Iterator[Callable[[int], None]]:
    """Show the progress of some work, with its rate and the time left, on standard error.

    In a terminal it is a bar; elsewhere a plain line every few seconds, so that logs stay readable.

    Args:
        title: of the work.
        total: number of items.
        every: seconds between plain lines.

    Yields:
        A function to call with the number of items done so far.
    """
    if not _showing:
        yield lambda done: None
        return
    if stderr.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn())
        with Progress(*columns, TimeRemainingColumn(), console=stderr, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)
        return

    start = last = time.monotonic()

    def line(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every and done:
            last = now
            rate = done / (now - start)
            left = (total - done) / rate
            print(f"{title}: {done:,} of {total:,}, {rate:,.0f}/s, {left:,.0f} s left", file=sys.stderr, flush=True)

    yield line


@contextmanager
def working(title: str) -> Iterator[None]:
    """Show a title while some work goes on whose progress is unknown; in a terminal only."""
    with stderr.status(title) if _showing else nullcontext():
        yield
