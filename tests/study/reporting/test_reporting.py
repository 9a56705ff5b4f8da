"""The HTML report, CSV file, figures and dashboard panels of a study show exactly its results."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note_from_system_attrs

from nas.architecture.latency import device_name
from nas.errors import UserError
from nas.study.analysis import latency as speed
from nas.study.analysis.baselines import baseline_trial
from nas.study.analysis.latency import MeasuredLatency
from nas.study.analysis.rank_correlation import stored_calibration
from nas.study.analysis.results import HistoryStep, load_results
from nas.study.analysis.selection import SelectionLimits, pick, points_within
from nas.study.config import OBJECTIVES, StudyConfig
from nas.study.execution.network_selection import select_networks
from nas.study.experiment import Experiment, load, points_of, prepare
from nas.study.pareto import front, hypervolume, knee
from nas.study.reporting.csv_export import write_csv
from nas.study.reporting.dashboard import dashboard_note, save_panels
from nas.study.reporting.figure_series import log_ticks, staircase
from nas.study.reporting.html_report import params_limits, render_html, write_html_report
from nas.study.reporting.paper_export import COLUMN_WIDTH, write_figures
from nas.study.reporting.plotly_figures import study_figures
from nas.study.reporting.study_description import to_toml
from nas.study.space.candidate import Candidate
from nas.study.storage.backend import create_study
from nas.study.storage.study_store import StudyStore

HOSTILE = '<script>alert("1")</script> & </table>|x|_y_'
BEGAN = datetime(2026, 1, 2, 3, 4)


@pytest.fixture
def searched(
    write_study: Callable[..., Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Experiment, optuna.Study]:
    """The tiny study with synthetic results, including hg1 and one hostile description; made once, then copied."""
    made = tmp_path_factory.getbasetemp() / "synthetic-results"
    if not made.exists():
        named = ("seed = 0\n\n[data]", 'seed = 0\nbaselines = ["hg1"]\n\n[data]')
        add_trials(prepare(StudyConfig.read(write_study(named, ("size = 32", "size = 64"))), made))
    shutil.copytree(made, tmp_path / "runs")
    return load("tiny", tmp_path / "runs")


def add_trials(experiment: Experiment) -> None:
    """Add hg1 and 60 random networks with synthetic PCKh, six points higher for separable blocks."""
    study = experiment.open_study()
    rng, noise, seen = Random(0), np.random.default_rng(0), set[str]()
    assert study.trials[0].user_attrs["published"] == "hg1"
    add_trial(experiment, study, None, 55.0, 1)
    while len(study.trials) < 62:
        point = experiment.space.random(rng)
        candidate = experiment.problem.candidate(point)
        if candidate.id in seen:
            continue
        seen.add(candidate.id)
        cost = experiment.cost(candidate)
        pckh = 6 * np.log(cost.params) + noise.normal() + (6 if point["block"] == "separable" else 0)
        add_trial(experiment, study, point, float(pckh), len(study.trials))
    StudyStore(study).engine.dispose()


def add_trial(
    experiment: Experiment, study: optuna.Study, point: dict[str, Any] | None, pckh: float, minute: int
) -> None:
    published = point is None
    candidate = experiment.published("hg1") if point is None else experiment.problem.candidate(point)
    cost = experiment.cost(candidate)
    study.add_trial(
        optuna.trial.FrozenTrial(
            number=-1,
            trial_id=-1,
            state=TrialState.COMPLETE,
            value=None,
            values=[pckh, cost.params, cost.madds],
            datetime_start=BEGAN + timedelta(minutes=minute),
            datetime_complete=BEGAN + timedelta(minutes=minute + 1),
            params=point or {},
            distributions=dict(experiment.space.choices) if point else {},
            user_attrs={
                "candidate": candidate.to_dict(),
                "network": HOSTILE if minute == 7 else str(candidate),
                "cost": {"params": cost.params, "madds": cost.madds, "layers": cost.layers},
                "images": 64,
                **({"published": "hg1"} if published else {}),
            },
            system_attrs={},
            intermediate_values={},
        )
    )


class ParsedPage(HTMLParser):
    """The tags of a page with their attributes, and the cells of its tables by the last heading before each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._heading, self._row, self._cell, self._in = "", [], None, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("h2", "h3"):
            self._heading, self._in = "", tag
        elif tag == "tr":
            self._row = []
        elif tag == "td":
            self._cell = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            self._in = ""
        elif tag == "td" and self._cell is not None:
            self._row.append(" ".join(self._cell.split()))
            self._cell = None
        elif tag == "tr" and self._row:
            self.tables.setdefault(self._heading, []).append(self._row)

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data
        elif self._in:
            self._heading += data


