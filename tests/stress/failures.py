"""Runs searches under injected faults (killed workers, a suspended worker, a stopped database) and checks for losses.

    python tests/stress/failures.py --runs 20                     # PostgreSQL: kills, two stops, one suspension
    python tests/stress/failures.py --runs 20 --database sqlite   # kills and one suspension

Exits with 1 if any run lost anything.
"""

from __future__ import annotations

import fcntl
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import optuna
import psutil
import sqlalchemy
import torch
import typer
from optuna.trial import FrozenTrial, TrialState

from nas.study.space.candidate import Candidate
from nas.study.storage.owner import Owner
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import DONE, earlier_numbers

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "end_to_end")]
from postgres import Server
from workplace import ENVIRONMENT, STUDY, Workplace, living, study_at

SPACE = """\
[choices]
block = ["bottleneck", "separable"]
stem = [8, 12, 16]
width = [8, 12, 16, 20, 24]
stacks = [1, 2]
depth = [2]
junction = ["add", "resconcat"]
alpha = [0.7, 1.0]
"""
LEASE = 4.0  # seconds; a heartbeat every second


@dataclass
class Faults:
    """Faults to inject into a search.

    Attributes:
        kills: maximum number of workers to kill.
        every: mean seconds between two kills.
        stops: how often the database is stopped and started again, every second time as in a crash.
        freezes: workers to suspend until another worker runs their trial, and then to resume.
    """

    kills: int = 1000
    every: float = 4.0
    stops: int = 2
    freezes: int = 1


@dataclass
class Report:
    """The faults that were injected into a search, and the losses that were found."""

    seconds: float = 0.0
    injected: dict[str, int] = field(default_factory=dict)
    kills_while_training: int = 0
    requeued: int = 0
    resumed: int = 0
    restarted: int = 0
    given_up: int = 0
    commands: int = 1
    losses: list[str] = field(default_factory=list)


