"""A study that begins with published networks, seen from outside; and a block of one's own, as the README shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from optuna.trial import TrialState
from workplace import REPOSITORY, SPACE, Workplace, until

from nas.study.pareto import tradeoff
from nas.study.space.published import named

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A search of six trials whose first three are published networks, hg2 over the budget, none in the space."""
    place = study_with_baselines(Workplace(tmp_path_factory.mktemp("compared")))
    place.search("--trials", 6, "--workers", 2)
    return place


def study_with_baselines(place: Workplace) -> Workplace:
    place.space.write_text(
        SPACE.replace("width = [8, 12]", "width = [32, 64]").replace("stem = [8, 12]", "stem = [32, 64]")
    )
    text = place.file.read_text().replace("width_scale = 1.0", "width_scale = 0.125").replace("size = 32", "size = 64")
    place.file.write_text(
        text.replace("\n\n[data]", '\nbaselines = ["hg2", "separable", "hg1"]\n\n[data]', 1)
        + "\n[budget]\nmax_params = 70_000\n"
    )
    return place


def test_the_first_trials_are_the_published_networks(compared: Workplace) -> None:
    trials = compared.trials()
    assert len(trials) == 6
    assert [t.user_attrs.get("published") for t in trials[:4]] == ["hg2", "separable", "hg1", None]
    assert [t.state.name for t in trials[:3]] == ["PRUNED", "COMPLETE", "COMPLETE"]
    scaled = named("separable").candidate.architecture.scaled(0.125).to_dict()
    assert trials[1].user_attrs["candidate"]["architecture"] == scaled
    assert all(len(t.user_attrs["curve"]) == 4 for t in trials[:3]), "each ran to the end"
    assert all(t.user_attrs["cost"]["params"] <= 70_000 for t in trials if t.state == TrialState.COMPLETE)


def test_the_report_says_row_by_row_where_the_search_stands(compared: Workplace) -> None:
    done = compared.run("report", "--study", "tiny", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    trials = compared.trials()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert report["finished"] == len(complete)
    assert report["stopped"] == 6 - len(complete)
    assert report["images"] == sum(t.user_attrs["images"] for t in trials)
    assert [row["published"] for row in report["baselines"]] == ["hg2", "separable", "hg1"]
    for row, trial in zip(report["baselines"], trials[:3], strict=True):
        cost = trial.user_attrs["cost"]
        assert (row["params"], row["madds"]) == (cost["params"], cost["madds"])
        assert row["pckh"] == trial.user_attrs["curve"][-1]["pckh"]
        assert row["over_budget"] == (row["published"] == "hg2")
        candidates = [t for t in complete if t.number > 2]
        met = any(
            t.values[0] >= row["pckh"] and 2 * t.values[1] <= row["params"] and 2 * t.values[2] <= row["madds"]
            for t in candidates
        )
        assert row["met"] == met
    hg2 = report["baselines"][0]
    for row in report["front"]:
        against = (hg2["pckh"], hg2["params"], hg2["madds"])
        expected = tradeoff(row["pckh"], row["params"], row["madds"], against) if hg2["pckh"] else None
        assert row["tradeoff"] == (None if expected is None else pytest.approx(expected))

    shown = compared.run("report", "--study", "tiny")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "published networks under the same schedule, widths × 0.125; target: " in shown.stdout
    for name in ("hg2", "separable", "hg1"):
        assert re.search(rf"^{name} +[\d.]+ +[\d,]+ +[\d.]+ M +(yes|no) ", shown.stdout, re.M)


def test_the_best_tradeoff_is_retrained(compared: Workplace) -> None:
    report = json.loads(compared.run("report", "--study", "tiny", "--json").stdout)
    if "tradeoff" not in report["picks"]:
        pytest.fail("hg2 found no joint at all, so that nothing can be compared with it")
    best = max(report["front"], key=lambda row: row["tradeoff"])
    assert report["picks"]["tradeoff"] == best["trial"]
    done = compared.run("retrain", "--study", "tiny", "--pick", "tradeoff", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (result,) = json.loads(done.stdout)
    assert result["label"] == f"trial-{best['trial']}"


def test_a_baseline_killed_half_way_goes_on_as_what_it_was(tmp_path: Path) -> None:
    place = study_with_baselines(Workplace(tmp_path))
    arguments = ("--study", "tiny.toml", "--trials", 3, "--workers", 1, "--images", 512, "--epochs", 8)
    with place.begun("search", *arguments) as process:
        until(place.half_way, "the first baseline is past its first epoch")
        process.kill()
        process.wait()
    place.search(*arguments[2:])
    done = {t.user_attrs["published"]: t for t in place.done()}
    assert set(done) == {"hg2", "separable", "hg1"}
    assert done["hg2"].user_attrs["resumed_after_epoch"] >= 1
    assert all(len(t.user_attrs["curve"]) == 8 for t in done.values())


def test_a_block_of_ones_own_as_the_readme_shows_it(tmp_path: Path) -> None:
    readme = (REPOSITORY / "nas" / "architecture" / "blocks" / "README.md").read_text()
    section = readme.partition("## A block of your own")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n# (\S+)\n(.*?)```", section, re.S)
    (space,) = re.findall(r"```toml\n# (\S+)\n(.*?)```", section, re.S)
    (flags,) = re.findall(r"python -m nas\.search (.*--space \S+.*)", section)
    assert len(section.strip().splitlines()) < 40
    assert len((block[1] + space[1]).strip().splitlines()) < 30

    place = Workplace(tmp_path)
    for name, text in (block, space):
        (place.folder / name).write_text(text)
    text = place.file.read_text().replace("width_scale = 1.0", "width_scale = 0.125").replace("size = 32", "size = 64")
    place.file.write_text(text)
    arguments = flags.replace("--study quickstart", "").split()
    arguments[arguments.index("--trials") + 1] = "6"
    searched = place.search(*arguments)
    name = arguments[arguments.index("--name") + 1]
    trials = place.done(name, name)
    assert len(trials) == 6
    kinds = {t.user_attrs["candidate"]["architecture"]["block"]["kind"] for t in trials}
    assert any(":" in kind for kind in kinds), "the block was never tried"
    described = place.run("describe", "--space", space[0])
    assert (described.returncode, described.stderr) == (0, "")
    (own,) = re.findall(r"--allow-code \S+", searched.stdout.partition("retrain")[2])[:1]
    retrained = place.run("retrain", "--study", name, "--trial", trials[0].number, *own.split())
    assert (retrained.returncode, retrained.stderr) == (0, "")
