"""One training of a network at a time: a second one would replace finished weights with those of an early epoch."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import UserError


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a training's folder until the block ends, or the process does.

    Raises:
        UserError: another process trains there; the message says which.
    """
    with open(folder / ".lock", "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: {_owner(folder / '.lock')} trains this network already; wait for it, or end that process"
            ) from error
        except OSError:
            pass  # a network disk that does not support locks
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        file.flush()
        yield


def _owner(lock: Path) -> str:
    """The process that holds a lock, as it wrote it down."""
    try:
        owner = json.loads(lock.read_bytes())
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