class Run:
    """One search under faults."""

    def __init__(self, folder: Path, url: str, server: Server | None, workers: int, trials: int, seed: int) -> None:
        self.place = Workplace(folder)
        self.place.space.write_text(SPACE)
        self.place.file.write_text(STUDY.replace("least = 3", "least = 1000"))  # no early stopping
        self.url, self.server, self.workers, self.trials = url, server, workers, trials
        self.rng = random.Random(seed)
        self.report = Report()
        self.injected: Counter[str] = Counter()
        self.recorded: dict[int, str] = {}  # a finished trial by number, as it was first read
        self.reached: dict[int, int] = {}  # epochs in the checkpoint of a killed trial, by number
        self._study: optuna.Study | None = None

    def begin(self) -> subprocess.Popen[str]:
        """Start the search command."""
        flags = ("--study", "tiny.toml", "--storage", self.url, "--trials", self.trials, "--workers", self.workers)
        environment = {**ENVIRONMENT, "HOURGLASS_BEAT": "1", "HOURGLASS_LEASE": str(LEASE)}
        with (self.place.folder / "errors").open("a") as errors, (self.place.folder / "output").open("a") as output:
            return subprocess.Popen(
                self.place.line("search", *flags, "--images", 128, "--epochs", 6),
                cwd=self.place.folder,
                env=environment,
                text=True,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    def trials_of_study(self) -> list[FrozenTrial]:
        """The trials; none before the study exists."""
        study = self._study = self._study or study_at(self.url)
        if study is None:
            return []
        return StudyStore(study).retry(lambda: study.get_trials(deepcopy=False))

    def watch(self) -> list[FrozenTrial]:
        """Read all trials, and check that finished ones have not changed."""
        trials = self.trials_of_study()
        finished = {t.number: _content(t) for t in trials if t.state in DONE}
        for number, before in self.recorded.items():
            if finished.get(number) != before:
                self.report.losses.append(f"trial {number} changed: {before} → {finished.get(number)}")
        self.recorded = finished
        return trials

    def epochs(self, number: int) -> int:
        """Epochs in a trial's checkpoint."""
        file = self.place.path("tiny", "checkpoints", f"trial-{number}.pt")
        return len(torch.load(file, weights_only=True)["history"]) if file.exists() else 0

    def training(self, process: subprocess.Popen[str]) -> list[tuple[FrozenTrial, psutil.Process]]:
        """Running trials whose worker has finished an epoch of them, with the workers' processes."""
        workers = {worker.pid: worker for worker in living(process.pid)}
        training = []
        for trial in self.watch():
            owner = Owner.of(trial)
            if trial.state == TrialState.RUNNING and owner is not None and owner.pid in workers and not owner.gone():
                file = self.place.path("tiny", "checkpoints", f"trial-{trial.number}.pt")
                # The checkpoint that a resumed trial has inherited is older.
                if file.exists() and file.stat().st_mtime > trial.user_attrs["claimed_at"]:
                    training.append((trial, workers[owner.pid]))
        return training

    def kill(self, process: subprocess.Popen[str]) -> bool:
        """Kill a worker that is training."""
        training = self.training(process)
        if not training:
            return False
        trial, worker = self.rng.choice(training)
        worker.kill()
        time.sleep(0.1)
        self.reached[trial.number] = self.epochs(trial.number)
        self.injected["killed"] += 1
        return True

    def freeze(self, process: subprocess.Popen[str]) -> bool:
        """Suspend a worker until another worker runs its trial."""
        training = self.training(process)
        if not training:
            return False
        trial, worker = self.rng.choice(training)
        worker.send_signal(signal.SIGSTOP)
        if self.server is None and not self.writable():  # nothing can take SQLite's lock from a suspended process
            worker.send_signal(signal.SIGCONT)
            return False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
            if any(trial.number in earlier_numbers(t) and t.state != TrialState.WAITING for t in self.watch()):
                self.injected["frozen and replaced"] += 1
                break
        if worker.is_running():
            worker.send_signal(signal.SIGCONT)
        return True

    def writable(self, seconds: float = 3) -> bool:
        """Whether the SQLite file and its lock can be acquired; other workers hold them for moments only."""
        file = str(sqlalchemy.make_url(self.url).database)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                with open(f"{file}.lock", "ab") as lock, closing(sqlite3.connect(file, timeout=0.1)) as database:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    database.execute("BEGIN IMMEDIATE")
                    return True
            except (BlockingIOError, sqlite3.OperationalError):
                time.sleep(0.01)
        return False

    def stop(self, how: str) -> None:
        """Stop the database, and start it again."""
        assert self.server is not None
        self.server.stop(how)
        time.sleep(self.rng.uniform(1, 4))
        self.server.start()
        self.injected[f"stopped: {how}"] += 1

    def go(self, faults: Faults, seconds: float = 1200) -> Report:
        """Run the search to its end, injecting faults."""
        started = time.monotonic()
        process = self.begin()
        # Stops and suspensions are spread over the trials.
        total = faults.freezes + (faults.stops if self.server else 0)
        marks = [round(self.trials * (i + 1) / (total + 2)) for i in range(total)]
        kinds = (["freeze"] * faults.freezes + ["fast", "immediate"] * faults.stops)[:total]
        self.rng.shuffle(kinds)
        next_kill = time.monotonic() + faults.every
        try:
            while True:
                time.sleep(0.25)
                trials = self.watch()
                if process.poll() is not None:
                    if process.returncode == 0:
                        break
                    self.report.commands += 1
                    self.injected[f"command ended with {process.returncode}"] += 1
                    if self.report.commands > 5:
                        self.report.losses.append("the command ended five times")
                        break
                    process = self.begin()
                if time.monotonic() - started > seconds:
                    self.report.losses.append(f"not finished within {seconds:.0f} s")
                    break
                done = sum(t.state in DONE for t in trials)
                if kinds and done >= marks[-len(kinds)]:
                    if kinds[-1] != "freeze":
                        self.stop(kinds.pop())
                    elif self.freeze(process):
                        kinds.pop()
                elif self.injected["killed"] < faults.kills and time.monotonic() >= next_kill and self.kill(process):
                    next_kill = time.monotonic() + self.rng.uniform(0.5, 1.5) * faults.every
        finally:
            for worker in living(process.pid):
                worker.kill()
            process.wait()
        self.report.seconds = round(time.monotonic() - started, 1)
        self.conclude()
        if kinds:
            self.report.losses.append(f"not injected: {kinds}")
        return self.report

    def conclude(self) -> None:
        """Check for losses, and complete the report."""
        report, trials = self.report, self.watch()
        states = Counter(t.state.name for t in trials)
        done = [t for t in trials if t.state in DONE]
        if len(done) != self.trials:
            report.losses.append(f"{len(done)} finished of {self.trials}")
        for state in ("RUNNING", "WAITING"):
            if states[state]:
                report.losses.append(f"{states[state]} still {state.lower()}")
        networks = Counter(Candidate.from_dict(t.user_attrs["candidate"]).id for t in done)
        for network in [network for network, n in networks.items() if n > 1]:
            same = [t for t in done if Candidate.from_dict(t.user_attrs["candidate"]).id == network]
            facts = [(t.number, t.state.name, t.user_attrs.get("reason"), earlier_numbers(t)) for t in same]
            report.losses.append(f"trained more than once: {network}: {facts}")
        for trial in done:
            if "given up" in trial.user_attrs.get("reason", ""):
                report.given_up += 1
                continue
            reached = max((self.reached.get(number, 0) for number in earlier_numbers(trial)), default=0)
            resumed = int(trial.user_attrs.get("resumed_after_epoch", 0))
            if resumed < reached:
                report.losses.append(f"trial {trial.number} resumed after epoch {resumed}, but {reached} were finished")
            report.resumed += bool(resumed)
            report.restarted += bool(trial.user_attrs.get("started_again"))
        successors = {number for t in trials for number in earlier_numbers(t)}
        report.requeued = states["FAIL"]
        for trial in trials:
            started = "candidate" in trial.user_attrs
            if trial.state == TrialState.FAIL and started and trial.number not in successors:
                report.losses.append(f"trial {trial.number} was started and never continued")
        report.kills_while_training = self.injected["killed"]
        report.injected = dict(self.injected)
        if "Traceback" in (errors := (self.place.folder / "errors").read_text()):
            report.losses.append("a worker crashed: " + errors.strip().splitlines()[-1])
        if self._study is not None:
            StudyStore(self._study).engine.dispose()


def _content(trial: FrozenTrial) -> str:
    return json.dumps([trial.state.name, trial.values, trial.params, trial.user_attrs], sort_keys=True)


def main(
    runs: Annotated[int, typer.Option(help="Number of searches.")] = 1,
    workers: Annotated[int, typer.Option(help="Worker processes of each search.")] = 4,
    trials: Annotated[int, typer.Option(help="Trials of each search.")] = 60,
    database: Annotated[str, typer.Option(help="postgresql or sqlite.")] = "postgresql",
    every: Annotated[float, typer.Option(help="Mean seconds between two kills.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Of the faults of the first search; each further one adds 1.")] = 0,
) -> None:
    """Run searches under faults, and print what was lost."""
    lost = 0
    server = Server() if database == "postgresql" else None
    try:
        for number in range(runs):
            with tempfile.TemporaryDirectory(prefix="failures-") as name:
                folder = Path(name)
                url = server.new_database() if server else f"sqlite:///{folder / 'study.db'}"
                run = Run(folder, url, server, workers, trials, seed + number)
                report = run.go(Faults(every=every))
                print(json.dumps({"run": number, **asdict(report)}), flush=True)
                if report.losses:
                    sys.stderr.write((folder / "errors").read_text()[-4000:])
                lost += bool(report.losses)
    finally:
        if server:
            server.close()
    print(f"{lost} of {runs} runs lost something", flush=True)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    typer.run(main)
