"""Runs a search as an array of Slurm tasks, terminates one, requeues another, and checks for losses.

    python tests/stress/cluster.py                # one task is terminated (SIGTERM), one requeued
    python tests/stress/cluster.py --time-limit   # then all tasks reach their time limit, in the second minute

Needs Debian's slurm-wlm and munge, and root. Starts them and PostgreSQL in temporary directories. Exits with 1 if
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
from optuna.trial import FrozenTrial, TrialState

from nas.study.space.candidate import Candidate
from nas.study.storage.owner import Owner
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import DONE, earlier_numbers

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "end_to_end")]
from failures import SPACE
from postgres import PASSWORD, Server
from workplace import ENVIRONMENT, LONGER, REPOSITORY, STUDY, Workplace, study_at, until

SCRIPT = REPOSITORY / "studies" / "cluster" / "search.sbatch"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# A requeued job waits until its old credential has expired, after two minutes by default.
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
    """Whether Slurm is installed and can be started."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


class Cluster:
    """Slurm on this machine: a controller and one node, in a temporary directory."""

    def __init__(self, cpus: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)  # munge requires: not writable by others, and its socket reachable by all
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
        folder = self.folder / "munge"
        files = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={folder / 'socket'}", *files)
        until((folder / "socket").exists, "munged listens", 30)

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
        """The output of a Slurm command; empty while the controller does not answer."""
        command = [program, *map(str, arguments)]
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def submit(self, script: Path, folder: Path, environment: dict[str, str], *arguments: object) -> int:
        """Submit a script from a folder, and return the job id. Arguments before the script are for sbatch."""
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
        """State and number of requeues of each task of the array that has not ended."""
        lines = self.ask("squeue", "-h", "-r", "-O", "ArrayTaskID:20,State:20,RestartCnt:20").splitlines()
        fields = [line.split() for line in lines]
        return {int(task): (state, int(restarts)) for task, state, restarts in fields}

    def log(self) -> str:
        """The last output of the daemons."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """Cancel all jobs, stop the daemons, and remove their files."""
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
    """What happened to a search, and the losses that were found."""

    seconds: float = 0.0
    tasks: int = 0
    trials: int = 0
    restarts: dict[int, int] = field(default_factory=dict)
    processes: int = 0
    requeued: int = 0
    resumed: int = 0
    losses: list[str] = field(default_factory=list)


class Search:
    """The array script on a tiny study, interrupted as a scheduler does."""

    def __init__(self, cluster: Cluster, server: Server, folder: Path, tasks: int, trials: int) -> None:
        self.cluster, self.place, self.tasks, self.trials = cluster, Workplace(folder), tasks, trials
        self.place.space.write_text(SPACE)
        self.place.file.write_text(STUDY.replace("least = 3", "least = 1000"))  # no early stopping
        self.url = server.new_database()
        # Over TCP, which needs a password; it is in a file that only its owner can read.
        self.shown = server.over_tcp(self.url, None)
        self.secret = folder / "pgpass"
        self.secret.touch(mode=0o600)
        self.secret.write_text(f"127.0.0.1:{server.port}:*:postgres:{PASSWORD}\n")
        self.report = Report(tasks=tasks, trials=trials)
        self._study: optuna.Study | None = None

    def begin(self, *, minutes: int) -> int:
        """Submit the script, and return the job id."""
        python = Path(sys.executable).parent
        environment = {
            **ENVIRONMENT,
            "PATH": f"{python}:{os.environ['PATH']}",
            "PGPASSFILE": str(self.secret),
            "HOURGLASS_STORAGE": self.shown,
        }
        slurm = (f"--array=0-{self.tasks - 1}", "--cpus-per-task=1", f"--time={minutes}")
        flags = ("--study", "tiny.toml", "--trials", self.trials, "--workers", 1, *LONGER)
        checkpoints = ("--checkpoints", self.place.folder / "checkpoints")
        return self.cluster.submit(SCRIPT, self.place.folder, environment, *slurm, SCRIPT, *flags, *checkpoints)

    def trials_of_study(self) -> list[FrozenTrial]:
        """The trials; none before the study exists."""
        self._study = self._study or study_at(self.url)
        return self._study.get_trials(deepcopy=False) if self._study is not None else []

    def done(self) -> int:
        """Number of finished trials."""
        return sum(t.state in DONE for t in self.trials_of_study())

    def half_way(self) -> bool:
        """Whether every task trains a trial that has finished an epoch."""
        checkpoints = self.place.folder / "checkpoints" / "tiny"
        running = [t for t in self.trials_of_study() if t.state == TrialState.RUNNING]
        return sum((checkpoints / f"trial-{t.number}.pt").exists() for t in running) == self.tasks

    def go(self, time_limit: bool = False, seconds: float = 300) -> Report:
        """Run the search to its end; meanwhile terminate the first task and requeue the second."""
        started = time.monotonic()
        job = self.begin(minutes=2 if time_limit else 60)
        until(lambda: self.half_way() or not self.cluster.tasks(), "every task trains", seconds)
        # The same signal as before the time limit (`--signal`) and at preemption.
        self.cluster.ask("scancel", "--signal=TERM", f"{job}_0")
        if self.tasks > 1:
            self.cluster.ask("scontrol", "requeue", f"{job}_1")

        def ended() -> bool:
            tasks = self.cluster.tasks()
            for task, (_, restarts) in tasks.items():
                self.report.restarts[task] = max(restarts, self.report.restarts.get(task, 0))
            return not tasks

        until(ended, "all tasks end", seconds)
        self.report.seconds = round(time.monotonic() - started, 1)
        self.conclude(time_limit)
        return self.report

    def conclude(self, time_limit: bool) -> None:
        """Check for losses, and complete the report."""
        report, trials = self.report, self.trials_of_study()
        done = [t for t in trials if t.state in DONE]
        states = Counter(t.state.name for t in trials)
        if len(done) != self.trials:
            report.losses.append(f"{len(done)} finished of {self.trials}")
        report.losses += [f"{states[s]} still {s.lower()}" for s in ("RUNNING", "WAITING") if states[s]]
        networks = Counter(Candidate.from_dict(t.user_attrs["candidate"]).id for t in done)
        report.losses += [f"trained {n} times: {network}" for network, n in networks.items() if n > 1]
        interrupted = range(self.tasks) if time_limit else range(min(2, self.tasks))
        report.losses += [f"task {task} did not restart" for task in interrupted if not report.restarts.get(task)]
        report.processes = len({(o.host, o.pid, o.born) for t in trials if (o := Owner.of(t)) is not None})
        report.requeued = states["FAIL"]
        report.resumed = sum("resumed_after_epoch" in t.user_attrs for t in done)
        continued = {number for t in trials for number in earlier_numbers(t)}
        for trial in trials:
            if trial.state == TrialState.FAIL and "candidate" in trial.user_attrs and trial.number not in continued:
                report.losses.append(f"trial {trial.number} was started and never continued")
        report.losses += [
            f"trial {t.number} restarted from the first epoch" for t in done if t.user_attrs.get("started_again")
        ]
        if any(PASSWORD in text for text in self.logs().values()):
            report.losses.append("a log shows the password")
        if self._study is not None:
            StudyStore(self._study).engine.dispose()

    def logs(self) -> dict[str, str]:
        """The output of each task."""
        return {path.name: path.read_text() for path in sorted(self.place.folder.glob("slurm-*.log"))}


def main(
    tasks: Annotated[int, typer.Option(help="Tasks of the array.")] = 3,
    trials: Annotated[int, typer.Option(help="Trials of the study.")] = 24,
    time_limit: Annotated[bool, typer.Option(help="Let all tasks reach their time limit too.")] = False,
) -> None:
    """Run a search under Slurm, and print what was lost."""
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
