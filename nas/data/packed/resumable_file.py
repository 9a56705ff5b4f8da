"""Large files made over a long time: never half-written under their own name, and continued after a kill.

Beside the target lie, until it is complete, ``.NAME.part`` (the data) and ``.NAME.journal`` (which of the data is
whole). The journal begins with a line that names the inputs; then follow entries, each with its length and a CRC-32.
A process holds a lock on the journal for as long as it writes.
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
    """A file in the making.

    Use it as a context manager; leaving it without :meth:`publish` keeps what can be continued.

    Args:
        target: the name that the file gets once it is complete; its folder exists.
        inputs: identifies all that the content depends on; what another process left is continued only under the same
            inputs, else thrown away. None: a file that nobody continues, under a name of its own.

    Attributes:
        entries: the journal's whole entries, in the order they were noted.
    """

    def __init__(self, target: Path, inputs: str | None) -> None:
        own = "" if inputs is not None else f".{os.getpid()}-{secrets.token_hex(4)}"
        self.target = target
        self.path = target.with_name(f".{target.name}{own}.part")
        self.entries: list[bytes] = []
        self._journal_path = target.with_name(f".{target.name}{own}.journal")
        self._inputs = inputs

    def __enter__(self) -> ResumableFile:
        try:
            self._journal = self._locked()
        except OSError as error:
            raise UserError(f"{self.target}: cannot write there ({line(error)}); choose another folder") from error
        try:
            self._data = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            self._begin()
        except BaseException as error:  # Ctrl-C above all: __exit__ is not called yet
            self._close()
            if isinstance(error, OSError):
                raise UserError(f"{self.target}: cannot write there ({line(error)}); choose another folder") from error
            raise
        return self

    def _locked(self) -> int:
        """The journal, open and locked, so that two processes never make the same file at once."""
        while True:
            journal = os.open(self._journal_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(journal)
                raise UserError(
                    f"{self.target}: another process is making this file; wait for it or choose another name"
                ) from error
            except OSError:
                pass  # a network disk without locks
            # Between opening and locking, another process may have finished, and taken the journal away.
            if os.path.exists(self._journal_path) and os.path.samestat(os.stat(self._journal_path), os.fstat(journal)):
                return journal
            os.close(journal)

    def _begin(self) -> None:
        head = json.dumps({"format": _FORMAT, "inputs": self._inputs}).encode() + b"\n"
        with open(self._journal_path, "rb") as file:
            content = file.read()
        self._ends = [len(head)]
        if not content.startswith(head):
            self.forget(0)
            os.ftruncate(self._data, 0)
            os.ftruncate(self._journal, 0)
            os.pwrite(self._journal, head, 0)
            return
        place = len(head)
        while place + _FRAME.size <= len(content):
            length, check = _FRAME.unpack_from(content, place)
            entry = content[place + _FRAME.size : place + _FRAME.size + length]
            if len(entry) < length or zlib.crc32(entry) != check:
                break
            place += _FRAME.size + length
            self.entries.append(entry)
            self._ends.append(place)
        os.ftruncate(self._journal, place)

    def read(self, start: int, length: int) -> bytes:
        """Up to ``length`` bytes of the data from ``start`` on; fewer where the file ends before."""
        return os.pread(self._data, length, start)

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Write data. Raises :class:`UserError` where that fails."""
        left = memoryview(data)
        try:
            while left:
                written = os.pwrite(self._data, left, start)
                left, start = left[written:], start + written
        except OSError as error:
            raise self.cannot_write(error) from error

    def note(self, entry: bytes) -> None:
        """Add an entry to the journal: what it speaks of has been written."""
        framed = _FRAME.pack(len(entry), zlib.crc32(entry)) + entry
        try:
            os.pwrite(self._journal, framed, self._ends[-1])
        except OSError as error:
            raise self.cannot_write(error) from error
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + len(framed))

    def forget(self, kept: int) -> None:
        """Take all entries but the first ``kept`` from the journal, before what they speak of is overwritten."""
        del self.entries[kept:], self._ends[kept + 1 :]
        os.ftruncate(self._journal, self._ends[-1])

    def keep(self, entries: Sequence[bytes]) -> None:
        """Leave only these entries in the journal."""
        self.forget(0)
        for entry in entries:
            self.note(entry)

    def truncate(self, size: int) -> None:
        """Cut the data, or fill it with zeros, to ``size`` bytes."""
        try:
            os.ftruncate(self._data, size)
        except OSError as error:
            raise self.cannot_write(error) from error

    def publish(self) -> None:
        """Give the file the target's name, in one step."""
        try:
            os.fsync(self._data)  # else a power cut could leave the name with half the content
            os.replace(self.path, self.target)
        except OSError as error:
            raise self.cannot_write(error) from error
        self._journal_path.unlink(missing_ok=True)

    def cannot_write(self, error: OSError) -> UserError:
        """The error to raise where writing failed."""
        return UserError(f"{self.target}: cannot write ({line(error)}); free some space or choose another folder")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        # Where nothing is whole yet, or nobody could go on, nothing stays behind.
        if self._inputs is None or not self.entries:
            self.path.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)
        for descriptor in (getattr(self, "_data", None), self._journal):
            if descriptor is not None:
                os.close(descriptor)


class Sink(io.FileIO):
    """The file that HDF5 writes to. A failure is kept in ``error``, and from then on nothing is written.

    HDF5 must not meet the failure itself: it would try again whenever one of its objects is closed or collected,
    and fail each time, where nobody can catch it.
    """

    error: OSError | None = None
    _end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move; the end is that of what was written here: HDF5 would take what lies there for a file of its own."""
        return super().seek(self._end + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def write(self, data: Any, /) -> int:
        """Write all of the data, or none of it after a failure; claims success either way."""
        whole = left = memoryview(data).cast("B")
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        self._end = max(self._end, self.tell())
        return whole.nbytes

    def truncate(self, size: int | None = None, /) -> int:
        """Cut the file, unless something failed before; claims success either way."""
        try:
            if self.error is not None:
                return size or 0
            self._end = super().truncate(size)
            return self._end
        except OSError as error:
            self.error = error
            return size or 0


def line(error: Exception) -> str:
    """What an exception says, on one line of at most 160 characters."""
    return " ".join(str(error).split())[:160]
