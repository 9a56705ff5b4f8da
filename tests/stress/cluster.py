"""A search under Slurm: an array of tasks on one study, one told to end, one requeued; and what of their work was lost.

    python tests/stress/cluster.py                # one told to end (SIGTERM), one requeued
    python tests/stress/cluster.py --time-limit   # and all of them reach their time limit, in the second minute

Needs Debian's slurm-wlm and munge, and root; starts them and PostgreSQL in temporary directories. Exits with 1 if
anything was lost.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import optuna
import typer
from failures import SPACE
from optuna.trial import FrozenTrial, TrialState
from postgres import PASSWORD, Server

from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import Owner, earlier_numbers

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "end_to_end")]
from workplace import DONE, ENVIRONMENT, LONGER, REPOSITORY, STUDY, Workplace, study_at, until

from nas.study.space.candidate import Candidate

SCRIPT = REPOSITORY / "studies" / "cluster" / "search.sbatch"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# A job that is requeued waits until its old credential has run out, two minutes by default.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=1
KillWait=5
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def present() -> bool:
    """Whether a cluster can be started here."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


class Cluster:
    """Slurm on this machine: its controller and one node, in a temporary directory."""

    def __init__(self, cpus: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)  # munge wants nothing that others may write to, and a socket that all reach
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o755)
        host = socket.gethostname().split(".")[0]
        ports = [_free_port() for _ in range(2)]
        configuration = self.folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(host=host, folder=self.folder, cpus=cpus, controller_port=ports[0], node_port=ports[1])
        )
        self.environment = {"SLURM_CONF": str(configuration)}
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._munge()
            self._daemon("slurmctld", "-D", "-i")
            self._daemon("slurmd", "-D", "-N", host)
            until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "slurmd registers", 60)
        except BaseException:
            self.close()
            raise

    def _munge(self) -> None:
        place = self.folder / "munge"
        files = [f"--{name}-file={place / name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={place / 'socket'}", *files)
        until((place / "socket").exists, "munged listens", 30)

    def _daemon(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.log").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    [program, *arguments],
                    env={**os.environ, **self.environment},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def ask(self, program: str, *arguments: object) -> str:
        """What one of Slurm's commands answers; nothing while the controller does not."""
        line = [program, *map(str, arguments)]
        done = subprocess.run(
            line, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def submit(self, script: Path, folder: Path, environment: dict[str, str], *arguments: object) -> int:
        """Submit a script from a folder; its job's number. What stands before the script goes to sbatch."""
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, arguments)],
            cwd=folder,
            env={**environment, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def tasks(self) -> dict[int, tuple[str, int]]:
        """Of each task of the array that has not ended: its state, and how often it was requeued."""
        lines = self.ask("squeue", "-h", "-r", "-O", "ArrayTaskID:20,State:20,RestartCnt:20").splitlines()
        fields = [line.split() for line in lines]
        return {int(task): (state, int(restarts)) for task, state, restarts in fields}

    def log(self) -> str:
        """What the daemons wrote last."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """End every job and the daemons, and remove what they kept."""
        if len(self._daemons) == 3:
            self.ask("scancel", "--user=root")
            self.ask("scancel", "--full", "--signal=KILL", "--user=root")
            until(lambda: not self.ask("squeue", "-h"), "the jobs end", 60)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass
class Report:
    """What was done to a search, and what it lost: nothing, if ``losses`` is empty."""

    seconds: float = 0.0
    tasks: int = 0
    trials: int = 0
    restarts: dict[int, int] = field(default_factory=dict)
    processes: int = 0
    handed_back: int = 0
    resumed: int = 0
    losses: list[str] = field(default_factory=list)


class Search:
    """The array script on a tiny study, under what a scheduler does to it."""

    def __init__(self, cluster: Cluster, server: Server, folder: Path, tasks: int, trials: int) -> None:
        self.cluster, self.place, self.tasks, self.trials = cluster, Workplace(folder), tasks, trials
        self.place.space.write_text(SPACE)
        self.place.file.write_text(STUDY.replace("least = 3", "least = 1000"))  # all train to the end
        self.url = server.new_database()
        # Over TCP, where a password is asked for: it comes from a file that only its owner reads.
        self.shown = server.over_tcp(self.url, None)
        self.secret = folder / "pgpass"
        self.secret.touch(mode=0o600)
        self.secret.write_text(f"127.0.0.1:{server.port}:*:postgres:{PASSWORD}\n")
        self.report = Report(tasks=tasks, trials=trials)
        self._study: optuna.Study | None = None

    def begin(self, *, minutes: int) -> int:
        """Submit it, as a person would; the job's number."""
        python = Path(sys.executable).parent
        environment = {
            **ENVIRONMENT,
            "PATH": f"{python}:{os.environ['PATH']}",
            "PGPASSFILE": str(self.secret),
            "HOURGLASS_STORAGE": self.shown,
        }
        slurm = (f"--array=0-{self.tasks - 1}", "--cpus-per-task=1", f"--time={minutes}")
        flags = ("--study", "tiny.toml", "--trials", self.trials, "--workers", 1, *LONGER)
        kept = ("--checkpoints", self.place.folder / "checkpoints")
        return self.cluster.submit(SCRIPT, self.place.folder, environment, *slurm, SCRIPT, *flags, *kept)

    def all(self) -> list[FrozenTrial]:
        """The trials; none before the study is there."""
        self._study = self._study or study_at(self.url)
        return self._study.get_trials(deepcopy=False) if self._study is not None else []

    def done(self) -> int:
        """How many trials have finished."""
        return sum(t.state in DONE for t in self.all())

    def half_way(self) -> bool:
        """Whether every task trains a trial that has done an epoch."""
        kept = self.place.folder / "checkpoints" / "tiny"
        running = [t for t in self.all() if t.state == TrialState.RUNNING]
        return sum((kept / f"trial-{t.number}.pt").exists() for t in running) == self.tasks

    def go(self, time_limit: bool = False, seconds: float = 300) -> Report:
        """Search to the end, the first task told to end and the second one requeued on the way."""
        began = time.monotonic()
        job = self.begin(minutes=2 if time_limit else 60)
        until(lambda: self.half_way() or not self.cluster.tasks(), "every task trains", seconds)
        # What `--signal` does before the time limit, and what a preempted job gets.
        self.cluster.ask("scancel", "--signal=TERM", f"{job}_0")
        if self.tasks > 1:
            self.cluster.ask("scontrol", "requeue", f"{job}_1")

        def ended() -> bool:
            tasks = self.cluster.tasks()
            for task, (_, restarts) in tasks.items():
                self.report.restarts[task] = max(restarts, self.report.restarts.get(task, 0))
            return not tasks

        until(ended, "all tasks end", seconds)
        self.report.seconds = round(time.monotonic() - began, 1)
        self.conclude(time_limit)
        return self.report

    def conclude(self, time_limit: bool) -> None:
        """Look for losses."""
        report, trials = self.report, self.all()
        done = [t for t in trials if t.state in DONE]
        states = Counter(t.state.name for t in trials)
        if len(done) != self.trials:
            report.losses.append(f"{len(done)} finished of {self.trials}")
        report.losses += [f"{states[s]} left {s.lower()}" for s in ("RUNNING", "WAITING") if states[s]]
        twice = Counter(Candidate.from_dict(t.user_attrs["candidate"]).id for t in done)
        report.losses += [f"{n} times: {name}" for name, n in twice.items() if n > 1]
        again = range(self.tasks) if time_limit else range(min(2, self.tasks))
        report.losses += [f"task {task} did not begin again" for task in again if not report.restarts.get(task)]
        report.processes = len({(o.host, o.pid, o.born) for t in trials if (o := Owner.of(t)) is not None})
        report.handed_back = states["FAIL"]
        report.resumed = sum("resumed_after_epoch" in t.user_attrs for t in done)
        taken_up = {number for t in trials for number in earlier_numbers(t)}
        for trial in trials:
            if trial.state == TrialState.FAIL and "candidate" in trial.user_attrs and trial.number not in taken_up:
                report.losses.append(f"trial {trial.number} was begun and never taken up")
        report.losses += [
            f"trial {t.number} began again from nothing" for t in done if t.user_attrs.get("started_again")
        ]
        if any(PASSWORD in text for text in self.logs().values()):
            report.losses.append("a log shows the password")
        if self._study is not None:
            StudyStore(self._study).engine.dispose()

    def logs(self) -> dict[str, str]:
        """What each task wrote."""
        return {path.name: path.read_text() for path in sorted(self.place.folder.glob("slurm-*.log"))}


def main(
    tasks: Annotated[int, typer.Option(help="Of the array.")] = 3,
    trials: Annotated[int, typer.Option(help="Of the study.")] = 24,
    time_limit: Annotated[bool, typer.Option(help="All tasks reach their time limit too.")] = False,
) -> None:
    """Search under Slurm, and print what was lost."""
    if not present():
        sys.exit("no Slurm here: as root, apt-get install slurm-wlm munge")
    server = Server()
    try:
        cluster = Cluster(cpus=tasks)
        try:
            with tempfile.TemporaryDirectory(prefix="cluster-") as name:
                search = Search(cluster, server, Path(name), tasks, trials)
                try:
                    report = search.go(time_limit)
                except AssertionError as error:
                    search.report.losses.append(str(error))
                    report = search.report
                print(json.dumps(asdict(report)), flush=True)
                if report.losses:
                    for log, text in search.logs().items():
                        sys.stderr.write(f"--- {log}\n{text[-3000:]}\n")
                    sys.stderr.write(cluster.log())
        finally:
            cluster.close()
    finally:
        server.close()
    sys.exit(1 if report.losses else 0)


if __name__ == "__main__":
    typer.run(main)
