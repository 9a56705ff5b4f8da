"""Bad input: one line that names the flag or the file, exit code 2, and nothing left behind."""

from __future__ import annotations

import socket
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from workplace import SPACE, STUDY, Workplace

pytestmark = pytest.mark.slow

SEARCH = [
    (["--trials", "0"], "--trials 0: "),
    (["--trials", "-1"], "--trials -1: "),
    (["--trials", "many"], "'--trials'"),
    (["--workers", "0"], "--workers 0: "),
    (["--workers", "many"], "--workers many: must be a number of processes from 1 on, or auto"),
    (["--workers", "100000"], "--workers 100000: at most"),
    (["--seed", str(2**63)], f"--seed {2**63}: "),
    (["--max-params", "1,5M"], "--max-params 1,5M: must be a positive count such as 1.5M"),
    (["--study", "SINGLE"], "schedule.batch 1: one image at a time is too few for the batch norm of"),
    (["--study", "NARROW"], "width_scale 0.001: every stem of"),
    (["--trails", "3"], "--trails"),
    (["everything"], "everything"),
    (["--sampler", "magic"], "--sampler magic: "),
    (["--device", "tpu"], "--device tpu: "),
    (["--device", "cuda"], "--device cuda: "),
    (["--name", "a/b"], "--name a/b: "),
    (["--seed", "-1"], "--seed -1: "),
    (["--images", "0"], "--images 0: "),
    (["--images", "4"], "images (4)"),
    (["--epochs", "0"], "--epochs 0: "),
    (["--max-params", "-5"], "--max-params -5: "),
    (["--max-params", "0"], "--max-params 0: "),
    (["--max-params", "abc"], "--max-params abc: "),
    (["--max-params", ""], "--max-params : "),
    (["--max-madds", "-3G"], "--max-madds -3G: "),
    (["--max-layers", "0"], "--max-layers 0: "),
    (["--max-layers", "1"], "raise --max-params, --max-madds or --max-layers"),
    (["--space", "nowhere"], "nowhere: no such file; give a path to a TOML file, or one of search_spaces/"),
    (["--space", "FILE"], "FILE: not valid TOML"),
    (["--max-madds", "1k"], "--max-madds"),
    (["--max-params", "1k"], "max_params is 1,000 (the least of any network "),
    (["--max-madds", "1k", "--data", "PEOPLE"], "--max-madds"),
    (["--data", "NONE"], "NONE: no such file"),
    (["--data", "FOLDER"], "FOLDER: not a file"),
    (["--data", "TRUNCATED"], "TRUNCATED: "),
    (["--data", "FOREIGN"], "FOREIGN: HDF5, but not a packed file"),
    (["--data", "FILE"], "FILE: not HDF5"),
    (["--study", "NONE"], "NONE: no such file"),
    (["--study", "nowhere"], "nowhere: no such file"),
    (["--study", "FILE"], "FILE: not valid TOML"),
    (["--study", "WRONG_STUDY"], "WRONG_STUDY: schedule.pictures: unknown key"),
    (["--study", "WRONG_SPACE"], "choices.width"),
    (["--runs", "FILE"], "--runs FILE"),
    (["--runs", "FILE/runs"], "--runs FILE/runs"),
    (["--runs", "/proc/runs"], "--runs /proc/runs"),
    (["--runs", "FILE/runs", "--data", "PEOPLE"], "--runs FILE/runs"),
    (["--runs", "/proc/runs", "--data", "PEOPLE"], "--runs /proc/runs"),
    (["--storage", "nonsense"], "--storage nonsense: "),
    (["--storage", "oracle://host/db"], "--storage oracle://host/db: "),
    (["--storage", "sqlite:///FILE/study.db"], "--storage sqlite:///FILE/study.db: "),
    (["--storage", "sqlite:////proc/study.db"], "--storage sqlite:////proc/study.db: "),
    (["--storage", "postgresql+psycopg://me:secret@127.0.0.1:CLOSED/db"], "--storage postgresql+psycopg://me:***@127"),
]
RETRAIN = [
    ([], "exactly one of"),
    (["--trial", "1", "--pick", "knee"], "exactly one of"),
    (["--all-front", "--published", "hg1"], "exactly one of"),
    (["--trial", "999"], "--trial 999: "),
    (["--trial", "-1"], "--trial -1: "),
    (["--trial", "first"], "'--trial'"),
    (["--pick", "middle"], "--pick middle: "),
    (["--pick", "tradeoff"], "has not trained hg2"),
    (["--published", "hg99"], "hg99"),
    (["--published", "hg1"], "hg1"),  # four levels, while the study's pictures are 32×32
    (["--pick", "knee", "--study", "nothing"], "--study nothing: "),
    (["--pick", "knee", "--runs", "NONE"], "--study tiny: "),
    (["--pick", "knee", "--storage", "sqlite:///NONE"], "NONE"),
    (["--pick", "knee", "--device", "tpu"], "--device tpu: "),
    (["--pick", "knee", "--device", "cuda"], "--device cuda: "),
    (["--pick", "knee", "--threads", "1000000"], "--threads 1000000: this machine has"),
    (["--pick", "knee", "--threads", "0"], "--threads 0: "),
    (["--pick", "knee", "--images", "0"], "--images 0"),
    (["--pick", "knee", "--epochs", "0"], "--epochs 0"),
    (["--pick", "knee", "--epochs", "1000"], "--epochs 1000"),
    (["--pick", "knee", "--flip"], "--flip"),
]


