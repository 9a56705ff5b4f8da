"""The one error a person sees: where, what value, what to do."""

from __future__ import annotations


class UserError(Exception):
    """Bad input from outside (a flag, a file, a database).

    The message is one line that names the file or flag, the value and the remedy. Commands print it
    without a traceback and exit with code 2 (:func:`nas.console.run`).
    """
