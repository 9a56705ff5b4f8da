"""Search spaces as studies store them: read without the file that they came from, and written as one again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nas.errors import UserError
from nas.study.space.choices import LEVELS, RULES, to_plain
from nas.study.space.search_space import SearchSpace
from nas.study.space.space_file import block_options_of

_RANGE = {"low", "high", "step", "log"}


def space_of_identity(identity: Mapping[str, Any], path: Path) -> SearchSpace:
    """The space that a study was begun with.

    Args:
        identity: of the study, as flat names and plain values.
        path: of the file that the space came from, which is not read.

    Raises:
        UserError: the stored values are not those of a space.
    """
    content: dict[str, Any] = {}
    for key, value in identity.items():
        if key.startswith("space."):
            name, _, part = key.removeprefix("space.").partition(".")
            if name == "limits" or not part:
                content[key.removeprefix("space.")] = value
            else:
                content.setdefault(name, {})[part] = value
    try:
        limits = {key.removeprefix("limits."): value for key, value in content.items() if key.startswith("limits.")}
        choices = {key: _distribution(value) for key, value in content.items() if not key.startswith("limits.")}
        space = SearchSpace(choices, path, _encoded(path, choices), limits)
        if not choices or not all(type(limit) is int for limit in limits.values()):
            raise ValueError("no choices, or limits that are no numbers")
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        raise UserError(f"{path}: the space stored in the study cannot be read: {error}; search it again") from error
    return space


def _distribution(value: Any) -> BaseDistribution:
    if isinstance(value, list):
        return CategoricalDistribution(value)
    if not isinstance(value, dict) or set(value) - _RANGE:
        raise ValueError(f"neither values nor a range: {value!r}")
    whole = all(type(value[end]) is int for end in ("low", "high"))
    return IntDistribution(**value) if whole else FloatDistribution(**value)


def _encoded(path: Path, choices: Mapping[str, BaseDistribution]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The lists behind the texts of those options whose values are lists."""
    encoded = {}
    for name, default in block_options_of(path, choices).items():
        distribution = choices.get(name)
        if isinstance(default, tuple) and isinstance(distribution, CategoricalDistribution):
            encoded[name] = {str(text): tuple(map(int, str(text).split("-"))) for text in distribution.choices}
    return encoded


def space_text(space: SearchSpace) -> str:
    """A space as the text of a file that ``nas.search`` reads."""
    tables: dict[str, dict[str, Any]] = {"choices": {}, "options": {}, "limits": dict(space.limits)}
    for name, distribution in space.choices.items():
        own = name in RULES or name in LEVELS or name == "neck"
        lists = space.encoded.get(name)
        plain = to_plain(distribution) if lists is None else [list(values) for values in lists.values()]
        tables["choices" if own else "options"][name] = plain
    parts = [
        "\n".join([f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in values.items())])
        for table, values in tables.items()
        if values
    ]
    return "\n\n".join(parts) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
