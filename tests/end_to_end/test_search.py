"""``python -m nas.search`` from outside: what it prints, what it leaves, how it is stopped, killed and taken up."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from workplace import ENVIRONMENT, LONGER, Workplace, essence, living, until

from nas.study.execution.worker_count import measure_worker_count
from nas.study.pareto import HypervolumeScale, Point, front, hypervolume
from nas.study.reporting import search_session

pytestmark = pytest.mark.slow


def front_of(place: Workplace, study: str = "tiny") -> list[int]:
    """Numbers of the trials on the front, cheapest first."""
    finished = [trial for trial in place.trials(study, study) if trial.state == TrialState.COMPLETE]
    return [
        p.number for p in front([Point(t.number, t.values[0], int(t.values[1]), int(t.values[2])) for t in finished])
    ]


def test_a_search_ends_with_exactly_its_trials(finished: Workplace) -> None:
    trials = finished.trials()
    assert len(finished.done()) == len(trials) == 6
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{finished.path('tiny', 'study.db')}")
    assert study.metric_names == ["PCKh", "params", "MAdds"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert len({json.dumps(t.user_attrs["candidate"]) for t in trials}) == 6, "a network was trained twice"
    owners = {t.user_attrs["owner"]["pid"] for t in trials}
    assert len(owners) == 2, "one worker did all the work"
    assert all(t.user_attrs["reason"] for t in trials if t.state == TrialState.PRUNED)
    assert list(finished.path("tiny", "checkpoints").iterdir()) == []
    assert len(list(finished.path("data").glob("*.h5"))) == 1


def test_a_small_space_ends_when_all_networks_are_tried(place: Workplace) -> None:
    space = "[choices]\nblock = ['bottleneck', 'ghost']\nstem = [8]\nwidth = [8]\nstacks = [1]\ndepth = [2]\n"
    place.space.write_text(space)
    for _ in range(2):  # the second time, nothing is left from the beginning
        done = place.search("--trials", 9, "--workers", 2, "--max-params", "1,000,000")
        assert "2 networks of it within the budget" in done.stdout
        assert "every network of space.toml within the budget was tried: 2 trials" in done.stderr
        assert "front of study tiny" in done.stdout
        assert [trial.state.name for trial in place.trials()] == ["COMPLETE", "COMPLETE"]


def test_it_prints_a_plain_log_and_the_front_and_what_to_do_next(finished: Workplace) -> None:
    output = (finished.folder / "stdout").read_text()
    assert "\x1b" not in output
    assert "Traceback" not in (finished.folder / "stderr").read_text()
    lines = output.splitlines()
    assert lines[0].startswith("study tiny: 6 trials, 2 workers, 64 points of space.toml")
    ended = [int(found[1]) for line in lines if (found := re.match(r"trial (\d+): PCKh +[\d.]+, .* params", line))]
    assert sorted(ended) == list(range(6))
    assert re.search(r"6 of 6 trials, \d+:\d\d.* · best PCKh [\d.]+ · front of \d+ · hypervolume 0\.\d+", output)
    table = lines[lines.index("front of study tiny") + 2 :]
    rows = [int(found[1]) for line in table if (found := re.match(r" *(\d+) +[\d.]+ +\d+% +[\d,]+ +[\d.]+ M ", line))]
    assert rows == front_of(finished)
    assert "  python -m nas.dashboard --study tiny" in lines
    assert "  python -m nas.retrain --study tiny --pick knee" in lines


def test_the_same_command_again_has_nothing_to_do(going: Workplace, finished: Workplace) -> None:
    again = going.run("search", "--study", "tiny.toml", "--trials", 6, "--workers", 2)
    assert (again.returncode, again.stderr) == (0, "")
    assert "6 trials are done already: nothing to search for --trials 6." in again.stdout
    assert "front of study tiny" in again.stdout
    fewer = going.run("search", "--study", "tiny.toml", "--trials", 2, "--json")
    assert (fewer.returncode, fewer.stderr) == (0, "")
    assert [row["trial"] for row in json.loads(fewer.stdout)] == front_of(finished)
    assert list(map(essence, going.trials())) == list(map(essence, finished.trials()))


def test_a_larger_total_goes_on(going: Workplace, finished: Workplace) -> None:
    done = going.search("--trials", 8, "--workers", 1)
    assert "8 trials, 6 done already" in done.stdout
    assert len(going.trials()) == len(going.done()) == 8
    assert list(map(essence, going.trials()[:6])) == list(map(essence, finished.trials()))


def test_ctrl_c_hands_back_what_was_running_and_the_same_command_goes_on(place: Workplace) -> None:
    arguments = ("--study", "tiny.toml", "--trials", 3, "--workers", 1, *LONGER)
    with place.begun("search", *arguments) as process:
        until(lambda: _second_round(place, 1), "a trial begun after another's end is past its first epoch")
        os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == "interrupted; run the same command again to continue\n"
        until(lambda: not living(process.pid), "nothing is left running", 20)
    before = [essence(trial) for trial in place.done()]
    assert 1 <= len(before) < 3
    assert not any(trial.state == TrialState.RUNNING for trial in place.trials())

    place.search(*arguments[2:])
    assert len(place.done()) == 3
    assert [essence(trial) for trial in place.done()[: len(before)]] == before
    assert any(trial.user_attrs.get("resumed_after_epoch", 0) >= 1 for trial in place.done())


def test_ctrl_c_while_workers_start_is_quiet(place: Workplace) -> None:
    with place.begun("search", "--study", "tiny.toml", "--trials", 4, "--workers", 2) as process:
        until(lambda: any(_imports_torch(one.pid) for one in living(process.pid)[1:]), "a worker starts")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "interrupted; run the same command again to continue\n")
        until(lambda: not living(process.pid), "nothing is left running", 20)
    assert not any(trial.state == TrialState.RUNNING for trial in place.trials())


def test_a_killed_search_leaves_no_orphans_and_goes_on_from_its_checkpoints(place: Workplace) -> None:
    # Workers look for their coordinator twice a second: a trial of LONGER may end before that.
    arguments = ("--trials", 4, "--workers", 2, "--images", 1536, "--epochs", 8)
    with place.begun("search", "--study", "tiny.toml", *arguments) as process:
        until(lambda: _second_round(place, 2), "a trial begun after another's end is past its first epoch")
        process.kill()  # the coordinator alone
        process.wait()
        until(lambda: not living(process.pid), "the workers end with their coordinator", 20)
    before = [essence(trial) for trial in place.done()]
    running = [trial for trial in place.trials() if trial.state == TrialState.RUNNING]
    half_way = place.half_way()
    assert 1 <= len(before) < 4
    assert half_way, "the trial ended before the workers did: lengthen the schedule of this test"

    place.search(*arguments)
    trials = place.trials()
    assert len(place.done()) == 4
    assert [essence(trial) for trial in place.done() if trial.number in [b[0] for b in before]] == before
    taken_up = {t.user_attrs["first_number"]: t for t in trials if "first_number" in t.user_attrs}
    assert set(taken_up) == {trial.number for trial in running}
    for old in half_way:
        new = taken_up[old.number]
        assert new.state in (TrialState.COMPLETE, TrialState.PRUNED)
        assert new.params == old.params
        assert new.user_attrs["resumed_after_epoch"] >= 1
        assert trials[old.number].state == TrialState.FAIL
    assert list(place.path("tiny", "checkpoints").iterdir()) == []


def test_a_killed_worker_is_replaced(place: Workplace) -> None:
    arguments = ("--study", "tiny.toml", "--trials", 2, "--workers", 1, "--sampler", "random", *LONGER)
    with place.begun("search", *arguments) as process:
        trial = until(place.half_way, "a trial past its first epoch")[0]
        os.kill(trial.user_attrs["owner"]["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=200)
        assert (process.returncode, errors) == (0, "")
    done = place.done()
    assert len(done) == 2
    again = next(t for t in done if t.user_attrs.get("first_number") == trial.number)
    assert again.params == trial.params
    assert again.user_attrs["resumed_after_epoch"] >= 1
    assert again.user_attrs["owner"] != trial.user_attrs["owner"]


def test_other_settings_are_refused_and_named(going: Workplace) -> None:
    before = list(map(essence, going.trials()))

    def refused(*arguments: object) -> str:
        done = going.run("search", "--study", "tiny.toml", "--trials", 7, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("error: study 'tiny' was begun under other settings: ")
        assert "--name" in done.stderr
        return done.stderr

    assert "schedule.images was 96, is 128" in refused("--images", 128)
    going.file.write_text(going.file.read_text().replace("5e-3", "4e-3"))
    assert "schedule.learning_rate was 0.005, is 0.004" in refused()
    going.file.write_text(going.file.read_text().replace("4e-3", "5e-3"))
    going.space.write_text(going.space.read_text().replace("width = [8, 12]", "width = [8, 12, 16]"))
    assert "space.width was [8, 12], is [8, 12, 16]" in refused()
    going.space.write_text(going.space.read_text().replace("width = [8, 12, 16]", "width = [8, 12]"))
    other = going.folder / "other.h5"
    flags = ("--people", 64, "--holdout", 24, "--valid", 24, "--box", 32, "--seed", 1, "--out", other)
    assert going.run("prepare", "synthetic", *flags).returncode == 0
    assert "data.checksum was " in refused("--data", other)
    assert list(map(essence, going.trials())) == before


def test_one_worker_and_one_seed_give_one_result(place: Workplace) -> None:
    runs = []
    for name in ("first", "second"):
        flags = ("--workers", 1, "--max-params", "40k", "--device", "cpu", "--json")
        done = place.search("--name", name, "--seed", 7, "--trials", 5, *flags)
        assert done.stderr == ""
        rows = json.loads(done.stdout)
        trials = place.trials(name, name)
        assert [row["trial"] for row in rows] == front_of(place, name)
        for row in rows:
            assert [row["pckh"], row["params"], row["madds"]] == trials[row["trial"]].values
            assert row["input_size"] == 32
        runs.append([(t.state, t.values, t.params, t.user_attrs["cost"], t.user_attrs["rungs"]) for t in trials])
    assert len(runs[0]) == 5
    assert all(cost["params"] <= 40_000 for _, _, _, cost, _ in runs[0])
    assert runs[0] == runs[1]


def test_a_terminal_shows_it_live(place: Workplace) -> None:
    shown, terminal = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    arguments = ("--study", "tiny.toml", "--trials", 3, "--workers", 2, *LONGER)
    with place.begun("search", *arguments, stdout=terminal, stderr=subprocess.PIPE, env=environment) as process:
        os.close(terminal)
        output = b""
        while chunk := _read(shown):
            output += chunk
        process.communicate(timeout=60)
        assert process.returncode == 0
    os.close(shown)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert re.search(
        r"[12] of 3 trials, \d+:\d\d, \d+:\d\d left · best PCKh \d+\.\d · front of \d · hypervolume 0\.\d+", text
    )
    for worker in (0, 1):
        training = rf"^ *worker {worker} +trial \d .* \d+ img/s +[12]×(bottleneck|separable), width (8|12)"
        assert re.search(training, text, re.MULTILINE)
    assert "front of study tiny" in text


def _imports_torch(pid: int) -> bool:
    """Whether what forks the workers has come as far as to load PyTorch; other children have no part in that."""
    try:
        worker = b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return worker and "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def _second_round(place: Workplace, workers: int) -> bool:
    """Whether a trial is done and one that was begun after it is past its first epoch, and far from its end."""
    return bool(place.done()) and any(trial.number >= workers for trial in place.half_way())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # what a terminal says at its end
        return b""


def test_a_calibration_trains_both_schedules_and_is_printed_from_then_on(going: Workplace) -> None:
    before = list(map(essence, going.trials()))
    done = going.search("--calibrate", 3, "--workers", 2)
    assert "rank correlation with 4 times the schedule, 3 architectures: Spearman " in done.stdout
    trials = going.trials("tiny-calibration", "tiny")
    assert len(trials) == 6
    lengths = sorted((t.user_attrs["times"], t.user_attrs["images"]) for t in trials)
    assert lengths == [(1, 96)] * 3 + [(4, 384)] * 3
    assert list(map(essence, going.trials())) == before, "the study itself is left as it was"
    record = json.loads(going.search("--calibrate", 3, "--json").stdout)
    assert len(record["rows"]) == 3
    assert len(going.trials("tiny-calibration", "tiny")) == 6
    again = going.search("--trials", 6)
    assert "calibrated with 3 architectures, too few to judge its ranking" in again.stdout
    assert "not calibrated" not in again.stdout


def test_the_least_certain_of_the_front_are_trained_again(going: Workplace) -> None:
    before = list(map(essence, going.trials()))
    done = going.search("--confirm", 2, "--workers", 2)
    assert re.search(r"4 trained again; PCKh of one network between seeds: standard deviation \d+\.\d\d", done.stdout)
    assert "on front" in done.stdout
    trials = going.trials("tiny-repeats", "tiny")
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    assert sorted(t.user_attrs["seed"] for t in trials) == [1, 1, 2, 2]
    networks = {json.dumps(t.user_attrs["candidate"]) for t in trials}
    assert len(networks) == 2
    assert networks < {json.dumps(t.user_attrs["candidate"]) for t in going.trials()}
    assert list(map(essence, going.trials())) == before, "the study itself is left as it was"
    report = json.loads(going.run("report", "--study", "tiny", "--json").stdout)
    shown = report["front"] + report["near"]
    assert all(0 <= one["on_front"] <= 1 for one in shown)
    for one in shown:
        again = [t.values[0] for t in trials if t.user_attrs["candidate"] == one["candidate"]]
        own = next(t.values[0] for t in going.trials() if t.number == one["trial"])
        assert one["pckh_of_seeds"] == [own, *again]
        assert one["pckh"] == pytest.approx(sum([own, *again]) / (1 + len(again)))
    refused = going.run("search", "--study", "tiny.toml", "--confirm", 0)
    assert refused.returncode == 2
    assert "--confirm 0: must be at least 1" in refused.stderr


def test_a_search_that_was_killed_proposes_what_it_would_have(place: Workplace) -> None:
    flags = ("--workers", 1, "--seed", 5, "--trials", 7, *LONGER)
    place.search("--name", "whole", *flags)
    with place.begun("search", "--study", "tiny.toml", "--name", "cut", *flags) as process:
        until(lambda: len(place.done("cut", "cut")) >= 4, "four trials")
        for one in living(process.pid):
            one.kill()
    place.search("--name", "cut", *flags)

    def found(name: str) -> list[tuple[object, ...]]:
        done = [t for t in place.trials(name, name) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        return [(t.state, t.values, t.params, t.user_attrs["rungs"]) for t in done]

    assert len(found("whole")) == 7
    assert found("cut") == found("whole")


def test_what_a_person_queues_is_not_trained_twice_or_over_the_budget(going: Workplace) -> None:
    trials = going.trials()
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{going.path('tiny', 'study.db')}")
    cheapest = min(trials, key=lambda t: t.user_attrs["cost"]["params"])
    study.enqueue_trial(cheapest.params)
    dearest = max(trials, key=lambda t: t.user_attrs["cost"]["params"])
    study.enqueue_trial(dearest.params)
    going.search("--trials", 8, "--max-params", dearest.user_attrs["cost"]["params"] - 1)
    again, costly = going.trials()[6:]
    assert again.state == costly.state == TrialState.PRUNED
    assert again.user_attrs["reason"] == f"the network of trial {cheapest.number}: not trained again"
    assert costly.user_attrs["reason"] == "over the budget: not trained"
    assert "images" not in again.user_attrs
    assert "images" not in costly.user_attrs


def test_how_far_the_search_has_come_is_noted_with_every_trial(finished: Workplace) -> None:
    trials = sorted(finished.trials(), key=lambda t: t.datetime_complete)
    total, points = 0, []
    for trial in trials:
        total += trial.user_attrs["images"]
        if trial.state == TrialState.COMPLETE:
            points.append(Point(trial.number, trial.values[0], int(trial.values[1]), int(trial.values[2])))
        seen = trial.user_attrs
        assert seen["images_so_far"] == total
        assert seen["front_size"] == len(front(points))
        assert seen["hypervolume"] == pytest.approx(
            hypervolume(points, HypervolumeScale((10_000, 100_000), (500_000, 10_000_000)))
        )


def test_the_number_of_workers_can_be_left_to_a_measurement(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, in_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # A short measurement: that it finds the best number is tested where it is made.
    briefly = functools.partial(measure_worker_count, seconds=0.5, rounds=1)
    monkeypatch.setattr(search_session, "measure_worker_count", briefly)
    monkeypatch.chdir(place.folder)
    done = in_process("search", "--study", "tiny.toml", "--trials", 2, "--workers", "auto")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^--workers auto: (\d+): [\d,]+ whole trials an hour$", done.stdout, re.M)
    assert found
    workers = int(found[1])
    assert 1 <= workers <= (os.cpu_count() or 1)
    assert f"2 trials, {workers} worker" in done.stdout
    assert len(place.done()) == 2


def test_a_long_temporary_folder_and_a_reference_out_of_reach(place: Workplace) -> None:
    # Batch systems set such folders; the path of a socket may have 107 bytes.
    scratch = place.folder / "scratch" / ("a-job-with-a-long-name-" * 4)
    scratch.mkdir(parents=True)
    assert len(str(scratch)) > 107
    place.file.write_text(re.sub(r"madds = .*", "madds = [1_000, 20_000]", place.file.read_text()))
    environment = {**ENVIRONMENT, "TMPDIR": str(scratch)}
    with place.begun("search", "--study", "tiny.toml", "--trials", 1, "--quiet", env=environment) as process:
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    (line,) = errors.splitlines()
    assert "lies within [reference]" in line
    assert re.search(r"madds = \[[\d_]+, [\d_]+\] would hold them, not up to 20_000", line)
