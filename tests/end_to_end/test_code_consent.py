"""Blocks named ``module:Class`` are code: nothing that somebody sends is imported unless the user allows it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from workplace import SPACE, Workplace

import nas
from nas import consent
from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture, BlockChoice
from nas.data.skeletons import MPII
from nas.errors import UserError
from nas.training.checkpoint import checkpoint_metadata, save_checkpoint
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

BLOCK = """\
from pathlib import Path
from nas.architecture.blocks.bottleneck import Bottleneck

Path("imported").touch()

class Block(Bottleneck):
    pass
"""
OWN = "local_block:Block"
COMMANDS = {
    "predict": ("predict", "sent.pt", "photo.png"),
    "evaluate": ("evaluate", "sent.pt", "--data", "people.h5"),
    "export": ("export", "sent.pt", "--onnx", "out.onnx"),
    "describe": ("describe", "sent.json"),
    "describe a block of a trunk": ("describe", "trunk.json"),
}


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder with files that somebody sent: each names a block in a module beside it."""
    place = Workplace(tmp_path_factory.mktemp("received"))
    (place.folder / "local_block.py").write_text(BLOCK)
    plain = Architecture(stem=4, width=8, stacks=1, depth=1, block=BlockChoice.of("bottleneck"))
    named = {**plain.to_dict(), "block": {"kind": OWN}}
    weights = build_network(plain, 16, (32, 32), seed=0).state_dict()
    about = checkpoint_metadata(plain, Losses(), ScheduleConfig(16, epochs=1), MPII, 32)
    save_checkpoint(place.folder / "sent.pt", {**about, "architecture": named, "network": weights, "average": weights})
    (place.folder / "sent.json").write_text(json.dumps(named))
    (place.folder / "trunk.json").write_text(json.dumps({**plain.to_dict(), "trunk": {"kind": OWN}}))
    for name in ("photo.png", "people.h5"):
        (place.folder / name).touch()
    (place.folder / "own_space.toml").write_text(SPACE.replace('"separable"', f'"{OWN}"'))
    return place


def imported(place: Workplace) -> bool:
    """Whether the block's module has been imported since the last call."""
    marker = place.folder / "imported"
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_file_that_names_a_module_is_refused_in_one_line(received: Workplace, arguments: tuple[str, ...]) -> None:
    refused = received.run(*arguments)
    assert refused.returncode == 2
    assert not imported(received)
    (line,) = refused.stderr.strip().splitlines()
    assert "'local_block'" in line
    assert f"--allow-code {OWN}" in line
    assert arguments[1] in line


def test_a_block_that_was_allowed_is_used(received: Workplace) -> None:
    described = received.run("describe", "sent.json", "--input-size", 32, "--allow-code", OWN)
    assert (described.returncode, described.stderr) == (0, "")
    assert imported(received)
    assert OWN in described.stdout


def test_another_name_in_an_allowed_module_is_refused(received: Workplace) -> None:
    assert received.run("describe", "sent.json", "--allow-code", "local_block:Other").returncode == 2
    assert not imported(received)


@pytest.mark.parametrize("kind", ["torch.nn:Sequential", "nas.search:main", "nas.architecture.hourglass:Hourglass"])
def test_modules_of_libraries_are_not_excepted(received: Workplace, kind: str) -> None:
    (received.folder / "library.json").write_text(json.dumps({"block": {"kind": kind}}))
    refused = received.run("describe", "library.json")
    assert refused.returncode == 2
    assert f"--allow-code {kind}" in refused.stderr


def test_load_takes_the_names_of_blocks_to_trust(received: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(received.folder)
    monkeypatch.syspath_prepend(received.folder)
    monkeypatch.setattr(consent, "_allowed", set())
    with pytest.raises(UserError, match=r"sent\.pt: block 'local_block:Block' would import .*allow_code"):
        nas.load("sent.pt")
    assert not imported(received)
    assert nas.load("sent.pt", allow_code=[OWN]).architecture.block.kind == OWN
    assert imported(received)
    with pytest.raises(ValueError, match="module:Class"):
        nas.load("sent.pt", allow_code=["local_block"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('the disk\\nis gone')", "OSError: the disk is gone"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("class Block(:", "SyntaxError"),
        ("import no_such_module_here", "no_such_module_here"),
    ],
)
def test_a_module_that_fails_gives_one_line(tmp_path: Path, text: str, reason: str) -> None:
    place = Workplace(tmp_path)
    (tmp_path / "failing.py").write_text(text)
    (tmp_path / "network.json").write_text('{"block": {"kind": "failing:Block"}}')
    done = place.run("describe", "network.json", "--allow-code", "failing:Block")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "'failing:Block' cannot be imported" in line
    assert reason in line


@pytest.mark.parametrize(
    "command", ["search", "report", "retrain", "export", "evaluate", "predict", "describe", "replay", "dashboard"]
)
def test_every_command_that_builds_networks_takes_consent(received: Workplace, command: str) -> None:
    required = {"export": ["--onnx", "x.onnx"], "predict": ["x.pt"], "replay": ["--study", "x"]}.get(command, [])
    done = received.run(command, *required, "--allow-code", "not a name")
    assert done.returncode == 2
    assert "--allow-code 'not a name' is not of the form module:Class" in done.stderr


@pytest.mark.slow
def test_a_space_is_trusted_on_the_command_line_only(received: Workplace) -> None:
    study = received.file.read_text().replace("space.toml", "own_space.toml").replace('"tiny"', '"own"')
    (received.folder / "own.toml").write_text(study)
    search = ("search", "--study", "own.toml", "--trials", 2, "--workers", 1)
    refused = received.run(*search)
    assert refused.returncode == 2
    assert f"--allow-code {OWN}" in refused.stderr
    assert not imported(received)

    searched = received.run(*search, "--space", "own_space.toml")
    assert searched.returncode == 0, searched.stderr
    assert f"--allow-code {OWN}" in searched.stdout, "the commands that it prints can be copied"
    assert imported(received)
    assert received.run("report", "--study", "own").returncode == 2
    assert not imported(received)
    assert received.run("report", "--study", "own", "--allow-code", OWN).returncode == 0


@pytest.mark.slow
def test_a_trial_that_names_a_module_is_left_out_and_named(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.search("--trials", 2, "--workers", 1)
    (tmp_path / "local_block.py").write_text(BLOCK)
    with sqlite3.connect(tmp_path / "runs/tiny/study.db") as database:
        where = "key = 'candidate' and trial_id = 1"
        ((stored,),) = database.execute(f"select value_json from trial_user_attributes where {where}")
        candidate = json.loads(stored)
        candidate["architecture"]["block"] = {"kind": OWN}
        database.execute(f"update trial_user_attributes set value_json = ? where {where}", (json.dumps(candidate),))
    report = place.run("report", "--study", "tiny")
    assert not imported(place)
    assert report.returncode == 0
    assert f"trial 0: its network cannot be built: block '{OWN}' would import" in report.stderr
