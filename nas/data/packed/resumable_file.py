"""Large files written over a long time: never incomplete under their final name, and resumable after a kill.

Until the target is complete, ``.NAME.part`` (the data) and ``.NAME.journal`` (which parts of the data are complete) lie
beside it. The journal begins with a line that identifies the inputs, followed by entries, each with its length and a
CRC-32. A process holds a lock on the journal while it writes.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import secrets
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from nas.errors import UserError

_FRAME = struct.Struct("<II")  # length and CRC-32 of an entry
_FORMAT = "hourglass-nas journal 1"


class ResumableFile:
    """A file that is being written, with a journal of what is complete.

    A context manager; leaving it without :meth:`publish` keeps what can be continued.

    Args:
        target: the final name of the file; its folder exists.
        inputs: identifies everything the content depends on. A file left by another process is continued only if its
            inputs are the same, else discarded. None: the file has a unique name and is never continued.

    Attributes:
        entries: the complete entries of the journal, in order.
    """

    def __init__(self, target: Path, inputs: str | None) -> None:
        suffix = "" if inputs is not None else f".{os.getpid()}-{secrets.token_hex(4)}"
        self.target = target
        self.path = target.with_name(f".{target.name}{suffix}.part")
        self.entries: list[bytes] = []
        self._journal_path = target.with_name(f".{target.name}{suffix}.journal")
        self._inputs = inputs

    def __enter__(self) -> ResumableFile:
        if self.target.exists() and not self.target.is_file():
            raise UserError(f"{self.target}: is not a regular file; choose another name")
        try:
            self._journal = self._open_journal()
        except OSError as error:
            raise UserError(f"{self.target}: cannot write there ({one_line(error)}); choose another folder") from error
        try:
            self._data = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            self._begin()
        except BaseException as error:  # KeyboardInterrupt above all: __exit__ is not called yet
            self._close()
            if isinstance(error, OSError):
                raise UserError(
                    f"{self.target}: cannot write there ({one_line(error)}); choose another folder"
                ) from error
            raise
        return self

    def _open_journal(self) -> int:
        """Open and lock the journal, so that two processes never write the same file."""
        while True:
            journal = os.open(self._journal_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(journal)
                raise UserError(
                    f"{self.target}: another process is writing this file; wait for it or choose another name"
                ) from error
            except OSError:
                pass  # a network disk that does not support locks
            # Between opening and locking, another process may have finished and removed the journal.
            if os.path.exists(self._journal_path) and os.path.samestat(os.stat(self._journal_path), os.fstat(journal)):
                return journal
            os.close(journal)

    def _begin(self) -> None:
        """Read the journal of an earlier process, or start a new one if its inputs differ."""
        head = json.dumps({"format": _FORMAT, "inputs": self._inputs}).encode() + b"\n"
        with open(self._journal_path, "rb") as file:
            content = file.read()
        self._ends = [len(head)]
        if not content.startswith(head):
            self.drop_entries(0)
            os.ftruncate(self._data, 0)
            os.ftruncate(self._journal, 0)
            os.pwrite(self._journal, head, 0)
            return
        position = len(head)
        while position + _FRAME.size <= len(content):
            length, check = _FRAME.unpack_from(content, position)
            entry = content[position + _FRAME.size : position + _FRAME.size + length]
            if len(entry) < length or zlib.crc32(entry) != check:
                break
            position += _FRAME.size + length
            self.entries.append(entry)
            self._ends.append(position)
        os.ftruncate(self._journal, position)

    def read(self, start: int, length: int) -> bytes:
        """Read up to ``length`` bytes from ``start``; fewer at the end of the file."""
        return os.pread(self._data, length, start)

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Write data at ``start``.

        Raises:
            UserError: it cannot be written.
        """
        remaining = memoryview(data)
        try:
            while remaining:
                written = os.pwrite(self._data, remaining, start)
                remaining, start = remaining[written:], start + written
        except OSError as error:
            raise self.write_error(error) from error

    def append_entry(self, entry: bytes) -> None:
        """Append an entry to the journal, after the data that it describes has been written."""
        framed = _FRAME.pack(len(entry), zlib.crc32(entry)) + entry
        try:
            os.pwrite(self._journal, framed, self._ends[-1])
        except OSError as error:
            raise self.write_error(error) from error
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + len(framed))

    def drop_entries(self, start: int) -> None:
        """Drop the entries from ``start`` on, before the data that they describe is overwritten."""
        del self.entries[start:], self._ends[start + 1 :]
        os.ftruncate(self._journal, self._ends[-1])

    def replace_entries(self, entries: Sequence[bytes]) -> None:
        """Replace all entries of the journal."""
        self.drop_entries(0)
        for entry in entries:
            self.append_entry(entry)

    def truncate(self, size: int) -> None:
        """Truncate the data, or extend it with zeros, to ``size`` bytes."""
        try:
            os.ftruncate(self._data, size)
        except OSError as error:
            raise self.write_error(error) from error

    def publish(self) -> None:
        """Rename the file to the target, atomically."""
        try:
            os.fsync(self._data)  # else a power cut could leave the name with half the content
            os.replace(self.path, self.target)
        except OSError as error:
            raise self.write_error(error) from error
        self._journal_path.unlink(missing_ok=True)

    def write_error(self, error: OSError) -> UserError:
        """The error to raise when writing failed."""
        return UserError(f"{self.target}: cannot write ({one_line(error)}); free some space or choose another folder")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        # Keep nothing if nothing is complete yet, or if the file cannot be continued.
        if self._inputs is None or not self.entries:
            self.path.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)
        for descriptor in (getattr(self, "_data", None), self._journal):
            if descriptor is not None:
                os.close(descriptor)


class FailSafeFile(io.FileIO):
    """A file for HDF5 to write to: a failure is stored in ``error``, and nothing is written from then on.

    HDF5 must not see the failure itself: it would retry whenever one of its objects is closed or garbage-collected, and
    fail each time where nothing can catch it.
    """

    error: OSError | None = None
    _end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Seek; the end is that of what was written here, so that HDF5 does not mistake the crops for its own data."""
        return super().seek(self._end + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def write(self, data: Any, /) -> int:
        """Write all of the data, or nothing after a failure; reports success either way."""
        content = remaining = memoryview(data).cast("B")
        try:
            while remaining and self.error is None:
                remaining = remaining[super().write(remaining) :]
        except OSError as error:
            self.error = error
        self._end = max(self._end, self.tell())
        return content.nbytes

    def truncate(self, size: int | None = None, /) -> int:
        """Truncate the file, or do nothing after a failure; reports success either way."""
        try:
            if self.error is not None:
                return size or 0
            self._end = super().truncate(size)
            return self._end
        except OSError as error:
            self.error = error
            return size or 0


def one_line(error: Exception) -> str:
    """The message of an exception, on one line of at most 160 characters."""
    return " ".join(str(error).split())[:160]
