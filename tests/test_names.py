"""Names and texts of any bytes leave the process as text, in any locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas.names import printable

REPOSITORY = Path(__file__).resolve().parents[1]
LOCALES = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "no locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def test_bytes_that_are_not_utf8_are_shown() -> None:
    assert printable(Path(os.fsdecode(b"caf\xe9.png"))) == r"caf\xe9.png"
    assert printable("café → 100×100") == "café → 100×100"
    assert printable("half \ud800") == r"half \ud800"
    assert printable(Path(os.fsdecode("café".encode()))) == "café"


@pytest.mark.parametrize("locale", LOCALES)
def test_every_text_can_be_printed_in_any_locale(tmp_path: Path, locale: str) -> None:
    script = """if True:
        import os
        from rich.table import Table
        from nas.console import console, exit_with_error, make_printable, print_note, print_tables, progress
        make_printable()
        text = "1×ghost → é\\u2713 " + os.fsdecode(b"caf\\xe9") + " \\ud800"
        console.print(text)
        table = Table(title=text)
        table.add_column(text)
        table.add_row(text)
        print_tables(table)
        print_note(text)
        with progress(text, 2, every=0) as done:
            done(1)
        exit_with_error(text)
    """
    file = tmp_path / "prints.py"
    file.write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **LOCALES[locale]}
    done = subprocess.run([sys.executable, file], capture_output=True, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert b"ghost" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(b"error: 1")
    assert rb"caf\xe9" in done.stderr


@pytest.mark.parametrize("locale", LOCALES)
def test_json_is_valid_in_any_locale(tmp_path: Path, locale: str) -> None:
    script = """if True:
        import os
        from nas.console import make_printable, print_json
        make_printable()
        print_json({"file": "1×\\U0001f600 " + os.fsdecode(b"caf\\xe9"), "sizes": (1, 2.5), "nothing": None})
    """
    file = tmp_path / "prints.py"
    file.write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **LOCALES[locale]}
    done = subprocess.run([sys.executable, file], capture_output=True, env=environment, check=True)
    wanted = {"file": "1×\U0001f600 caf\\xe9", "sizes": [1, 2.5], "nothing": None}
    assert json.loads(done.stdout.decode("latin-1" if locale == "latin-1" else "ascii")) == wanted
