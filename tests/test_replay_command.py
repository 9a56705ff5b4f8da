"""``python -m nas.replay``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from subprocess import CompletedProcess

import pytest

from nas.architecture.cost import network_cost
from nas.study.analysis.replay import BenchmarkRow, BenchmarkTable
from nas.study.files import packaged
from nas.study.pareto import HypervolumeScale
from nas.study.space.space_file import read_space

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 made-up results over the lightweight space."""
    space = read_space(packaged("search_spaces") / "lightweight.toml")
    rng, rows = Random(0), []
    while len(rows) < 30:
        point = space.random(rng)
        try:
            architecture = space.candidate(point, 0.25).architecture
        except ValueError:
            continue
        cost = network_cost(architecture, 16, (64, 64))
        final = 30 + cost.layers / 50
        rows.append(BenchmarkRow(point, final, cost.params, cost.madds, cost.layers, {1: final / 2, 2: final}))
    scale = HypervolumeScale((1_000, 2_000_000), (100_000, 150_000_000))
    path = tmp_path_factory.mktemp("record") / "record.json"
    path.write_text(BenchmarkTable({}, "lightweight", space.hash, 0.25, 64, 16, 2, 100, scale, tuple(rows)).to_json())
    return path


@pytest.mark.slow
def test_policies_are_compared(in_process: Command, record: Path) -> None:
    arguments = ("--record", record, "--trials", 40, "--policy", "random", "--policy", "tpe+halving")
    done = in_process("replay", *arguments, "--seeds", 2)
    assert done.returncode == 0, done.stderr
    assert "30 recorded networks, 2 seeds" in done.stdout
    by_trials, by_images = done.stdout.split("hypervolume by number of")[1:]
    assert by_trials.splitlines()[1].split() == ["policy", "25", "30", "s", "/", "proposal"]
    assert by_images.splitlines()[1].split() == ["policy", "25", "30"]
    assert "%" in next(line for line in by_trials.splitlines() if "tpe+halving" in line)
    assert "%" not in next(line for line in by_trials.splitlines() if "random" in line)
    assert next(line for line in by_images.splitlines() if "tpe+halving" in line).split()[-1] == "–", (
        "early stopping trained fewer images"
    )
    found = json.loads(in_process("replay", *arguments, "--seeds", 1, "--json", "--workers", 1).stdout)
    random, halving = found["policies"]
    assert (random["policy"], halving["policy"]) == ("random", "tpe+halving")
    assert len(random["hypervolume"]["mean"]) == 30
    assert random["images"][-1] == 3000
    assert halving["images"][-1] < 3000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give either --record FILE or --study NAME"),
        (("--record", "RECORD", "--study", "x"), "give either --record FILE or --study NAME"),
        (("--record", "none.json"), "--record none.json does not exist"),
        (("--record", "README.md"), "--record README.md: not a record"),
        (("--record", "RECORD", "--policy", "magic"), "--policy magic: must be one of front, tpe"),
        (("--record", "RECORD", "--policy", "tpe+luck"), "--policy tpe+luck: must be one of front, tpe"),
        (("--record", "RECORD", "--seeds", "0"), "--seeds 0: must be at least 1"),
        (("--record", "RECORD", "--trials", "1"), "--trials 1: must be at least 2"),
        (("--record", "RECORD", "--quantile", "2"), "--quantile 2: must be from 0 to 1"),
        (("--record", "RECORD", "--save", "x.json"), "--save x.json belongs to --study"),
        (("--study", "nothing"), "--study nothing: there is no "),
    ],
)
def test_wrong_flags_get_one_line(in_process: Command, record: Path, arguments: tuple[str, ...], expected: str) -> None:
    done = in_process("replay", *(record if a == "RECORD" else a for a in arguments))
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