def case(value: list[str] | str) -> str:
    """The id of a test: its arguments."""
    return " ".join(value) if isinstance(value, list) else ""


@pytest.fixture(scope="module")
def closed_port() -> int:
    """A local port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def fill(text: str, place: Workplace, port: int) -> str:
    """Replace placeholders in capitals by paths relative to the workplace, or by the port."""
    names = {
        "WRONG_STUDY": "wrong_study.toml",
        "WRONG_SPACE": "wrong_space.toml",
        "SINGLE": "single.toml",
        "NARROW": "narrow.toml",
        "TRUNCATED": "truncated.h5",
        "FOREIGN": "foreign.h5",
        "FOLDER": "folder",
        "NONE": "none.toml",
        "FILE": "file",
        "CLOSED": str(port),
        "PEOPLE": str(next(place.path("data").glob("*.h5")).relative_to(place.folder)),
    }
    for name, meant in names.items():
        text = text.replace(name, meant)
    return text


def write_bad_files(place: Workplace) -> None:
    """Write the invalid files that the cases name."""
    people = next(place.path("data").glob("*.h5")).read_bytes()
    (place.folder / "truncated.h5").write_bytes(people[: len(people) // 2])
    with h5py.File(place.folder / "foreign.h5", "w") as file:
        file["part"] = np.zeros((5, 16, 2))
    (place.folder / "file").write_text("= not what was expected\n")
    (place.folder / "folder").mkdir()
    (place.folder / "wrong_study.toml").write_text(STUDY.replace("epochs = 4", "epochs = 4\npictures = 96"))
    (place.folder / "wrong_space.toml").write_text(STUDY.replace("space.toml", "wide.toml"))
    one = STUDY.replace("batch = 8", "batch = 1").replace("space.toml", "deep.toml")
    (place.folder / "single.toml").write_text(one)
    (place.folder / "narrow.toml").write_text(STUDY.replace("width_scale = 1.0", "width_scale = 0.001"))
    (place.folder / "deep.toml").write_text(SPACE.replace("depth = [2]", "depth = [3]"))
    (place.folder / "wide.toml").write_text(SPACE.replace("width = [8, 12]", "width = { low = 0, high = 12 }"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, finished: Workplace) -> Workplace:
    """A workplace with synthetic people and invalid files but no study. The tests do not change it."""
    place = Workplace(tmp_path_factory.mktemp("bare")).copy_of(finished, "data")
    write_bad_files(place)
    return place


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, finished: Workplace) -> Workplace:
    """A workplace with a finished search. The tests do not change it."""
    place = Workplace(tmp_path_factory.mktemp("searched")).copy_of(finished, "data").copy_of(finished, "tiny")
    write_bad_files(place)
    return place


@pytest.mark.parametrize(("arguments", "words"), SEARCH, ids=case)
def test_search(arguments: list[str], words: str, bare: Workplace, closed_port: int) -> None:
    before = bare.tree()
    arguments = [fill(argument, bare, closed_port) for argument in arguments]
    done = bare.run("search", *([] if "--study" in arguments else ["--study", "tiny.toml"]), *arguments)
    check(done.returncode, done.stdout, done.stderr)
    assert fill(words, bare, closed_port) in done.stderr
    assert "secret" not in done.stderr
    assert bare.tree() == before


@pytest.mark.parametrize(("arguments", "words"), RETRAIN, ids=case)
def test_retrain(arguments: list[str], words: str, searched: Workplace, closed_port: int) -> None:
    before = searched.tree()
    arguments = [fill(argument, searched, closed_port) for argument in arguments]
    done = searched.run("retrain", *([] if "--study" in arguments else ["--study", "tiny"]), *arguments)
    check(done.returncode, done.stdout, done.stderr)
    assert fill(words, searched, closed_port) in done.stderr
    assert searched.tree() == before


def test_annotations_of_a_wrong_shape(bare: Workplace) -> None:
    scipy.io.savemat(bare.folder / "joints.mat", {"joints": np.zeros((13, 3, 5))})
    before = bare.tree()
    done = bare.run("prepare", "lsp", "--images", "folder", "--annotations", "joints.mat", "--out", "new/people.h5")
    check(done.returncode, done.stdout, done.stderr)
    assert "joints.mat" in done.stderr
    assert bare.tree() == before


def test_a_study_whose_packed_file_is_missing(bare: Workplace, tmp_path: Path) -> None:
    place = Workplace(tmp_path / "moved").copy_of(bare, "data")
    people = next(place.path("data").glob("*.h5")).rename(place.folder / "people.h5")
    place.file.write_text(STUDY.replace("input_size = 32", 'input_size = 32\nfile = "people.h5"'))
    place.begin_study()
    people.unlink()
    before = place.tree()
    done = place.run("search", "--study", "tiny.toml")
    check(done.returncode, done.stdout, done.stderr)
    assert "people.h5: no such file" in done.stderr
    assert place.tree() == before


def test_a_separate_process_prints_the_same_error(bare: Workplace) -> None:
    done = bare.run("search", "--study", "tiny.toml", "--trials", 0)
    check(done.returncode, done.stdout, done.stderr)


def check(code: int, output: str, errors: str) -> None:
    assert (code, output, errors.count("\n")) == (2, "", 1), errors
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
