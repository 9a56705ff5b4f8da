"""The built wheel, installed elsewhere, works from any directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import resources
from pathlib import Path

import pytest
from workplace import STUDY

from nas import __version__

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy: a build leaves files in its source tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("nas", "search_spaces", "studies"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the installed wheel."""
    target = tmp_path_factory.mktemp("site")
    _pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def _pip(*arguments: object) -> None:
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(installed: Path, folder: Path, *line: object) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, with the installed wheel in place of the source tree."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_it_holds_every_module_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "nas").rglob("*.py")}
    data = {f"nas/{path.relative_to(REPOSITORY)}" for path in REPOSITORY.glob("s*/*.toml")}
    assert {"nas/search_spaces/published.toml", "nas/studies/quickstart.toml"} <= data
    wanted = modules | data | {"nas/py.typed", "nas/study/reporting/page.html"}
    assert {name for name in held if ".dist-info/" not in name} == wanted


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(archive.read(name).decode())
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert (about["Name"], about["Version"]) == ("hourglass-nas", __version__)
    assert about["Requires-Python"] == "<3.14,>=3.11"
    assert "Programming Language :: Python :: 3.13" in about.get_all("Classifier", [])
    assert "hourglass-nas = nas.__main__:main" in scripts


def test_a_published_network_is_described(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, sys.executable, "-m", "nas.describe", "hg2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "hg2"
    found = run(installed, tmp_path, sys.executable, "-c", "import nas; print(nas.__file__)").stdout
    assert Path(found.strip()).is_relative_to(installed)


def test_a_study_is_searched_over_a_packaged_space(installed: Path, tmp_path: Path) -> None:
    # Inside somebody's repository, whose commit is not the commit of this project.
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    text = STUDY.replace('"space.toml"', '"lightweight"').replace("input_size = 32", "input_size = 64")
    (tmp_path / "mine.toml").write_text(text.replace("width_scale = 1.0", "width_scale = 0.25"))
    line = (sys.executable, "-m", "nas.search", "--study", "mine", "--trials", 1, "--workers", 1, "--images", 16)
    done = run(installed, tmp_path, *line, "--epochs", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1
    code = "from nas.study.provenance import record; print(record()['commit'], record()['packages']['hourglass-nas'])"
    known = run(installed, tmp_path, sys.executable, "-c", code)
    assert known.stdout.split() == ["unknown", __version__]


def test_a_folder_of_ones_own_goes_first(installed: Path, tmp_path: Path) -> None:
    code = "from nas.study.files import find; print(find('quickstart', 'studies'), find('mpii', 'studies'))"
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "quickstart.toml").write_text("")
    own, packaged = run(installed, tmp_path, sys.executable, "-c", code).stdout.split()
    assert own == "studies/quickstart.toml"
    assert Path(packaged) == installed / "nas" / "studies" / "mpii.toml"


def test_one_program_runs_every_command(installed: Path, tmp_path: Path) -> None:
    program = installed / "bin" / "hourglass-nas"
    overview = run(installed, tmp_path, program, "--help")
    assert overview.returncode == 0, overview.stderr
    assert "  search     Search for networks\n" in overview.stdout
    assert run(installed, tmp_path, program, "--version").stdout == f"hourglass-nas {__version__}\n"
    assert run(installed, tmp_path, program, "search", "--version").stdout == f"hourglass-nas {__version__}\n"
    wrong = run(installed, tmp_path, program, "search", "--study", "nope")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: nope: no such file; give a path to a TOML file, or one of studies/: ")
    usage = run(installed, tmp_path, program, "prepare", "lsp", "--help").stdout
    assert usage.startswith("Usage: hourglass-nas prepare lsp [OPTIONS]")


def test_the_source_tree_reads_the_same_files() -> None:
    for folder in ("search_spaces", "studies"):
        linked = Path(str(resources.files("nas"))) / folder
        assert linked.resolve() == REPOSITORY / folder
