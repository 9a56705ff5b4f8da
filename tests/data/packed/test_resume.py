"""Interrupted packing: the same run resumes, any other starts again, and no file is incomplete."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from nas.data.packed.options import PackOptions, Progress
from nas.data.packed.packing import broken_list, pack
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.packed.synthetic import pack_synthetic
from nas.data.packed.writer import PackedWriter
from nas.data.people import SPLITS, Person
from nas.data.skeletons import LSP, MPII
from nas.data.synthetic.scene import SceneConfig
from nas.errors import UserError

COUNT = 60
SETTINGS = [None, 90]


def make_album(folder: Path) -> list[Person]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    people = []
    for number in range(COUNT):
        name = f"{number:03d}.jpg"
        cv2.imwrite(str(folder / name), cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), (400, 300)))
        for _ in range(1 + number % 2):
            person = Person(
                image=name,
                joints=rng.uniform(100, 200, (14, 2)).astype(np.float32),
                labelled=rng.random(14) < 0.9,
                center=rng.uniform(120, 180, 2).astype(np.float32),
                size=float(rng.uniform(50, 250)),
                head_size=10.0,
                split=SPLITS[number % 3],
            )
            people.append(person)
    return people


@pytest.fixture
def album(tmp_path: Path) -> tuple[Path, list[Person]]:
    return tmp_path / "album", make_album(tmp_path / "album")


class StoppedError(Exception):
    pass


def stop_after(count: int) -> Progress:
    def on_progress(done: int) -> None:
        if done >= count:
            raise StoppedError

    return on_progress


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_resume
from pathlib import Path
from nas.data.packed.packing import pack
from nas.data.packed.options import PackOptions
from nas.data.skeletons import LSP
import time
folder = Path(sys.argv[2])
people = test_resume.people_of(folder)
def slowly(done):
    print(done, flush=True)
    time.sleep(0.02)
pack(people, folder / "album", folder / "out.h5", LSP, {}, PackOptions(64, 2, eval(sys.argv[3])), slowly)
"""


def people_of(folder: Path) -> list[Person]:
    """The people whose images are in ``album`` already."""
    other = folder / f"again-{os.getpid()}"
    people = make_album(other)
    for path in other.iterdir():
        path.unlink()
    other.rmdir()
    return people


@pytest.mark.slow
@pytest.mark.parametrize("jpeg", SETTINGS)
def test_killed_again_and_again(album: tuple[Path, list[Person]], tmp_path: Path, jpeg: int | None) -> None:
    folder, people = album
    out = tmp_path / "out.h5"
    reached = [0]
    for least in (5, 30):
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path), repr(jpeg)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= max(least, reached[-1] + 5):
                    process.kill()
                    break
            reached.append(int(line))
        assert process.returncode == -9
        assert not out.exists()
        assert leftovers(tmp_path) == {".out.h5.part", ".out.h5.journal"}
    report = pack(people, folder, out, LSP, {}, PackOptions(64, 3, jpeg=jpeg))
    assert reached[-1] <= report.resumed < report.people == len(people)
    assert leftovers(tmp_path) == {"out.h5"}
    pack(people, folder, tmp_path / "whole.h5", LSP, {}, PackOptions(64, 1, jpeg=jpeg))
    assert describe_packed(out) == describe_packed(tmp_path / "whole.h5")
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def interrupt_run(album: tuple[Path, list[Person]], out: Path, jpeg: int | None = None) -> None:
    folder, people = album
    with pytest.raises(StoppedError):
        pack(people, folder, out, LSP, {"annotations": "one"}, PackOptions(32, 2, jpeg=jpeg), stop_after(20))