@pytest.mark.slow
def test_html_report_shows_the_values_of_the_study(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    page = ParsedPage(render_html(load_results(experiment, study)))
    points = points_of(study)
    rows = page.tables["Front"]
    assert [int(row[0]) for row in rows] == [p.number for p in front(points)]
    for row in rows:
        trial = study.trials[int(row[0])]
        assert row[1] == f"{trial.values[0]:.1f} ± 1.0"
        assert row[3] == f"{int(trial.values[1]):,}"
        assert row[5] == str(trial.user_attrs["cost"]["layers"])
        assert row[-1].endswith(" ".join(trial.user_attrs["network"].split()))
    (base,) = page.tables["Published networks under the same schedule"]
    hg1 = study.trials[1]
    assert base[:3] == ["hg1", "55.0 ± 1.0", f"{int(hg1.values[1]):,}"]
    half = [p for p in points if p.number != 1 and 2 * p.params <= hg1.values[1] and 2 * p.madds <= hg1.values[2]]
    met = [p for p in half if p.pckh >= 55]
    assert base[4] == ("yes" if met else "no")
    text = render_html(load_results(experiment, study))
    assert f"<b>{hypervolume(points, experiment.scale):.4f}</b>" in text
    assert f"<b>{61 * 64:,}</b><span>images trained" in text
    assert "Not calibrated" in text
    assert stored_calibration(study) is None


def test_recommended_commands_pick_the_recommended_trials(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    results = load_results(experiment, study)
    rows = ParsedPage(render_html(results)).tables["Recommended networks for full training"]
    sizes = {"k": 10**3, "M": 10**6}
    assert len(rows) == 2 + len(params_limits(results)) > 3
    for row in rows:
        command = re.search(r"--pick (\w+)(?: --max-params (\d+)([kM]))? --runs ", row[-1])
        assert command is not None
        limits = SelectionLimits(int(command[2]) * sizes[command[3]]) if command[2] else SelectionLimits()
        assert int(row[1]) == pick(experiment, study, command[1], limits).number


@pytest.mark.slow
def test_html_report_loads_no_external_resource(searched: tuple[Experiment, optuna.Study]) -> None:
    page = ParsedPage(render_html(load_results(*searched)))
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert tag != "link" or attributes["href"] == "data:,"
        assert tag != "a" or str(attributes["href"]).startswith("#")
    assert not re.search(r"@import|url\(", render_html(load_results(*searched)).split("</style>")[0])
    assert sum(tag == "script" for tag, _ in page.tags) == 2


@pytest.mark.slow
def test_texts_of_a_study_are_escaped(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    study.set_user_attr("calibration", {"text": HOSTILE, "spearman": 0.9})
    study.set_user_attr("record", {"commit": HOSTILE, "packages": {HOSTILE: HOSTILE}, "device": HOSTILE})
    text = render_html(load_results(experiment, study))
    assert "alert(&#34;1&#34;)" in text
    assert '<script>alert("1")' not in text
    assert "<script>alert(" not in text
    figure_script = text.rpartition("<script>")[2]
    assert "alert" in figure_script, "the network's description is in a figure"
    assert "<" not in figure_script.partition("};")[0]
    assert "|x|" not in dashboard_note(load_results(experiment, study)), "a bar would end the table cell"


@pytest.mark.slow
@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_text_of_a_study_is_no_formula_in_a_spreadsheet(
    searched: tuple[Experiment, optuna.Study], tmp_path: Path, start: str
) -> None:
    experiment, study = searched
    results = load_results(experiment, study)
    number = results.measured[-1].number
    results.trials[number].user_attrs["network"] = start
    write_csv(results, tmp_path / "all.csv")
    with open(tmp_path / "all.csv", newline="") as file:
        (network,) = [row["network"] for row in csv.DictReader(file) if row["trial"] == str(number)]
    assert network == f"'{start}"


@pytest.mark.slow
def test_csv_contains_every_finished_trial(searched: tuple[Experiment, optuna.Study], tmp_path: Path) -> None:
    experiment, study = searched
    write_csv(load_results(experiment, study), tmp_path / "all.csv")
    with open(tmp_path / "all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(1, 62))
    on_front = {p.number for p in front(points_of(study))}
    for row in rows:
        trial = study.trials[int(row["trial"])]
        assert [float(row[key]) for key in ("pckh", "params", "madds")] == trial.values
        assert row["pckh_of_seeds"] == repr(trial.values[0])
        assert int(row["layers"]) == trial.user_attrs["cost"]["layers"]
        assert int(row["on_front"]) == (trial.number in on_front)
        assert 0 <= float(row["chance"]) <= 1
        assert row["network"] == trial.user_attrs["network"]
        if trial.params:
            assert row["width"] == str(trial.params["width"])
            assert (row["junction"] == "") == (trial.params["stacks"] == 1)
    assert [row["published"] for row in rows[:2]] == ["hg1", ""]


def test_front_figures_show_every_finished_network_once(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    figures = study_figures(load_results(experiment, study))
    points = points_of(study)
    for name, cost in (("front-params", "params"), ("front-madds", "madds")):
        shown = [(x, y) for t in figures[name].data if "markers" in t.mode for x, y in zip(t.x, t.y, strict=True)]
        assert sorted(shown) == sorted((getattr(p, cost), p.pckh) for p in points)
        assert [a.text for a in figures[name].layout.annotations] == ["hg1"]
        symbols = {
            s for t in figures[name].data if t.marker and t.marker.symbol for s in np.atleast_1d(t.marker.symbol)
        }
        assert len(symbols) == 3, "kinds of points differ by shape"
    assert figures["history"].data[0].x[-1] == 61 * 64
    assert figures["history"].data[0].y[-1] == pytest.approx(hypervolume(points, experiment.scale))
    assert figures["history"].data[1].y[-1] == len(front(points))
    assert "effects-block" in figures
    assert figures["effects-block"].data[0].y[-1] == "separable"


def test_history_uses_values_stored_by_the_trials(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    computed = load_results(experiment, study).steps
    assert [s.images for s in computed] == [64 * (i + 1) for i in range(61)]
    assert all(a.volume <= b.volume for a, b in pairwise(computed))
    trials = {t.number: t for t in study.get_trials()[1:]}
    for number, trial in trials.items():
        trial.user_attrs |= {"images_so_far": 10 * number, "hypervolume": number / 100, "front_size": 3}
    assert replace(load_results(experiment, study), trials=trials).steps == [
        HistoryStep(10 * n, n / 100, 3) for n in range(1, 62)
    ]


def test_staircase_keeps_points_that_improve_with_cost() -> None:
    assert staircase([(3, 5.0), (1, 2.0), (2, 1.0), (3, 6.0), (4, 6.0)]) == [(1, 2.0), (3, 6.0)]


def test_log_ticks_get_sparser_on_wider_axes() -> None:
    assert log_ticks([1_000, 20_000], 9) == [1_000, 2_000, 5_000, 10_000, 20_000]
    assert log_ticks([1_000, 1_000_000], 9) == [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    assert log_ticks([1_000, 1_000_000], 5) == [1_000, 10_000, 100_000, 1_000_000]
    assert log_ticks([1_000, 1_000], 9) == [1_000]


def test_picks_respect_cost_limits(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    points = points_of(study)
    median_params = sorted(p.params for p in points)[20]
    low = sorted(p.madds for p in points)[30]
    within = [p for p in points if p.params <= median_params]
    both = [p for p in within if p.madds <= low]
    assert pick(experiment, study, "best", SelectionLimits(median_params)).pckh == max(p.pckh for p in within)
    assert pick(experiment, study, "best", SelectionLimits(median_params, low)).pckh == max(p.pckh for p in both)
    assert pick(experiment, study, "knee", SelectionLimits(median_params)) == knee(within, experiment.scale)
    assert {p.number for p in points_within(experiment, study, SelectionLimits(madds=low))} == {
        p.number for p in points if p.madds <= low
    }
    chosen = select_networks(experiment, study, None, "best", False, None, SelectionLimits(median_params))
    assert [c.label for c in chosen] == [f"trial-{max(within, key=lambda p: p.pckh).number}"]
    every = select_networks(experiment, study, None, None, True, None, SelectionLimits(median_params))
    assert [c.label for c in every] == [f"trial-{p.number}" for p in front(within)]


def test_picks_respect_measured_latency(
    searched: tuple[Experiment, optuna.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, study = searched
    measured: list[str] = []

    def measure(of: Experiment, candidate: Candidate, device: str) -> MeasuredLatency:
        """One millisecond per thousand params."""
        measured.append(candidate.architecture.id)
        return MeasuredLatency(of.cost(candidate).params / 1000, 0, 0, device_name(device))

    monkeypatch.setattr(speed, "measure_candidate", measure)
    points = points_of(study)
    median_params = sorted(p.params for p in points)[20]
    within = [p for p in points if p.params <= median_params]
    assert pick(experiment, study, "best", SelectionLimits(latency=median_params / 1000)).pckh == max(
        p.pckh for p in within
    )
    assert len(measured) == len(points)
    measured.clear()
    assert pick(experiment, study, "knee", SelectionLimits(median_params, latency=median_params / 1000)) == knee(
        within, experiment.scale
    )
    assert len(measured) == len(within), "networks over the limit of params are not timed"
    fastest = min(points, key=lambda p: p.params).number
    with pytest.raises(UserError, match=rf"^--max-latency 0.001: .* the fastest is trial {fastest}, .* ms per image"):
        pick(experiment, study, "best", SelectionLimits(latency=0.001))
    assert study.trials[baseline_trial(experiment, study, "hg1")].user_attrs["published"] == "hg1"
    with pytest.raises(UserError, match=r"--published hg8: .* \(trained: hg1\)"):
        baseline_trial(experiment, study, "hg8")


def test_limits_below_every_network_name_the_closest_one(searched: tuple[Experiment, optuna.Study]) -> None:
    least = min(points_of(searched[1]), key=lambda p: p.params)
    with pytest.raises(
        UserError, match=rf"--max-params 10: .* nearest is trial {least.number}, {least.params:,} params"
    ):
        pick(*searched, "best", SelectionLimits(10))
    with pytest.raises(UserError, match="goes with --pick or --all-front"):
        select_networks(*searched, 1, None, False, None, SelectionLimits(10**9))


@pytest.mark.slow
def test_full_training_is_compared_with_the_search(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    full = create_study(StudyStore(study).database, "tiny-full", OBJECTIVES)
    for number, pckh in ((5, 80.0), (9, 81.0), (12, 90.0), (1, 85.0)):
        add_full_training(full, study.trials[number], pckh, 1000)
    add_full_training(full, study.trials[5], 70.0, 500)  # shorter than another training of the same network
    results = load_results(experiment, study)
    assert {(f.trial, f.pckh) for f in results.full} == {(5, 80.0), (9, 81.0), (12, 90.0), (1, 85.0)}
    assert {f.trial: f.short for f in results.full} == {n: study.trials[n].values[0] for n in (5, 9, 12, 1)}
    order = sorted((5, 9, 12, 1), key=lambda n: study.trials[n].values[0])
    ranks = [[80.0, 81.0, 85.0, 90.0].index({5: 80.0, 9: 81.0, 12: 90.0, 1: 85.0}[n]) for n in order]
    assert results.agreement is not None
    assert results.agreement.value == pytest.approx(1 - sum((i - r) ** 2 for i, r in enumerate(ranks)) / 10)
    rows = ParsedPage(render_html(results)).tables["Full training"]
    assert sorted(row[1] for row in rows) == ["80.0", "81.0", "85.0", "90.0"]
    figures = study_figures(results)
    assert "agreement" in figures
    pckh_of = {trace.name: [y for y in trace.y if y is not None] for trace in figures["fronts"].data}
    assert pckh_of["front of the search"] == [m.mean for m in results.front]
    assert sorted(pckh_of["fully trained (filled: on their front)"]) == [80.0, 81.0, 85.0, 90.0]
    ends = sorted(y for f in results.full for y in (f.short, f.pckh))
    assert sorted(pckh_of["same network"]) == ends


def test_html_report_shows_a_single_full_training(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    full = create_study(StudyStore(study).database, "tiny-full", OBJECTIVES)
    add_full_training(full, study.trials[5], 80.0, 1000)
    results = load_results(experiment, study)
    assert results.agreement is None
    assert [row[1] for row in ParsedPage(render_html(results)).tables["Full training"]] == ["80.0"]


def add_full_training(full: optuna.Study, trial: optuna.trial.FrozenTrial, pckh: float, images: int) -> None:
    attributes = {"label": f"trial-{trial.number}", "images": images, "network": trial.user_attrs["network"]}
    full.add_trial(
        create_trial(
            values=[pckh, *trial.values[1:]],
            user_attrs={"candidate": trial.user_attrs["candidate"], **attributes},
        )
    )


@pytest.mark.slow
def test_panels_replace_earlier_panels(searched: tuple[Experiment, optuna.Study]) -> None:
    experiment, study = searched
    save_panels(load_results(experiment, study))
    before = panels(study)
    assert set(before) == {"front-params", "front-madds", "front-3d", "history", "importance", "effects"}
    point = experiment.space.random(Random(99))
    add_trial(experiment, study, point, 99.0, 99)
    save_panels(load_results(experiment, study))
    after = panels(study)
    assert set(after) == set(before)
    assert max(y for t in after["front-params"]["data"] for y in t["y"]) == 99.0
    assert max(y for t in before["front-params"]["data"] for y in t["y"]) < 99.0
    text = get_note_from_system_attrs(study._storage.get_study_system_attrs(study._study_id), None)["body"]
    assert text == dashboard_note(load_results(experiment, study))
    assert "| 62 | 99.0 ± 1.0 |" in text


def panels(study: optuna.Study) -> dict[str, Any]:
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return {name: json.loads(raw) for name, raw in get_plotly_graph_objects(attributes).items()}


@pytest.mark.slow
def test_paper_figures_have_column_width_and_readable_text(
    searched: tuple[Experiment, optuna.Study], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    written = write_figures(load_results(*searched), tmp_path / "figures")
    names = {p.stem for p in written}
    assert names == {"front-params", "front-madds", "history", "importance"}
    assert {p.suffix for p in written} == {".png", ".svg"}
    for path in written:
        if path.suffix == ".png":
            assert imread(path).shape[1] == pytest.approx(300 * COLUMN_WIDTH, abs=2)
        else:
            text = path.read_text()
            sizes = [float(s) for s in re.findall(r"font(?:-size)?: ?(?:[a-z]+ )?([\d.]+)px", text)]
            assert sizes
            assert min(sizes) >= 7
            assert "parameters" in text or path.stem != "front-params", "text is not converted to paths"


def test_to_toml_round_trip(searched: tuple[Experiment, optuna.Study], tmp_path: Path) -> None:
    config = searched[0].config
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert StudyConfig.read(tmp_path / "again.toml") == config


@pytest.mark.slow
def test_unwritable_outputs_raise_user_errors(
    searched: tuple[Experiment, optuna.Study], config: StudyConfig, tmp_path: Path
) -> None:
    results = load_results(*searched)
    with pytest.raises(UserError, match=r"--html .*: there is no folder"):
        write_html_report(results, tmp_path / "none" / "page.html")
    with pytest.raises(UserError, match=r"--html .*: is a folder"):
        write_html_report(results, tmp_path)
    with pytest.raises(UserError, match=r"--csv .*: there is no folder"):
        write_csv(results, tmp_path / "none" / "all.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--figures .*: cannot be made"):
        write_figures(results, tmp_path / "file" / "below")


@pytest.mark.slow
def test_study_without_finished_trials_has_no_report(config: StudyConfig, tmp_path: Path) -> None:
    experiment = prepare(config, tmp_path / "runs")
    study = experiment.open_study()
    results = load_results(experiment, study)
    save_panels(results)
    assert panels(study) == {}
    with pytest.raises(UserError, match="no finished trial yet"):
        write_html_report(results, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
