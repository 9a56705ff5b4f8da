"""Groups of options become flags of a command."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from nas import __version__
from nas.console import run
from nas.errors import UserError
from nas.options import LocationOptions, command, new_app


@dataclass(frozen=True)
class CropOptions:
    box: Annotated[int, typer.Option(min=16, help="Side of the crop.")]
    names: Annotated[list[str] | None, typer.Option("--name", help="May be repeated.")] = None

    def __post_init__(self) -> None:
        if self.box % 2:
            raise UserError(f"--box {self.box}: must be even")


@pytest.fixture
def received() -> list[Any]:
    return []


@pytest.fixture
def app(received: list[Any]) -> typer.Typer:
    app = new_app()

    @command(app)
    def main(
        file: Annotated[Path, typer.Argument(help="A file.")],
        crop: CropOptions,
        location: LocationOptions,
        fast: Annotated[bool, typer.Option("--fast", help="Be fast.")] = False,
    ) -> None:
        """Do something."""
        received.extend([file, crop, location, fast])

    return app


def test_fields_arrive_as_their_dataclass(app: typer.Typer, received: list[Any]) -> None:
    arguments = ["a.txt", "--box", "32", "--name", "x", "--name", "y", "--runs", "elsewhere", "--fast"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert received == [Path("a.txt"), CropOptions(32, ["x", "y"]), LocationOptions(None, Path("elsewhere")), True]


def test_defaults_are_those_of_the_fields(app: typer.Typer, received: list[Any]) -> None:
    assert CliRunner().invoke(app, ["a.txt", "--box", "32"]).exit_code == 0
    assert received == [Path("a.txt"), CropOptions(32), LocationOptions(), False]


def test_help_lists_every_field(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for words in ("Do something.", "--box", "Side of the crop.", "[required]", "--name", "--runs", "[default: runs]"):
        assert words in text
    assert "--crop" not in text
    assert "--location" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.txt"], "Missing option '--box'"),
        (["a.txt", "--box", "8"], "should be greater than or equal to 16"),
        (["a.txt", "--box", "17"], "error: --box 17: must be even"),
        (["a.txt", "--box", "32", "--crop", "1"], "No such option: --crop"),
    ],
)
def test_errors_name_the_flag(
    app: typer.Typer, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(app, arguments)
    errors = capsys.readouterr().err
    assert (ended.value.code, errors.count("\n")) == (2, 1)
    assert message in errors


def test_version_ends_the_command(app: typer.Typer, received: list[Any]) -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output, received) == (0, f"hourglass-nas {__version__}\n", [])


def test_a_name_may_stand_in_one_group_only() -> None:
    with pytest.raises(ValueError, match="duplicate parameter name"):

        @command(new_app())
        def main(location: LocationOptions, runs: Path = Path()) -> None: ...


def test_a_folder_that_no_database_can_be_in_is_refused() -> None:
    with pytest.raises(UserError, match=r"--runs .*not UTF-8"):
        LocationOptions(runs=Path(os.fsdecode(b"caf\xe9")))
