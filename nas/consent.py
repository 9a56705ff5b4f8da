"""Consent to import blocks that are not part of this package.

A block named ``module:Class`` is code. The name may come from a checkpoint, a database or a space file that somebody
else made, so its module is imported only if the user allowed that name: by ``--allow-code``, by ``--space`` on the
command line, or by ``nas.load(path, allow_code=[…])``. Consent holds for the process, and is passed on to the worker
processes that it starts.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from nas.errors import UserError

_allowed: set[str] = set()


class CodeNotAllowedError(UserError, ValueError):
    """A block's module would have to be imported, and the user has not allowed it."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"block {kind!r} would import the Python module {kind.partition(':')[0]!r}, which runs its code; if you "
            f"trust that module, allow it: --allow-code {shlex.quote(kind)} (nas.load: allow_code=[{kind!r}])"
        )


def check_block_name(kind: str) -> None:
    """Check that a name has the form ``module:Class``.

    Raises:
        ValueError: it has another form.
    """
    module, _, name = kind.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{kind!r} is not of the form module:Class, such as my_blocks:LargeKernel")


def allow_code(kinds: Iterable[str]) -> None:
    """Allow blocks outside this package to be imported, by their exact names ``module:Class``.

    Raises:
        ValueError: a name has another form; none is allowed then.
    """
    names = list(kinds)
    for name in names:
        check_block_name(name)
    _allowed.update(names)


def allowed_code() -> tuple[str, ...]:
    """The names that have been allowed in this process, sorted."""
    return tuple(sorted(_allowed))


def check_allowed(kind: str) -> None:
    """Check that a block may be imported.

    Raises:
        CodeNotAllowedError: the user has not allowed it.
    """
    if kind not in _allowed:
        raise CodeNotAllowedError(kind)
