"""nas.bench: measurements, and their comparison with targets."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.architecture.cost import network_cost
from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture
from nas.bench import app
from nas.benchmark.concurrency import ConcurrencyMeasurement, best_workers, trials_per_hour
from nas.benchmark.dataloader_baseline import BOX, IMAGE_SIZE, JpegPeople, gaussians, write_images
from nas.benchmark.interleaved import Spread, Turn, take_turns
from nas.benchmark.measure import Case, ratios_of
from nas.benchmark.roofline import Rates, Roofline, convolution_bytes, roofline
from nas.benchmark.targets import targets
from nas.benchmark.task import Task
from nas.benchmark.workloads import TrainingLoop, TrialStartup
from nas.data.augmentation import Augmentation
from nas.data.packed.reader import PackedPeople
from nas.errors import UserError
from nas.study.space.published import named
from nas.training.heatmaps import decode, encode
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

CASE = Case(
    name="hg2",
    input_size=256,
    width_scale=1.0,
    batch=32,
    params=10,
    madds=10,
    rates={way: Spread(rate, rate, rate, 1) for way, rate in {"full": 2600.0, "evaluation": 5000.0}.items()},
    ratios={
        name: Spread(value, value, value, 1)
        for name, value in {"full / bare": 0.92, "bare / plain step": 3.5, "full / plain loop": 5.0}.items()
    },
    floor=Roofline(0.001, 0.002),
    first=9.0,
    later=Spread(1.0, 0.9, 1.1, 3),
    trial_images=44_000,
)


def verdicts(case: Case, device: str, cores: int = 2) -> dict[str, str]:
    return {target.what: target.verdict for target in targets(case, device, cores)}


def test_targets_depend_on_the_device() -> None:
    on_cpu, on_gpu = verdicts(CASE, "cpu"), verdicts(CASE, "NVIDIA H100 80GB HBM3")
    assert on_cpu == {
        "full / bare": "met",  # 0.90 wanted
        "bare / plain step": "not applicable here",
        "full / plain loop": "met",  # 2 wanted
        "full, images/s": "not applicable here",
        "start-up after the first": "met",
        "evaluating 3,000 / short trial": "met",  # 0.6 s of 17 s
    }
    assert on_gpu["full / bare"] == "not met"  # 0.95 wanted
    assert on_gpu["bare / plain step"] == "met"  # hg2: 3 wanted
    assert on_gpu["full / plain loop"] == "not met"  # 10 wanted
    assert on_gpu["full, images/s"] == "met"
    launch_bound = verdicts(replace(CASE, name="dice"), "NVIDIA H100 80GB HBM3")
    assert launch_bound["bare / plain step"] == "not met"  # 6 wanted
    assert launch_bound["full, images/s"] == "not applicable here"
    assert verdicts(CASE, "cpu", cores=8)["full / plain loop"] == "not applicable here"  # it is set for 2 cores


def test_skipped_cases_meet_no_target() -> None:
    skipped = replace(CASE, rates={}, ratios={}, floor=None, first=None, later=None, skipped="needs 99 GB")
    assert set(verdicts(skipped, "cpu").values()) == {"not applicable here"}


def test_ratios_are_taken_round_by_round_on_equal_cores() -> None:
    timed = {
        "bare": [100.0, 50.0, 200.0],  # the machine was slow in the second round
        "plain step": [50.0, 25.0, 100.0],
        "full": [90.0, 45.0, 180.0],
        "full on all cores": [160.0, 80.0, 320.0],
        "plain loop, 1 thread": [40.0, 20.0, 80.0],
        "plain loop, 2 threads": [10.0, 200.0, 10.0],
    }
    found = ratios_of(timed)
    for name, value in {"full / bare": 0.9, "bare / plain step": 2.0, "full / plain loop": 4.0}.items():
        assert found[name].median == found[name].low == found[name].high == pytest.approx(value)
    del timed["full on all cores"]
    assert ratios_of(timed)["full / plain loop"].median == pytest.approx(2.25)


class Clock:
    """A workload that takes a given time per step and logs its runs."""

    def __init__(self, name: str, pace: float, log: list[tuple[str, int]]) -> None:
        self.name, self.pace, self.log = name, pace, log

    def run(self, steps: int) -> float:
        self.log.append((self.name, steps))
        return self.pace * steps

    def close(self) -> None:
        pass


def test_workloads_alternate_and_get_equal_times() -> None:
    log: list[tuple[str, int]] = []
    turns = {
        "quick": Turn(Clock("quick", 0.01, log), 8, warm=2),
        "slow": Turn(Clock("slow", 3.0, log), 8, warm=5),
        "in threes": Turn(Clock("in threes", 0.04, log), 16, multiple=3),
    }
    rates = take_turns(turns, seconds=1.0, rounds=4)
    assert log[-12:] == [("quick", 25), ("slow", 1), ("in threes", 6)] * 4
    assert log[:-12] == [("quick", 1)] * 3 + [("slow", 1)] * 2 + [("in threes", 1)] * 2
    assert rates == {
        "quick": pytest.approx([800.0] * 4),
        "slow": pytest.approx([8 / 3] * 4),
        "in threes": pytest.approx([400.0] * 4),
    }


@pytest.mark.slow
def test_large_workloads_start_each_turn_with_untimed_steps() -> None:
    log: list[tuple[str, int]] = []
    turns = {
        "slow": Turn(Clock("slow", 3.0, log), 8, warm=5, large=True),
        "in pairs": Turn(Clock("in pairs", 0.1, log), 8, multiple=2, large=True),
    }
    rates = take_turns(turns, seconds=1.2, rounds=2)
    assert log == [("slow", 1), ("slow", 1), ("in pairs", 2), ("in pairs", 6)] * 2
    assert rates == {"slow": pytest.approx([8 / 3] * 2), "in pairs": pytest.approx([80.0] * 2)}


@pytest.fixture
def task(tiny: Architecture, small_people: PackedPeople) -> Task:
    task = Task(tiny, Losses(), ScheduleConfig(8, 1, 8), Path("nowhere"), None, 32, "cpu")
    vars(task)["people"] = small_people
    return task


def test_the_training_loop_pauses_after_the_steps_asked_for(task: Task) -> None:
    done = []

    class Counted(TrainingLoop):
        def _after_step(self, step: int) -> None:
            done.append(step)
            super()._after_step(step)

    workload = Counted(task)
    assert workload.run(2) > 0
    assert done == [1, 2]
    assert workload.run(1) > 0
    workload.close()
    assert done == [1, 2, 3]


def test_startup_ends_when_a_batch_reaches_the_network(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object) -> None:
        raise AssertionError("the network ran")

    startup = TrialStartup(task)
    assert startup.run(2) >= 0
    monkeypatch.setattr("nas.architecture.hourglass.HourglassNetwork.forward", forward)
    assert 0 < startup.run(0) < 10


def test_the_roofline_is_the_larger_of_compute_and_memory_time() -> None:
    rates = Rates(madds=1e9, bytes=1e8, dtype="float32")
    assert roofline(10**8, 10**6, rates).seconds == pytest.approx(0.3)  # forward, and twice that backward
    assert roofline(10**6, 10**8, rates).seconds == pytest.approx(1.0)


def test_convolution_bytes_count_every_convolution(tiny: Architecture) -> None:
    network = build_network(tiny, 16, (32, 32))
    one = convolution_bytes(network, torch.zeros(1, 3, 32, 32), torch.float32)
    two = convolution_bytes(network, torch.zeros(2, 3, 32, 32), torch.float32)
    assert convolution_bytes(network, torch.zeros(1, 3, 32, 32), torch.bfloat16) == one // 2
    weights = (
        3 * 4 * sum(p.numel() for m in network.modules() if isinstance(m, torch.nn.Conv2d) for p in m.parameters())
    )
    assert two - weights == 2 * (one - weights)
    stem = network.stem[0]
    alone = convolution_bytes(stem, torch.zeros(1, 3, 32, 32), torch.float32)
    assert alone == 3 * 4 * (3 * 32 * 32 + 4 * 16 * 16 + 4 * 3 * 49 + 4)


def test_baseline_gaussians_equal_those_of_training() -> None:
    joints = np.array([[3.3, 4.9], [15.9, 0.2], [-1.0, 5.0], [8.0, 8.0]])
    labelled = np.array([True, True, True, False])
    maps, on_map = gaussians(joints, labelled, 16, 1.0)
    assert on_map.tolist() == [True, True, False, False]
    exact = encode(torch.from_numpy(joints).float()[None], (16, 16), 1.0)[0].numpy()
    assert np.abs(maps[:2] - exact[:2]).max() < 0.012  # beyond 3 sigma there is nothing
    assert not maps[2:].any()


def test_baseline_images_match_their_heatmaps(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    still = JpegPeople(tmp_path, 10, 256, 4, 1.5, Augmentation(0, 0, 0, 0, 0))
    image, target, labelled = still[3]
    assert image.shape == (3, 256, 256)
    found = decode(target[None])[0][0] * 4
    expected = (still.joints[1] - np.array(IMAGE_SIZE) / 2) * 256 / BOX + 128
    assert np.abs(found.numpy() - expected)[labelled.numpy()].max() < 0.2
    mirrored = JpegPeople(tmp_path, 10, 256, 4, 1.5, Augmentation(0, 0, 0, 1, 0))[3]
    assert torch.equal(mirrored[0], image.flip(-1))
    changed = JpegPeople(tmp_path, 10, 64, 4, 1.0, Augmentation())
    assert changed[0][0].shape == (3, 64, 64)
    assert not torch.equal(changed[0][0], changed[2][0])  # the same image, augmented differently


def test_the_fewest_workers_near_the_best_throughput_are_best() -> None:
    # A trial of 1,000 images starts up in 2 s; two workers saturate the device.
    found = [
        ConcurrencyMeasurement(count, rate, 2.0, trials_per_hour(count, rate, 2.0, 1000))
        for count, rate in ((1, 100.0), (2, 180.0), (4, 181.0), (8, 120.0))
    ]
    assert found[0].trials_per_hour == pytest.approx(3600 / 12)
    assert found[1].trials_per_hour == pytest.approx(2 * 3600 / (2 + 1000 / 90))
    assert found[2].trials_per_hour > found[1].trials_per_hour  # while one starts up, another trains
    assert best_workers(found).workers == 4
    assert best_workers(found[:2]).workers == 2
    assert best_workers([found[0], replace(found[1], trials_per_hour=310.0)]).workers == 1


@pytest.mark.slow
def test_the_command_measures_concurrent_workers(
    command: Callable[..., subprocess.CompletedProcess[str]], one_core: None
) -> None:
    flags = ["--networks", "hg1", "--sizes", "64", "--batches", "4", "--seconds", "0.05", "--rounds", "1"]
    done = command("bench", "--workers", *flags, "--device", "cpu", "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["cases"] == content["goals"] == []
    (shared,) = content["sharing"]
    (alone,) = shared["tried"]
    assert (shared["network"], shared["batch"], alone["workers"]) == ("hg1", 4, 1)
    assert 0 < alone["trials_per_hour"] < 3600 * alone["images_per_second"] / 4000


@pytest.fixture
def one_core() -> Iterator[None]:
    """Commands started meanwhile see one core, so that they start fewer processes."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.slow
