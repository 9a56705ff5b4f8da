"""A folder in which tests run commands in subprocesses, and helpers to observe them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import get_note

from nas.study.config import StudyConfig
from nas.study.experiment import prepare
from nas.study.storage.backend import open_storage
from nas.study.storage.study_store import StudyStore

REPOSITORY = Path(__file__).resolve().parents[2]
# One thread per process, no GPU, wide lines, and no terminal settings of the developer.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("TERM", "LINES", "FORCE_COLOR")} | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "200",
    "PYTHONPATH": str(REPOSITORY),
}
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

SPACE = """\
[choices]
block = ["bottleneck", "separable"]
stem = [8, 12]
width = [8, 12]
stacks = [1, 2]
depth = [2]
junction = ["add", "resconcat"]
alpha = [0.7, 1.0]
"""
STUDY = """\
name = "tiny"
space = "space.toml"
width_scale = 1.0

[data]
input_size = 32
synthetic = { people = 64, holdout = 24, valid = 24 }

[schedule]
images = 96
epochs = 4
batch = 8
learning_rate = 5e-3

[full]
images = 96
epochs = 3

[sampler]
startup = 3
pool = 50

[stopping]
least = 3

[reference]
params = [10_000, 100_000]
madds = [500_000, 10_000_000]
"""
LONGER = ("--images", 512, "--epochs", 8)
"""A schedule under which a trial lasts long enough to be observed or interrupted half-way."""


def until(true: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := true():
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Workplace:
    """A folder with a tiny study and its space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.space, self.file = folder / "space.toml", folder / "tiny.toml"
        self.space.write_text(SPACE)
        self.file.write_text(STUDY)

    def copy_of(self, other: Workplace, below: str) -> Workplace:
        """Copy a part of another workplace's runs folder."""
        shutil.copytree(other.folder / "runs" / below, self.folder / "runs" / below)
        return self

    def run(
        self, command: str, *arguments: object, launcher: Sequence[str] = (), timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m nas.<command>`` to its end; under a launcher such as ``-m torch.distributed.run``.

        Without a launcher, a process is forked that has imported what commands import (:class:`Prepared`).
        """
        if not launcher:
            return prepared().run(self, command, *arguments)
        return subprocess.run(
            self.line(command, *arguments, launcher=launcher),
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def search(self, *arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run ``nas.search`` on the tiny study, which must succeed."""
        done = self.run("search", "--study", "tiny.toml", *arguments, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return done

    @contextmanager
    def begun(self, command: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Start a command in a session of its own; all of its processes are killed at the end."""
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": ENVIRONMENT, **options}
        process = subprocess.Popen(
            self.line(command, *arguments), cwd=self.folder, text=True, start_new_session=True, **options
        )
        try:
            yield process
        finally:
            for one in living(process.pid):
                one.kill()
            process.communicate(timeout=60)

    @staticmethod
    def line(command: str, *arguments: object, launcher: Sequence[str] = ()) -> list[str]:
        """The command line."""
        return [sys.executable, *launcher, "-m", f"nas.{command}", *map(str, arguments)]

    def path(self, *parts: str) -> Path:
        """A path below the runs folder."""
        return self.folder.joinpath("runs", *parts)

    def trials(self, study: str = "tiny", database: str = "tiny") -> list[FrozenTrial]:
        """The trials of a study; empty before the study exists."""
        file = self.path(database, "study.db")
        if not file.is_file():
            return []
        storage = open_storage(f"sqlite:///{file}")
        try:
            return optuna.load_study(storage=storage, study_name=study).get_trials()
        except KeyError:
            return []
        finally:
            storage.engine.dispose()

    def note(self, study: str, trial: FrozenTrial, database: str = "tiny") -> str:
        """A trial's note on the dashboard."""
        storage = open_storage(f"sqlite:///{self.path(database, 'study.db')}")
        try:
            return get_note(optuna.Trial(optuna.load_study(storage=storage, study_name=study), trial._trial_id))
        finally:
            storage.engine.dispose()

    def done(self, study: str = "tiny", database: str = "tiny") -> list[FrozenTrial]:
        """Trials that have ended: finished, or stopped early."""
        return [trial for trial in self.trials(study, database) if trial.state in DONE]

    def half_way(self) -> list[FrozenTrial]:
        """The running trials that are past their first epoch."""
        kept = self.path("tiny", "checkpoints")
        return [
            trial
            for trial in self.trials()
            if trial.state == TrialState.RUNNING and (kept / f"trial-{trial.number}.pt").exists()
        ]

    def begin_study(self) -> None:
        """Create the study in its storage, without a trial."""
        with chdir(self.folder):
            study = prepare(StudyConfig.read(self.file.name), Path("runs")).open_study()
        StudyStore(study).engine.dispose()

    def tree(self) -> dict[str, bytes]:
        """Every file and folder, with the files' contents."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else b""
            for path in sorted(self.folder.rglob("*"))
        }


def study_at(url: str) -> optuna.Study | None:
    """The tiny study of a database; None before it exists."""
    try:
        return optuna.load_study(study_name="tiny", storage=open_storage(url))
    except KeyError:
        return None


def essence(trial: FrozenTrial) -> tuple[object, ...]:
    """The values of a finished trial that must not change."""
    return (trial.number, trial.state, trial.values, trial.params, trial.user_attrs, trial.datetime_complete)


def living(session: int) -> list[psutil.Process]:
    """The running processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


class Prepared:
    """Runs commands without the seconds that ``import torch`` takes.

    A server process has imported everything; for each command it forks a child with that command's arguments,
    folder, standard output and standard error.
    """

    _SERVER = """
import gc, importlib, json, os, sys
from nas.console import run
# What the commands import when their work begins.
import nas.data.datasets, nas.data.packed.synthetic, nas.study.execution.full_training
import nas.study.reporting.html_report, nas.study.reporting.search_session, nas.study.reporting.study_report
gc.collect()
gc.freeze()  # else the garbage collector makes each child copy all imported objects
for line in sys.stdin:
    command, arguments, folder, *outputs = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        sys.path[0] = folder  # as `python -m` does
        for descriptor, path in enumerate(outputs, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv = ["python -m nas." + command]
        run(importlib.import_module("nas." + command).app, arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

    def __init__(self, folder: Path) -> None:
        self._outputs = [folder / "stdout", folder / "stderr"]
        self._server = subprocess.Popen(
            [sys.executable, "-c", self._SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            cwd=folder,
        )

    def run(self, place: Workplace, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run ``nas.<command>`` in a place to its end."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        line = [str(argument) for argument in arguments]
        job = [command, line, str(place.folder), *map(str, self._outputs)]
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        output, errors = (path.read_text() for path in self._outputs)
        return subprocess.CompletedProcess(line, code, output, errors)

    def close(self) -> None:
        """End the server process."""
        self._server.communicate(timeout=60)


@cache
def prepared() -> Prepared:
    """The server of this test process. It ends with it, when its standard input is closed."""
    return Prepared(Path(tempfile.mkdtemp(prefix="prepared-")))
