"""Checkpoints of unfinished trials, which move with a trial when it is requeued."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from optuna.trial import FrozenTrial

from nas.errors import UserError
from nas.study.storage.trial_queue import earlier_numbers
from nas.training.checkpoint import AnyPath


def checkpoint_path(folder: AnyPath, number: int) -> AnyPath:
    """The file of an unfinished trial's state. Its name has the trial's number, so that no other worker writes it."""
    return folder / f"trial-{number}.pt"


def adopt_checkpoint(folder: AnyPath, trial: FrozenTrial) -> AnyPath:
    """Return a trial's checkpoint, after renaming the one that it had under an earlier number.

    A suspended worker may write a file of the earlier number again; nobody reads it.

    Raises:
        UserError: the folder cannot be created or written.
    """
    checkpoint = checkpoint_path(folder, trial.number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in reversed(earlier_numbers(trial)):
            if checkpoint.exists():
                break
            earlier: Any = checkpoint_path(folder, number)
            with suppress(FileNotFoundError):
                earlier.rename(checkpoint)
    except OSError as error:
        raise UserError(
            f"--checkpoints {folder}: cannot be written: {error.strerror}; give a folder that all workers can write"
        ) from error
    return checkpoint