@pytest.mark.parametrize(
    "other", ["box", "quality", "raw", "order", "person", "joint", "source", "folder", "skeleton", "fewer"]
)
def test_other_inputs_are_not_continued(album: tuple[Path, list[Person]], tmp_path: Path, other: str) -> None:
    folder, people = album
    out = tmp_path / "out.h5"
    interrupt_run(album, out, jpeg=90)
    box, jpeg, skeleton, source = 32, 90, LSP, {"annotations": "one"}
    if other == "box":
        box = 34
    elif other == "quality":
        jpeg = 91
    elif other == "order":
        people = people[::-1]
    elif other == "person":
        people = [replace(people[0], center=people[0].center + 1), *people[1:]]
    elif other == "joint":
        people[-1].joints[0, 0] += 1
    elif other == "source":
        source = {"annotations": "two"}
    elif other == "folder":
        folder = folder.rename(tmp_path / "moved")
    elif other == "skeleton":
        skeleton = replace(LSP, name="another")
    elif other == "fewer":
        people = people[:-1]
    report = pack(people, folder, out, skeleton, source, PackOptions(box, 2, jpeg=None if other == "raw" else jpeg))
    assert report.resumed == 0
    assert report.people == len(people)
    assert leftovers(tmp_path) == {"out.h5"}


