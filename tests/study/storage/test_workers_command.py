"""The command nas.workers, and passwords in what commands print."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

from optuna.study import Study
from postgres import PASSWORD, Server
from worker_processes import CHOICES, StartLease, move_to_another_machine

from nas.study.storage.backend import open_storage
from nas.study.storage.trial_queue import Counts, claim, count


def test_workers_are_listed_and_stale_trials_requeued(
    study: Study, url: str, start_lease: StartLease, in_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    alive, lost = start_lease(lease=60), start_lease(alive=False)
    first, second = claim(study, 9, CHOICES, alive), claim(study, 9, CHOICES, lost)
    assert first is not None
    assert second is not None
    move_to_another_machine(second, lost)
    time.sleep(0.6)

    def listed(*flags: str) -> dict[str, Any]:
        done = in_process("workers", "--study", "tiny", "--storage", url, "--json", *flags)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    before = listed()
    by_id = {worker["worker"]: worker for worker in before["workers"]}
    assert by_id[alive.id]["trial"] == first.number
    assert not by_id[alive.id]["lost"]
    assert by_id[alive.id]["pid"] == os.getpid()
    assert 0 <= by_id[alive.id]["last_sign"] < 10
    assert by_id[lost.id]["lost"]
    assert [(one["trial"], one["machine"]) for one in before["stale"]] == [(second.number, "elsewhere")]
    assert before["handed_back"] == []

    shown = in_process("workers", "--study", "tiny", "--storage", url)
    assert "study tiny: 1 worker, 1 lost; 1 stale trial" in shown.stdout
    assert "with --reap" in shown.stdout
    assert "\x1b" not in shown.stdout

    assert listed("--reap")["handed_back"] == [second.number]
    assert listed()["stale"] == []
    assert count(study) == Counts(complete=0, pruned=0, running=1, waiting=1)


def test_commands_do_not_print_passwords(
    server: Server, in_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    url = server.over_tcp(server.new_database())
    open_storage(url)
    for flags in (("workers", "--study", "none"), ("report", "--study", "none")):
        done = in_process(*flags, "--storage", url)
        assert done.returncode == 2
        assert "postgres:***@127.0.0.1" in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
