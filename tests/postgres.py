"""A PostgreSQL server for tests, in a temporary directory, on a socket and a free port."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

PASSWORD = "open-sesame-17"
REQUIRED = "HOURGLASS_POSTGRESQL"
"""Environment variable; if set (as by .ci/run), tests fail without PostgreSQL instead of being skipped."""


def _programs() -> Path | None:
    """The folder of the newest server's programs, which are not on the path on Debian."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Server:
    """A running server, which can be stopped and started again.

    It accepts every user of this machine over the socket, and :data:`PASSWORD` over TCP.

    Args:
        max_connections: the server's limit.
    """

    def __init__(self, max_connections: int = 100) -> None:
        self._max_connections = max_connections
        programs = _programs()
        if programs is None:
            message = "PostgreSQL is not installed: apt-get install postgresql"
            (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(message)
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if self._user:
            shutil.chown(self.folder, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._numbers = itertools.count()
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        access = ("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}")
        self._run("initdb", "-D", self.folder / "data", "-U", "postgres", "-E", "UTF8", "--no-sync", *access)
        self.start()

    def _run(self, program: str, *arguments: object) -> None:
        # A file: the server would inherit a pipe and keep it open.
        with (self.folder / "output").open("ab") as output:
            line = [str(self._programs / program), *map(str, arguments)]
            subprocess.run(
                line, check=True, timeout=60, user=self._user, stdout=output, stderr=output, cwd=self.folder, env={}
            )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = f"-c listen_addresses=127.0.0.1 -c fsync=off -c max_connections={self._max_connections}"
        options = f"-k {self.folder} -p {self.port} {settings}"
        self._run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        """Stop the server: ``fast`` ends all sessions, ``immediate`` is like a crash."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", how, "-w", "stop")

    def new_database(self) -> str:
        """Create an empty database, and return its URL over the socket."""
        name = f"test{next(self._numbers)}"
        self._run("createdb", "-h", self.folder, "-p", self.port, "-U", "postgres", name)
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}&port={self.port}"

    def over_tcp(self, url: str, password: str | None = PASSWORD) -> str:
        """Return the URL of a database over TCP, which needs a password."""
        name = url.split("@/")[1].split("?")[0]
        secret = f":{password}" if password else ""
        return f"postgresql+psycopg://postgres{secret}@127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        """Stop the server, and remove its files."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder)