def test_the_command_measures_all_workloads(
    command: Callable[..., subprocess.CompletedProcess[str]], one_core: None, tmp_path: Path
) -> None:
    file = tmp_path / "bench.json"
    flags = ["--networks", "hg1", "--sizes", "64", "--batches", "4", "--seconds", "0.05", "--rounds", "2"]
    done = command("bench", *flags, "--device", "cpu", "--json", "--out", file, timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content == json.loads(file.read_text())
    assert content["device"] == "cpu"
    assert content["rates"]["madds"] > 0
    (case,) = content["cases"]
    assert content["cores"] == 1
    ways = {"bare", "plain step", "full", "full on all cores", "plain loop, 1 thread", "evaluation"}
    assert set(case["rates"]) == ways
    for spread in case["rates"].values():
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert spread["rounds"] == 2
    assert case["madds"] == network_cost(named("hg1").candidate.architecture.scaled(0.25), 16, (64, 64)).madds
    assert case["floor_rate"] > case["rates"]["bare"]["median"] / 2  # the machine may be busier at one than the other
    assert case["evaluation_seconds"] == pytest.approx(3000 / case["rates"]["evaluation"]["median"])
    assert case["later"]["rounds"] == 3
    assert {goal["what"] for goal in content["goals"]} == set(verdicts(CASE, "cpu"))
    assert "leaked" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--sizes", "100"], "--sizes 100: must be multiples of 64"),
        (["--networks", "hg22"], "did you mean"),
        (["--out", "/nowhere/b.json"], "--out /nowhere/b.json"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_bad_flags_are_named(flags: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        app(args=flags, standalone_mode=False)
