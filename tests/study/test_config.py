"""Study files: what they may say, and what a study may not change while it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas.errors import UserError
from nas.study.config import StudyConfig, check_same, identity_hash
from nas.study.files import find, packaged
from nas.study.space.published import published
from nas.study.space.search_space import SearchSpace

WriteStudy = Callable[..., Path]


def test_the_tiny_study_is_read(config: StudyConfig, space: SearchSpace) -> None:
    assert config.name == "tiny"
    assert config.search_space().content == space.content
    assert config.short_schedule().images == 64
    assert (config.data.synthetic.people, config.data.synthetic.holdout) == (48, 16)


@pytest.mark.parametrize("file", sorted((packaged("studies")).glob("*.toml")), ids=lambda f: f.stem)
def test_the_projects_own_studies_are_readable(file: Path) -> None:
    config = StudyConfig.read(file.stem)
    assert config == StudyConfig.read(file)
    assert config.search_space().size > 1
    assert config.full_schedule().images > config.short_schedule().images
    assert config.name == file.stem


# (what replaces what, what stands at the end of the file; what the line must say)
WRONG: dict[str, tuple[tuple[str, str] | None, str, list[str]]] = {
    "unknown key": (("width_scale", "widthscale"), "", ["widthscale", "unknown key", "width_scale", "space"]),
    "unknown key in a table": (
        ("epochs = 4", "epoch = 4"),
        "",
        ["schedule.epoch:", "unknown key", "epochs", "learning_rate"],
    ),
    "unknown key in a table of a table": (
        ("people = 48", "persons = 48"),
        "",
        ["data.synthetic.persons", "unknown key", "people, holdout, valid, seed"],
    ),
    "unknown table": (None, "[samplers]\nname = 'tpe'", ["samplers", "unknown key", "sampler, stopping"]),
    "missing key": (("images = 64\n", ""), "", ["schedule.images", "required"]),
    "missing table": (
        ("[full]\nimages = 128\nepochs = 8", ""),
        "",
        ["full", "required"],
    ),
    "text for a number": (("images = 64", 'images = "64"'), "", ["schedule.images", "'64'", "integer"]),
    "truth for a number": (("epochs = 4", "epochs = true"), "", ["schedule.epochs", "True", "integer"]),
    "real for an integer": (("batch = 8", "batch = 8.5"), "", ["schedule.batch", "8.5", "integer"]),
    "number for text": (('name = "tiny"', "name = 3"), "", ["name", "3", "string"]),
    "number for a table": (("width_scale = 1", "width_scale = 1\nstopping = 3"), "", ["stopping", "3", "dictionary"]),
    "zero": (("images = 64", "images = 0"), "", ["schedule.images", "0", "greater than 0"]),
    "negative": (("images = 64", "images = -64"), "", ["schedule.images", "-64", "greater than 0"]),
    "too few pictures": (("images = 64", "images = 31"), "", ["schedule: images (31)", "epochs × batch (4 × 8)"]),
    "too few pictures in full": (("images = 128", "images = 63"), "", ["full schedule: images (63)", "(8 × 8)"]),
    "infinite": (("batch = 8", "batch = 8\nlearning_rate = inf"), "", ["schedule.learning_rate", "inf", "finite"]),
    "not a number": (("batch = 8", "batch = 8\nsigma = nan"), "", ["schedule.sigma", "nan"]),
    "unknown optimiser": (("batch = 8", 'batch = 8\noptimizer = "sgd"'), "", ["schedule.optimizer", "'sgd'", "adamw"]),
    "unknown sampler": (None, "[sampler]\nname = 'best'", ["sampler.name", "'best'", "front", "tpe", "nsga2"]),
    "negative budget": (None, "[budget]\nmax_params = -1", ["budget.max_params", "-1", "greater than 0"]),
    "budget of nothing": (None, "[budget]\nmax_madds = 0", ["budget.max_madds", "0", "greater than 0"]),
    "rung after the end": (None, "[stopping]\nrungs = [0.5, 1.5]", ["stopping.rungs.1", "1.5", "less than 1"]),
    "rungs that descend": (None, "[stopping]\nrungs = [0.5, 0.25]", ["stopping.rungs", "ascend", "0.5, 0.25"]),
    "quantile": (None, "[stopping]\nquantile = 2", ["stopping.quantile", "2", "less than or equal to 1"]),
    "reference reversed": (
        ("params = [1_000, 100_000]", "params = [100_000, 1_000]"),
        "",
        ["reference.params", "[least, most]", "100000, 1000"],
    ),
    "reference of one": (("params = [1_000, 100_000]", "params = [1_000]"), "", ["reference.params", "required"]),
    "reference of three": (("params = [1_000, 100_000]", "params = [1, 2, 3]"), "", ["reference.params", "[1, 2, 3]"]),
    "input size": (("input_size = 32", "input_size = 30"), "", ["data.input_size", "30", "multiple of 4"]),
    "objectives": (('["pckh", "params", "madds"]', '["pckh", "latency"]'), "", ["objectives must be", "madds"]),
    "fewer objectives": (('["pckh", "params", "madds"]', '["pckh"]'), "", ["objectives must be", "madds"]),
    "name": (('name = "tiny"', 'name = "../tiny"'), "", ["name", "'../tiny'", "pattern"]),
    "scale": (("width_scale = 1", "width_scale = 0"), "", ["width_scale", "0", "greater than 0"]),
    "not TOML": (("[data]", "[data"), "", ["not valid TOML", "line"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_study_gets_one_line_that_says_where_and_what_is_allowed(case: str, write_study: WriteStudy) -> None:
    replacement, more, expected = WRONG[case]
    path = write_study(*([replacement] if replacement else []), more=more)
    with pytest.raises(UserError) as caught:
        StudyConfig.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("name", ["nothing_of_this_name", "", ".", "/", "studies"])
def test_a_study_that_is_not_there_gets_a_list_of_those_that_are(name: str) -> None:
    with pytest.raises(UserError, match=r"no such file.*quickstart"):
        StudyConfig.read(name)


def test_files_are_found_by_path_and_by_name(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(study_file, "studies") == study_file
    assert find(study_file.with_suffix(""), "studies") == study_file
    assert find("quickstart", "studies").samefile(packaged("studies") / "quickstart.toml")
    monkeypatch.chdir(study_file.parent)
    assert find("study.toml", "studies").samefile(study_file)
    (study_file.parent / "studies").mkdir()
    own = study_file.rename(study_file.parent / "studies" / "quickstart.toml")
    assert find("quickstart", "studies").samefile(own)  # a person's own before the project's


def test_a_study_over_a_space_that_is_not_there(write_study: WriteStudy, space_file: Path) -> None:
    config = StudyConfig.read(write_study((f'"{space_file}"', '"no_such_space"')))
    with pytest.raises(UserError, match=r"no_such_space: no such file.*hourglass"):
        config.search_space()


# Schedules


def test_the_full_schedule_is_the_short_one_longer(config: StudyConfig) -> None:
    short, full = config.short_schedule(), config.full_schedule()
    assert (full.images, full.epochs, full.batch) == (128, 8, 8)
    assert (full.learning_rate, full.sigma, full.loss) == (short.learning_rate, short.sigma, short.loss)
    assert full.augmentation == short.augmentation


def test_the_full_schedule_may_have_its_own_batch_and_rate(write_study: WriteStudy) -> None:
    path = write_study(
        ("batch = 8", "batch = 8\nlearning_rate = 4e-3\nrotate = 15\nema = 0.1"),
        ("epochs = 8\n", "epochs = 8\nbatch = 16\nlearning_rate = 1e-3\n"),
    )
    config = StudyConfig.read(path)
    short, full = config.short_schedule(), config.full_schedule()
    assert (short.batch, short.learning_rate) == (8, 4e-3)
    assert (full.batch, full.learning_rate) == (16, 1e-3)
    assert full.augmentation.rotate == short.augmentation.rotate == 15
    assert full.ema == short.ema == 0.1


@pytest.mark.parametrize(
    ("epochs", "rungs", "expected"),
    [
        (8, "[0.25, 0.5]", (2, 4)),
        (4, "[0.25, 0.5]", (1, 2)),
        (2, "[0.25, 0.5]", (1,)),
        (1, "[0.25, 0.5]", ()),
        (4, "[0.9]", ()),
        (8, "[]", ()),
        (8, "[0.01, 0.02]", (1,)),
    ],
)
def test_rung_epochs_lie_within_the_schedule(
    epochs: int, rungs: str, expected: tuple[int, ...], write_study: WriteStudy
) -> None:
    path = write_study(("epochs = 4", f"epochs = {epochs}"), more=f"[stopping]\nrungs = {rungs}")
    assert StudyConfig.read(path).rung_epochs() == expected


# What a study remembers


def identity(path: Path, checksum: str = "c0ffee") -> dict[str, Any]:
    config = StudyConfig.read(path)
    return config.identity(config.search_space(), checksum)


def test_an_identity_is_stable(write_study: WriteStudy) -> None:
    first = identity(write_study())
    again = identity(write_study(more="# a comment\n", name="copy.toml"))
    assert first == again
    assert identity_hash(first) == identity_hash(again)
    assert len(identity_hash(first)) == 12
    stored = json.loads(json.dumps(first))  # as a database gives it back
    assert stored == first
    check_same("tiny", stored, again)


def test_a_study_read_back_from_what_it_stored_is_the_same(config: StudyConfig) -> None:
    stored = json.loads(json.dumps(config.model_dump(mode="json")))
    again = StudyConfig.model_validate(stored)
    assert again == config
    space = config.search_space()
    assert again.identity(space, "x") == config.identity(space, "x")


@pytest.mark.parametrize(
    ("replacement", "more", "key"),
    [
        (("images = 64", "images = 96"), "", "schedule.images"),
        (("batch = 8", "batch = 4"), "", "schedule.batch"),
        (("batch = 8", "batch = 8\nrotate = 0"), "", "schedule.augmentation.rotate"),
        (("input_size = 32", "input_size = 64"), "", "data.input_size"),
        (("width_scale = 1", "width_scale = 0.5"), "", "width_scale"),
        (None, "[stopping]\nrungs = [0.5]", "rungs"),
    ],
)
def test_an_identity_changes_with_what_scores_depend_on(
    replacement: tuple[str, str] | None, more: str, key: str, write_study: WriteStudy
) -> None:
    before = identity(write_study())
    after = identity(write_study(*([replacement] if replacement else []), more=more))
    assert [k for k in before if before[k] != after[k]] == [key]
    assert identity_hash(before) != identity_hash(after)
    with pytest.raises(UserError) as caught:
        check_same("tiny", before, after)
    assert f"{key} was {before[key]!r}, is {after[key]!r}" in str(caught.value)
    assert "'tiny'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_identity_changes_with_the_people(study_file: Path) -> None:
    with pytest.raises(UserError, match=r"data\.checksum was 'old', is 'new'"):
        check_same("tiny", identity(study_file, "old"), identity(study_file, "new"))


def test_an_identity_changes_with_the_space(write_study: WriteStudy, write_space: Callable[..., Path]) -> None:
    study = write_study()
    before = identity(study)
    write_space(("width = [4, 8]", "width = [4, 8, 12]"), ("alpha = [0.7, 1.0]\n", ""))
    with pytest.raises(UserError) as caught:
        check_same("tiny", before, identity(study))
    assert "space.width was [4, 8], is [4, 8, 12]" in str(caught.value)
    assert "space.alpha was [0.7, 1.0], is 'absent'" in str(caught.value)


def test_an_identity_does_not_change_with_what_only_guides_the_search(write_study: WriteStudy) -> None:
    more = "[sampler]\nname = 'tpe'\n[budget]\nmax_params = 5000\n[stopping]\nquantile = 0.5\nleast = 3\n"
    assert identity(write_study()) == identity(write_study(("images = 128", "images = 256"), more=more))


def test_many_changes_are_counted() -> None:
    with pytest.raises(UserError, match=r"a was 1, is 2; b was 1, is 2; c was 1, is 2 and 2 more; restore them"):
        check_same("s", dict.fromkeys("abcde", 1), dict.fromkeys("abcde", 2))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('["hg2", "hg22"]', "baselines: no published network is named 'hg22'; did you mean hg2"),
        ('["hg2", "hg2"]', "baselines: a name is given twice"),
        ('"hg2"', "baselines: Input should be a valid tuple"),
    ],
)
def test_wrong_baselines_get_one_line(given: str, expected: str, write_study: WriteStudy) -> None:
    with pytest.raises(UserError) as caught:
        StudyConfig.read(write_study(("seed = 0\n\n[data]", f"seed = 0\nbaselines = {given}\n\n[data]")))
    assert "study.toml" in str(caught.value)
    assert expected in str(caught.value)


def test_the_projects_studies_begin_with_published_networks() -> None:
    for name in ("quickstart", "lspet", "mpii"):
        assert "hg2" in StudyConfig.read(name).baselines
    assert set(StudyConfig.read("published").baselines) == set(published())
    same = ("data", "schedule", "width_scale", "reference")
    quickstart, rows = StudyConfig.read("quickstart"), StudyConfig.read("published")
    assert all(getattr(rows, key) == getattr(quickstart, key) for key in same)


def test_a_study_file_of_windows_is_read(tmp_path: Path) -> None:
    text = (packaged("studies") / "quickstart.toml").read_text()
    (tmp_path / "quickstart.toml").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert StudyConfig.read(tmp_path / "quickstart.toml").name == "quickstart"
