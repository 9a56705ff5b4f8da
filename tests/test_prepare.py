from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from nas import console, prepare
from nas.data.packed import PackedPeople, describe_packed
from nas.data.people import SPLITS
from nas.errors import UserError

Command = Callable[..., subprocess.CompletedProcess[str]]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run ``nas.prepare`` in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        console.run(prepare.app, [str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.out, output.err


@pytest.fixture
def lspet(tmp_path: Path) -> tuple[Path, Path]:
    """A small dataset in LSPET's layout, its last picture missing: the pictures' folder and the annotations."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 40):
        cv2.imwrite(str(folder / f"im{number:05d}.jpg"), rng.integers(0, 256, (120, 100, 3), np.uint8))
    joints = np.concatenate([rng.uniform(10, 90, (14, 2, 40)), np.ones((14, 1, 40))], axis=1)
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    return folder, tmp_path / "joints.mat"


@pytest.fixture
def hourglass(tmp_path: Path, lspet: tuple[Path, Path]) -> Path:
    """Annotations in the hourglass layout for the same pictures."""
    path = tmp_path / "annotations.h5"
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file["imgname"] = np.array([f"im{number:05d}.jpg" for number in range(1, 40)], "S13")
        file["part"] = rng.integers(1, 90, (39, 16, 2)).astype(np.float64)
        file["center"] = np.full((39, 2), 50.0)
        file["scale"] = np.full(39, 0.6)
        file["normalize"] = np.full(39, 12.0)
    return path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".jpg"}


def test_lsp(lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, annotations = lspet
    out = tmp_path / "new" / "people.h5"
    code, text, errors = call(
        capsys, "lsp", "--images", images, "--annotations", annotations, "--out", out, "--box", 32, "--skip-missing"
    )  # fmt: skip
    assert (code, errors) == (0, "")
    summary = describe_packed(out)
    assert (summary.people, summary.box, summary.skeleton.name) == (39, 32, "lsp")
    assert summary.source["dataset"] == "lspet"
    assert "39 people (train " in text
    assert "joints labelled: 546 of 546" in text
    assert "left out: 1, picture missing" in text
    assert files(out.parent) == {"people.h5"}


def test_a_missing_picture_stops_it(
    lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, annotations = lspet
    before = files(tmp_path)
    code, text, errors = call(
        capsys, "lsp", "--images", images, "--annotations", annotations, "--out", tmp_path / "people.h5"
    )
    assert (code, text) == (2, "")
    assert errors == f"error: {images / 'im00040.jpg'}: no such picture; check the pictures' folder\n"
    assert files(tmp_path) == before


def test_mpii_with_both_splits(
    lspet: tuple[Path, Path], hourglass: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mpii.h5"
    code, text, _ = call(
        capsys, "mpii", "--images", lspet[0], "--train", hourglass, "--valid", hourglass, "--out", out, "--box", 32
    )  # fmt: skip
    assert code == 0
    counts = describe_packed(out).counts
    assert counts["valid"] == 39
    assert counts["train"] + counts["holdout"] == 39
    assert counts["holdout"] > 0
    assert "divided" not in text
    assert describe_packed(out).source["train"] == "annotations.h5"


def test_mpii_with_one_file_is_divided_and_says_so(
    lspet: tuple[Path, Path], hourglass: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mpii.h5"
    code, text, _ = call(capsys, "mpii", "--images", lspet[0], "--valid", hourglass, "--out", out, "--box", 32)
    assert code == 0
    assert "no --train: the pictures of --valid are divided into 80 % train, 10 % holdout, 10 % valid" in text
    assert all(describe_packed(out).counts[split] for split in SPLITS)


def test_synthetic(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "people.h5"
    out.write_bytes(b"what was there")
    done = command("prepare", "synthetic", "--out", out, "--people", 5, "--holdout", 3, "--valid", 2, "--box", 32)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 people (train 5, holdout 3, valid 2)" in done.stdout
    assert len(PackedPeople.load(out, SPLITS)) == 10
    assert files(tmp_path) == {"people.h5"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command; see --help"),
        (["lspet"], "No such command 'lspet'"),
        (["lsp"], "Missing option '--images'"),
        (["lsp", "--imges", "x"], "No such option"),
        (["synthetic", "--out", "OUT", "--people", "many"], "'--people'"),
        (["synthetic", "--out", "OUT", "--people", "-1"], "'--people'"),
        (["synthetic", "--out", "OUT", "--box", "7"], "'--box'"),
        (["synthetic", "--out", "OUT", "--people", "0", "--holdout", "0", "--valid", "0"], "all 0"),
        (["synthetic", "--out", "DIR"], "is a directory"),
        (["synthetic", "--out", "FILE/people.h5", "--people", "1"], "FILE is a file"),
        (["synthetic", "--out", "FILE/deeper/people.h5", "--people", "1"], "cannot be created"),
        (["synthetic", "--out", "/proc/people.h5", "--people", "1"], "/proc/people.h5: cannot write there"),
        (["lsp", "--images", "NONE", "--annotations", "FILE", "--out", "OUT"], "--images NONE does not exist"),
        (["lsp", "--images", "FILE", "--annotations", "FILE", "--out", "OUT"], "--images FILE is not a directory"),
        (["lsp", "--images", "DIR", "--annotations", "NONE", "--out", "OUT"], "--annotations NONE does not exist"),
        (["lsp", "--images", "DIR", "--annotations", "DIR", "--out", "OUT"], "--annotations DIR is not a file"),
        (["lsp", "--images", "DIR", "--annotations", "FILE", "--out", "OUT"], "FILE: not MATLAB"),
        (["mpii", "--images", "DIR", "--out", "OUT"], "neither --train nor --valid"),
        (["mpii", "--images", "DIR", "--train", "FILE", "--out", "OUT"], "FILE: not HDF5"),
        (["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT"], "no such picture (and 38 more)"),
        (["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT", "--skip-missing"], "none of the 39 pictures"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], words: str, tmp_path: Path, hourglass: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    (work / "dir").mkdir(parents=True)
    (work / "file").write_text("no annotations")
    places = {
        "OUT": work / "people.h5",
        "DIR": work / "dir",
        "FILE": work / "file",
        "NONE": work / "none",
        "H5": hourglass,
    }

    def fill(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, str(place))
        return text

    code, _, errors = call(capsys, *map(fill, arguments))
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert fill(words) in errors
    assert files(work) == {"dir", "file"}


def test_bad_input_ends_the_process_with_2(command: Command, tmp_path: Path) -> None:
    done = command("prepare", "synthetic", "--out", tmp_path / "people.h5", "--seed", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [None, "lsp", "mpii", "synthetic"])
def test_help_fits_a_screen_and_has_an_example(name: str | None, command: Command) -> None:
    done = command("prepare", *([name] if name else []), "--help")
    assert done.returncode == 0
    assert "python -m nas.prepare " in done.stdout
    assert done.stdout.count("\n") <= 40


@pytest.mark.parametrize("after", [0.0, 3.0])
def test_ctrl_c_leaves_nothing(tmp_path: Path, after: float) -> None:
    out = tmp_path / "people.h5"
    out.write_bytes(b"what was there")
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.prepare", "synthetic", "--out", str(out), "--people", "1000000", "--box", "32"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) == 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(after)  # while workers start, import, draw
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert out.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [out]


def test_killed_workers_go_with_their_parent(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.prepare", "synthetic", "--out", str(tmp_path / "people.h5"), "--people", "1000000",
         "--box", "32", "--workers", "2"],
        start_new_session=True,
    )  # fmt: skip
    workers: list[Path] = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [
            Path("/proc", pid) for pid in children if b"spawn_main" in Path("/proc", pid, "cmdline").read_bytes()
        ]
    time.sleep(3)  # until they have started to draw
    process.kill()
    process.wait()
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers) == 2
    assert not any(worker.exists() for worker in workers)


def test_progress_in_a_terminal_and_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("packing", 100, every=0) as on_progress:
        for done in (0, 50, 100):
            on_progress(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("packing: 50 of 100, ")
    assert lines[1].endswith(" 0 s left")

    script = """
import time
from nas.console import progress
with progress("packing", 100) as on_progress:
    for done in range(101):
        on_progress(done)
        time.sleep(0.01)
"""
    shown, terminal = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", script], stderr=terminal, env={**os.environ, "TERM": "xterm"}):
        os.close(terminal)
        output = b""
        while chunk := _read(shown):
            output += chunk
    os.close(shown)
    assert b"packing" in output
    assert b"100/100" in output
    assert b"/s" in output


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # what a terminal says at its end
        return b""


def test_writable_directory_and_existing_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert console.existing_file(file, "--data") == file
    assert console.writable_directory(tmp_path / "a" / "b", "--runs").is_dir()
    for path, words in (
        (file, "is a file"),
        (file / "below", "cannot be created"),
        (Path("/proc/nas"), "cannot be created"),
    ):
        with pytest.raises(UserError, match=f"--runs {path} {words}"):
            console.writable_directory(path, "--runs")
