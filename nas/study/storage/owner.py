"""The process that runs a trial: who it is, and whether it has certainly ended.

A process id means something only within one PID namespace of one boot of one machine: containers that share a host name
have process ids of their own, and a host name outlives a reboot. So an owner is its host, the boot and the namespace
(:func:`this_system`), its process id and its start time. About a process of another system nothing is known here but
its lease.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from optuna.trial import FrozenTrial

from nas.study.storage.heartbeat import WorkerHeartbeat


@dataclass(frozen=True)
class Owner:
    """The process that runs a trial, and its lease.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        born: start time of the process, in seconds since the machine was booted.
        worker: id of its lease; empty if it has none.
        system: where its process id is valid (:func:`this_system`); empty if that is not known, as in 0.7.0.
    """

    host: str
    pid: int
    born: float
    worker: str = ""
    system: str = ""

    @classmethod
    def me(cls, worker: str = "") -> Owner:
        """Return this process, under the lease of a worker."""
        return cls(socket.gethostname(), os.getpid(), _start_time("self"), worker, this_system())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a user attribute."""
        values: dict[str, Any] = {"host": self.host, "pid": self.pid, "born": self.born}
        return values | {name: value for name in ("worker", "system") if (value := getattr(self, name))}

    @classmethod
    def of(cls, trial: FrozenTrial) -> Owner | None:
        """Return the owner of a trial; None before it is claimed."""
        raw = trial.user_attrs.get("owner")
        if not raw:
            return None
        host, pid, born = str(raw["host"]), int(raw["pid"]), float(raw["born"])
        return cls(host, pid, born, str(raw.get("worker", "")), str(raw.get("system", "")))

    @property
    def is_local(self) -> bool:
        """Whether this process sees the owner's process, if that is there."""
        if self.host != socket.gethostname():
            return False
        if self.system:
            return self.system == this_system()
        return not self.worker  # without a lease, the host's name is all that there is

    def gone(self) -> bool:
        """Whether the process has certainly ended: it would be seen from here, and is not there any more."""
        return self.is_local and _ended(self.pid, self.born)


def this_system() -> str:
    """The boot of this machine and the PID namespace of this process; empty if processes cannot be looked up here.

    On systems without /proc, which have no such namespaces, the host's name.
    """
    if sys.platform != "linux":
        return socket.gethostname()
    try:
        # A /proc that was mounted outside this process's namespace shows other processes under its ids.
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespaces = [os.readlink("/proc/self/ns/pid")]
        with suppress(OSError):  # Linux before 5.6; start times are shown by the clock of this namespace
            namespaces.append(os.readlink("/proc/self/ns/time"))
    except (OSError, ValueError):
        return ""
    return " ".join([boot, *namespaces])


def system_tag() -> str:
    """Eight hexadecimal digits of this system, with which the ids of its workers end."""
    return hashlib.sha256(f"{socket.gethostname()} {this_system()}".encode()).hexdigest()[:8]


def heartbeat_process_gone(worker: WorkerHeartbeat) -> bool:
    """Whether the process of a worker has certainly ended: it is of this system and not there any more."""
    return bool(this_system()) and worker.id.endswith(f"-{system_tag()}") and _ended(worker.pid, worker.born)


def _ended(pid: int, born: float) -> bool:
    """Whether a process of this system has ended, or its id is another one's now."""
    try:
        start_time = _start_time(pid)
        ended = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # killed, and not yet waited for
    except (psutil.Error, OSError):
        return not psutil.pid_exists(pid)  # /proc may hide the processes of other users
    return ended or abs(start_time - born) > 1


def _start_time(pid: int | str) -> float:
    """Seconds from boot to the start of a process; the time of day could be changed while it runs."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        created: float = psutil.Process(None if pid == "self" else int(pid)).create_time()
        return round(created, 2)
    # Field 22. Field 2, a name in parentheses, may contain anything.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return round(int(fields[19]) / os.sysconf("SC_CLK_TCK"), 2)
