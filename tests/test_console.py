"""Texts from files and databases on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from nas.console import PlainConsole, harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("person 1.jpg", "person 1.jpg"),
        ("größe 図 🙂", "größe 図 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\x08\x07\x00\x7f", "a\\x0db\\x08\\x07\\x00\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
    ],
)
def test_control_characters_are_shown_and_not_sent(text: str, shown: str) -> None:
    assert harmless(text) == shown


@pytest.mark.parametrize(
    "text", ["[bold]name[/bold]", "[/red]", "[link=x]y[/link]", ":warning:", "[b", "\x1b]0;title\x07"]
)
def test_texts_are_printed_as_they_are(text: str) -> None:
    for terminal in (False, True):
        stream = io.StringIO()
        console = PlainConsole(file=stream, width=100, force_terminal=terminal, color_system=None)
        table = Table("name")
        table.add_row(text)
        console.print(text)
        console.print(table)
        assert stream.getvalue().count(harmless(text)) == 2
        assert "\x1b]" not in stream.getvalue()