@pytest.mark.parametrize("jpeg", SETTINGS)
@pytest.mark.parametrize("what", ["an image", "the data", "the journal", "the journal's end", "no data", "no journal"])
def test_changed_data_is_packed_again(
    album: tuple[Path, list[Person]], tmp_path: Path, jpeg: int | None, what: str
) -> None:
    folder, people = album
    out, part, journal = tmp_path / "out.h5", tmp_path / ".out.h5.part", tmp_path / ".out.h5.journal"
    interrupt_run(album, out, jpeg)
    if what == "an image":
        changed = folder / "004.jpg"  # of the split that comes second, so that some before it are kept
        cv2.imwrite(str(changed), np.full((300, 400, 3), 77, np.uint8))
        os.utime(changed, (1, 1))
    elif what == "no data":
        part.unlink()
    elif what == "no journal":
        journal.unlink()
    elif what == "the journal's end":
        os.truncate(journal, journal.stat().st_size - 7)
    else:
        damaged = part if what == "the data" else journal
        content = bytearray(damaged.read_bytes())
        content[(4096 + 9000) if damaged == part else len(content) // 2] ^= 1
        damaged.write_bytes(content)
    report = pack(people, folder, out, LSP, {"annotations": "one"}, PackOptions(32, 2, jpeg=jpeg))
    assert report.resumed == 0 if what.startswith("no ") else report.resumed < len(people)
    pack(people, folder, tmp_path / "whole.h5", LSP, {"annotations": "one"}, PackOptions(32, 2, jpeg=jpeg))
    assert describe_packed(out) == describe_packed(tmp_path / "whole.h5")
    assert PackedPeople.load(out, SPLITS).crops.equal(PackedPeople.load(tmp_path / "whole.h5", SPLITS).crops)
    assert leftovers(tmp_path) == {"out.h5", "whole.h5"}


@pytest.mark.parametrize("jpeg", SETTINGS)
def test_a_broken_image_stops_packing_and_its_repair_resumes_it(
    album: tuple[Path, list[Person]], tmp_path: Path, jpeg: int | None
) -> None:
    folder, people = album
    out = tmp_path / "out.h5"
    good = (folder / "040.jpg").read_bytes()
    stat = (folder / "040.jpg").stat()
    (folder / "040.jpg").write_bytes(good[:1000])
    with pytest.raises(UserError, match=r"040\.jpg: not an image, truncated or damaged; 1 of 60 images"):
        pack(people, folder, out, LSP, {}, PackOptions(32, 2, jpeg=jpeg))
    assert not out.exists()
    # Allowed, it goes on and leaves them out; the crops behind move up.
    report = pack(people, folder, tmp_path / "fewer.h5", LSP, {}, PackOptions(32, 2, jpeg=jpeg, max_broken=1))
    fine = [person for person in people if person.image != "040.jpg"]
    assert (report.people, report.left_out) == (len(fine), len(people) - len(fine))
    pack(fine, folder, tmp_path / "fine.h5", LSP, {}, PackOptions(32, 2, jpeg=jpeg))
    assert describe_packed(tmp_path / "fewer.h5") == describe_packed(tmp_path / "fine.h5")
    # Repaired, it goes on where it stopped.
    (folder / "040.jpg").write_bytes(good)
    os.utime(folder / "040.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    report = pack(people, folder, out, LSP, {}, PackOptions(32, 2, jpeg=jpeg))
    assert 0 < report.resumed < len(people) == report.people
    pack(people, folder, tmp_path / "whole.h5", LSP, {}, PackOptions(32, 2, jpeg=jpeg))
    assert describe_packed(out) == describe_packed(tmp_path / "whole.h5")
    assert leftovers(tmp_path) == {"out.h5", "whole.h5", "fewer.h5", "fewer.h5.broken.txt", "fine.h5"}
    assert not broken_list(out).exists()


def test_interrupted_while_crops_move_up(
    album: tuple[Path, list[Person]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, people = album
    out = tmp_path / "out.h5"
    (folder / "030.jpg").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(PackedWriter, "_write_metadata", lambda *_: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            pack(people, folder, out, LSP, {}, PackOptions(32, 2, max_broken=1))
    report = pack(people, folder, out, LSP, {}, PackOptions(32, 2, max_broken=1))
    assert 0 < report.resumed < report.people
    fine = [person for person in people if person.image != "030.jpg"]
    pack(fine, folder, tmp_path / "fine.h5", LSP, {}, PackOptions(32, 2))
    assert out.read_bytes() == (tmp_path / "fine.h5").read_bytes()


def test_interrupted_while_it_is_finished(
    album: tuple[Path, list[Person]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, people = album
    out = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(PackedWriter, "_write_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(people, folder, out, LSP, {}, PackOptions(32, 2))
    report = pack(people, folder, out, LSP, {}, PackOptions(32, 2))
    assert report.resumed == report.people == len(people)
    assert report.images == 0
    pack(people, folder, tmp_path / "whole.h5", LSP, {}, PackOptions(32, 2))
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_two_runs_cannot_write_the_same_file(album: tuple[Path, list[Person]], tmp_path: Path) -> None:
    folder, people = album
    out = tmp_path / "out.h5"
    inside, leave = threading.Event(), threading.Event()

    def hold(done: int) -> None:
        inside.set()
        assert leave.wait(60)

    first = threading.Thread(target=pack, args=(people, folder, out, LSP, {}, PackOptions(32, 2), hold))
    first.start()
    assert inside.wait(60)
    with pytest.raises(UserError, match="another process is writing this file; wait for it or choose another name"):
        pack(people, folder, out, LSP, {}, PackOptions(32, 2))
    leave.set()
    first.join()
    assert describe_packed(out).people == len(people)
    assert leftovers(tmp_path) == {"out.h5"}


@pytest.mark.slow
def test_synthetic_packing_resumes(tmp_path: Path) -> None:
    counts = {"train": 70, "holdout": 3, "valid": 2}
    out = tmp_path / "out.h5"
    with pytest.raises(StoppedError):
        pack_synthetic(out, counts, 7, SceneConfig(), PackOptions(16, 1), stop_after(40))
    assert not out.exists()
    assert pack_synthetic(out, counts, 7, SceneConfig(), PackOptions(16, 1)) == 64
    assert pack_synthetic(tmp_path / "whole.h5", counts, 7, SceneConfig(), PackOptions(16, 2)) == 0
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert describe_packed(out).skeleton == MPII


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.fixture(autouse=True)
def no_files_left_open() -> Iterator[None]:
    most = open_files() + 2  # the first pool of processes keeps a pipe
    yield
    deadline = time.monotonic() + 5
    while open_files() > most and time.monotonic() < deadline:
        time.sleep(0.05)
    assert open_files() <= most
