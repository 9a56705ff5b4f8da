"""Options of the command line: groups that several commands share, and how a group becomes flags.

A command is a function. A parameter whose type is a dataclass stands for a group of options: each field of the
dataclass becomes one option with the field's annotation and default, and the function receives the dataclass::

    @dataclass(frozen=True)
    class LocationOptions:
        runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs")

    @command(app)
    def main(study: str, location: LocationOptions) -> None: ...

This module and the modules of the commands import nothing heavy at the top (PyTorch, Optuna, OpenCV …), so that
``--help`` and mistyped flags answer at once. A command imports what it needs when its work begins.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from nas import __version__
from nas.consent import allow_code
from nas.console import Quiet
from nas.errors import UserError

if TYPE_CHECKING:
    from nas.study.analysis.selection import SelectionLimits

Command = TypeVar("Command", bound=Callable[..., None])


def new_app(**settings: Any) -> typer.Typer:
    """Create a typer application with the settings that all commands share; ``settings`` are added to them."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hourglass-nas {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
]
"""The flag, of every command, that prints the version; parsing it is enough."""


def add_version(app: typer.Typer) -> None:
    """Add ``--version`` to an application of several commands."""

    @app.callback()
    def callback(version: Version = False) -> None: ...


def command(app: typer.Typer, **settings: Any) -> Callable[[Command], Command]:
    """Register a function as a command of an application; ``settings`` are those of ``typer.Typer.command``.

    Parameters that are dataclasses are expanded into options (see the module's docstring), and ``--version`` is added.

    Returns:
        A decorator that leaves the function as it is.
    """

    def register(function: Command) -> Command:
        app.command(**settings)(expand_options(function))
        return function

    return register


def expand_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that takes each field of a dataclass parameter as a parameter of its own.

    Args:
        function: its parameters are plain, or dataclasses whose fields are annotated as options.

    Returns:
        A function with keyword parameters only: the plain ones, the fields, and ``version``. It builds the
        dataclasses, whose ``__post_init__`` may raise :class:`nas.errors.UserError`, and calls ``function``.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type[Any]] = {}
    own: list[inspect.Parameter] = []
    grouped: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = hints[name]
        if is_dataclass(annotation) and isinstance(annotation, type):
            groups[name] = annotation
            grouped += _field_parameters(annotation)
        else:
            own.append(_keyword(name, annotation, parameter.default))
    parameters = [*own, *grouped, _keyword("version", Version, False)]

    @functools.wraps(function)
    def expanded(**values: Any) -> None:
        del values["version"]
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        function(**values)

    setattr(expanded, "__signature__", inspect.Signature(parameters))  # noqa: B010  (typer reads both)
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _field_parameters(group: type[Any]) -> list[inspect.Parameter]:
    """One keyword parameter for each field of a dataclass."""
    hints = get_type_hints(group, include_extras=True)
    defaults = {field.name: field.default for field in fields(group)}
    return [
        _keyword(name, hints[name], inspect.Parameter.empty if default is MISSING else default)
        for name, default in defaults.items()
    ]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


MaxPixels = Annotated[str, typer.Option(metavar="N", help="Larger images are not decoded.")]
"""The flag of commands that read images; :func:`nas.console.parse_count` reads its value."""
MAX_PIXELS_TEXT = "100M"


@dataclass(frozen=True)
class LocationOptions:
    """Where a study is stored."""

    storage: Annotated[str | None, typer.Option(help="Database URL; by default the study's own SQLite.")] = None
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs")

    def __post_init__(self) -> None:
        """Refuse what a database's URL cannot hold."""
        try:
            str(self.runs).encode("utf-8")
        except UnicodeEncodeError as error:
            remedy = "as the database's must be; choose another folder"
            raise UserError(f"--runs {self.runs}: the name is not UTF-8, {remedy}") from error


People = Annotated[Path | None, typer.Option(help="The study's packed people, if they were moved.")]
"""The flag of commands that read a study with people who may have been moved since it was searched."""


@dataclass(frozen=True)
class SelectionOptions:
    """Which network of a study is meant."""

    pick: Annotated[
        str | None, typer.Option(help="knee (best compromise), best (most accurate) or tradeoff (see nas.report).")
    ] = None
    trial: Annotated[int | None, typer.Option(help="The network of this trial.")] = None
    published: Annotated[str | None, typer.Option(help="A published network, e.g. hg2.")] = None
    max_params: Annotated[str | None, typer.Option(help="Pick among networks with at most this many, e.g. 1M.")] = None
    max_madds: Annotated[str | None, typer.Option(help="Pick among networks with at most this many, e.g. 3G.")] = None
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Pick among networks at most this slow per image here.")
    ] = None

    def limits(self, device: str = "auto") -> SelectionLimits:
        """The most that a network may cost to be picked; latency is that of ``device``, named as ``--device`` does.

        Raises:
            UserError: a limit is not a positive number, or there is no such device.
        """
        from nas.study.analysis.selection import SelectionLimits
        from nas.training.devices import resolve_device

        return SelectionLimits.parse(self.max_params, self.max_madds, self.max_latency, resolve_device(device))


@dataclass(frozen=True)
class CodeOptions:
    """Blocks of one's own that may be imported."""

    allow_code: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Import the block module:Class; repeatable."),
    ] = None

    def __post_init__(self) -> None:
        try:
            allow_code(self.allow_code or ())
        except ValueError as error:
            raise UserError(f"--allow-code {error}") from error


@dataclass(frozen=True)
class ScheduleOptions:
    """Changes to the length of a training schedule."""

    images: Annotated[int | None, typer.Option(help="Images to train on, instead of the study's number.")] = None
    epochs: Annotated[int | None, typer.Option(help="Equal parts of the schedule, evaluated one by one.")] = None


@dataclass(frozen=True)
class OutputOptions:
    """How results are printed."""

    quiet: Quiet = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
