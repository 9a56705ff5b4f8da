"""The published networks by name: ``search_spaces/published.toml``, read and checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nas.errors import UserError
from nas.study.files import packaged, read_toml
from nas.study.pareto import tradeoff
from nas.study.space.candidate import Candidate

FILE = packaged("search_spaces") / "published.toml"
JOINTS = 16
"""Joints of the published counts."""
REFERENCE = "hg2"
"""The network that trade-offs are measured against."""
INPUT_SIZE = 256
"""Height and width, in pixels, of the images of the published counts."""


@dataclass(frozen=True)
class Published:
    """One row of the literature.

    Attributes:
        name: to ask for it by.
        candidate: its network and losses.
        documents: letters of the documents that it is from.
        printed_params: parameters as printed, or None.
        printed_madds: multiply-adds as printed (by other counters than ours), or None.
        printed_pckh: document → mean PCKh as printed.
        exact_params: what the network must have, where that is known, at :data:`JOINTS`.
        expected_madds: fvcore's count, to three decimals of a G, where known, at :data:`INPUT_SIZE`.
        note: what was chosen here, or cannot be reproduced; may be empty.
    """

    name: str
    candidate: Candidate
    documents: tuple[str, ...]
    printed_params: str | None = None
    printed_madds: str | None = None
    printed_pckh: Mapping[str, float] = field(default_factory=dict)
    exact_params: int | None = None
    expected_madds: int | None = None
    note: str = ""

    @property
    def printed_tradeoff(self) -> float | None:
        """Trade-off score of the figures printed by Samadh & Al Khatib 2023; None if they do not print all three."""
        figures, base = self._printed(), named(REFERENCE)._printed()
        return tradeoff(*figures, against=base) if figures and base else None

    def _printed(self) -> tuple[float, float, float] | None:
        if "A" not in self.printed_pckh or self.printed_params is None or self.printed_madds is None:
            return None
        return self.printed_pckh["A"], _number(self.printed_params), _number(self.printed_madds)


def _number(text: str) -> float:
    """6.7 of "6.7 M": the unit is the same in the whole column."""
    return float(text.split()[0])


_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "from": (list, "a list of documents"),
    "architecture": (dict, "a table of an architecture's values"),
    "losses": (dict, "a table of the losses' values"),
    "printed_params": (str, 'a text such as "6.7 M"'),
    "printed_madds": (str, 'a text such as "9.14 G"'),
    "printed_pckh": (dict, "a table of a number per document"),
    "exact_params": (int, "an integer"),
    "madds": ((int, float), "a number of G multiply-adds"),
    "note": (str, "a text"),
}


def read_published(path: Path) -> Mapping[str, Published]:
    """Read a file of published networks.

    Raises:
        UserError: names the file, the table, the key and what is allowed there.
    """
    rows = {}
    for name, raw in read_toml(path).items():
        if not isinstance(raw, dict):
            raise UserError(f"{path}: {name}: expected a table [{name}], not {raw!r}")
        rows[name] = _row(path, name, raw)
    return MappingProxyType(rows)


def _row(path: Path, name: str, raw: Mapping[str, Any]) -> Published:
    for key, value in raw.items():
        if key not in _KINDS:
            raise UserError(f"{path}: {name}.{key}: unknown key; allowed: {', '.join(_KINDS)}")
        kind, meaning = _KINDS[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{path}: {name}.{key}: expected {meaning}, not {value!r}")
    for key in ("from", "architecture"):
        if key not in raw:
            raise UserError(f"{path}: {name}.{key}: missing; expected {_KINDS[key][1]}")
    documents, pckh = raw["from"], raw.get("printed_pckh", {})
    if not documents or not all(isinstance(document, str) for document in documents):
        raise UserError(f"{path}: {name}.from: expected a list of documents' names, not {documents!r}")
    for document, value in pckh.items():
        if document not in documents or type(value) not in (int, float):
            raise UserError(
                f"{path}: {name}.printed_pckh.{document}: expected a number for one of {', '.join(documents)}, "
                f"not {value!r}"
            )
    try:
        candidate = Candidate.from_dict({key: raw[key] for key in ("architecture", "losses") if key in raw})
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {name}: {error}") from error
    madds = raw.get("madds")
    return Published(
        name=name,
        candidate=candidate,
        documents=tuple(documents),
        printed_params=raw.get("printed_params"),
        printed_madds=raw.get("printed_madds"),
        printed_pckh=MappingProxyType(pckh),
        exact_params=raw.get("exact_params"),
        expected_madds=None if madds is None else round(madds * 1e9),
        note=raw.get("note", ""),
    )


@cache
def _project_rows() -> Mapping[str, Published]:
    return read_published(FILE)


def published() -> dict[str, Published]:
    """All published networks by name, in the file's order.

    Raises:
        UserError: the file is missing or has been edited wrongly.
    """
    return dict(_project_rows())


def named(name: str) -> Published:
    """The published network of a name.

    Raises:
        UserError: there is none; says which names are near, or which there are.
    """
    rows = _project_rows()
    if name in rows:
        return rows[name]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), rows, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(rows)}"
    raise UserError(f"no published network is named {name!r}; {hint}")
