"""optuna-dashboard over a finished search, seen through a real browser."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from workplace import Workplace, until

from nas.study.pareto import Point, front

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIETLY = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def address(going: Workplace) -> Iterator[str]:
    """Where nas.dashboard serves the page of the finished search."""
    with going.begun("dashboard", "--study", "tiny", "--port", 0, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "study tiny of sqlite:///runs/tiny/study.db\n"
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/studies/1", url)

        def answers() -> bool:
            assert server.poll() is None, "the dashboard ended"
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        until(answers, "the dashboard answers")
        yield url
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0


PANELS = {"front-params", "front-madds", "front-3d", "history"}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_it_shows_the_front_with_named_objectives(going: Workplace, address: str, tmp_path: Path) -> None:
    from playwright.sync_api import ConsoleMessage, expect, sync_playwright

    trials = [trial for trial in going.trials() if trial.state == TrialState.COMPLETE]
    points = [Point(t.number, t.values[0], int(t.values[1]), int(t.values[2])) for t in trials]
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=CHROMIUM, args=QUIETLY, viewport={"width": 1400, "height": 2400}
        )
        browser.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page = browser.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))

        page.goto(address.partition("/studies/")[0])
        study = page.locator("a[href*='/studies/']", has_text="tiny")
        expect(study).to_have_count(1)
        study.click()

        expect(page.get_by_text("Pareto Front", exact=True)).to_be_visible()
        importance = page.locator("#graph-hyperparameter-importances .legendtext")
        expect(importance).to_have_text(["PCKh", "params", "MAdds"])
        # A best trial that is the only one is named in the card's title.
        alone = page.get_by_text(re.compile(r"^Best Trial \(number=\d+\)$"))
        best = page.get_by_role("heading", name=re.compile(r"^Trial \d+$")).or_(alone)
        expect(best).to_have_count(len(front(points)))
        listed = {int(re.sub(r"\D", "", text)) for text in best.all_inner_texts()}
        plotted = page.locator("#graph-pareto-front").evaluate(
            # A trial that was stopped is a point without values, which is not drawn.
            "p => p.data.flatMap(t => t.x.map((x, i) => [x, t.y[i]])).filter(([x, y]) => x !== null || y !== null)"
        )
        for name in PANELS:
            expect(page.locator(f"[id='user-defined-plot:{name}'] .main-svg").first).to_be_visible()
        shown = page.locator("[id='user-defined-plot:front-params']").evaluate(
            "p => p.data.filter(t => t.mode == 'markers').flatMap(t => t.x.map((x, i) => [t.y[i], x]))"
        )
        finished = max(trials, key=lambda trial: trial.values[0])
        page.goto(f"{address}/trials?numbers={finished.number}")
        expect(page.get_by_text(f"PCKh {finished.values[0]:.1f}", exact=True)).to_be_visible()
        expect(page.get_by_text("picture 32×32 → stem")).to_be_visible()
        noted_pictures = ("learning-curve.svg", "people.jpg", "heatmaps.jpg")
        for name in noted_pictures:
            picture = page.locator(f"img[alt='{name}']").first
            expect(picture).to_be_visible()
            until(lambda one=picture: one.evaluate("i => i.complete && i.naturalWidth") > 100, f"{name} is shown")
        for name in (*noted_pictures, "config.json"):
            expect(page.get_by_text(name, exact=True).first).to_be_attached()
        page.goto(f"{address}/note")
        expect(page.get_by_role("heading", name="tiny", exact=True)).to_be_visible()
        rows = page.locator("table tbody tr")
        expect(rows).to_have_count(len(front(points)))
        noted = {int(text.split()[0]) for text in rows.all_inner_texts()}
        browser.close()

    assert sorted(map(tuple, shown)) == sorted((point.pckh, point.params) for point in points)
    assert noted == listed
    assert listed == {point.number for point in front(points)}
    assert sorted(map(tuple, plotted)) == sorted((point.pckh, point.params) for point in points)
    assert complaints == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_is_one_page_that_loads_nothing(going: Workplace, tmp_path: Path, width: int) -> None:
    from playwright.sync_api import sync_playwright

    done = going.run("report", "--study", "tiny", "--html", "tiny.html", "--csv", "tiny.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("wrote tiny.html\nwrote tiny.csv\n")
    file = going.folder / "tiny.html"
    asked: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=CHROMIUM, args=QUIETLY, viewport={"width": width, "height": 900}
        )
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        drawn = page.locator(".plot .main-svg")
        drawn.first.wait_for()
        names = page.locator(".plot").evaluate_all("all => all.filter(p => p.data).map(p => p.id)")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        rows = page.locator("#front ~ .wide >> nth=0").locator("tbody tr")
        shown = [int(row.locator("td").first.inner_text()) for row in rows.all()]
        browser.close()
    points = [
        Point(t.number, t.values[0], int(t.values[1]), int(t.values[2]))
        for t in going.trials()
        if t.state == TrialState.COMPLETE
    ]
    assert set(names) >= PANELS
    assert shown == [point.number for point in front(points)]
    assert overflow <= 0, "nothing is wider than the window"
    assert asked == [file.as_uri()]
    assert complaints == []


def test_a_port_that_is_taken_is_refused(going: Workplace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = going.run("dashboard", "--study", "tiny", "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: --port {port}: cannot listen on it: ")
    for wrong in (-1, 65536):
        assert going.run("dashboard", "--study", "tiny", "--port", wrong).returncode == 2


def test_one_choice_is_printed_within_limits(going: Workplace) -> None:
    done = [t for t in going.trials() if t.state == TrialState.COMPLETE]
    middle = int(sorted(t.values[1] for t in done)[len(done) // 2])
    best = max((t for t in done if t.values[1] <= middle), key=lambda t: t.values[0])
    flags = ("--study", "tiny", "--pick", "best", "--max-params", middle)
    answer = json.loads(going.run("report", *flags, "--json").stdout)
    assert (answer["trial"], answer["pckh"], answer["params"]) == (best.number, best.values[0], best.values[1])
    said = going.run("report", *flags).stdout
    assert f"python -m nas.retrain --study tiny --trial {best.number}" in said.splitlines()
    retrained = going.run("retrain", *flags, "--json")
    assert [r["label"] for r in json.loads(retrained.stdout)] == [f"trial-{best.number}"]


@pytest.mark.parametrize(
    ("command", "flags", "complaint"),
    [
        ("report", ("--max-params", "1M"), "--max-params 1,000,000: say what to pick within it"),
        ("report", ("--pick", "best", "--max-madds", "lots"), "--max-madds lots: must be a positive count"),
        ("report", ("--pick", "best", "--trial", 1), "give one of --pick, --trial and --published"),
        ("report", ("--pick", "best", "--max-latency", 0), "--max-latency 0: must be positive milliseconds"),
        ("report", ("--pick", "best", "--max-latency", 1e-6), "--max-latency 1e-06: no finished network of study tiny"),
        ("report", ("--published", "hg2"), "--published hg2: study tiny has not trained it to the end (there: none)"),
        (
            "export",
            ("--onnx", "a.onnx", "--trial", 0),
            "--trial 0: not trained in full yet; run `python -m",
        ),
        ("export", ("--onnx", "a.onnx", "weights.pt"), "say which network: give either a CHECKPOINT, or --study"),
        ("report", ("--pick", "cheapest"), "--pick cheapest: must be one of"),
        ("report", ("--pick", "best", "--max-params", 7), "--max-params 7: no finished network of study tiny"),
        ("report", ("--trial", 99), "--trial 99: study tiny has no finished trial of that number"),
        ("report", ("--html", "none/page.html"), "--html none/page.html: there is no folder none"),
        ("retrain", ("--trial", 1, "--max-params", "1M"), "--max-params 1,000,000: goes with --pick or --all-front"),
    ],
)
def test_what_is_refused(finished: Workplace, command: str, flags: tuple[object, ...], complaint: str) -> None:
    done = finished.run(command, "--study", "tiny", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {complaint}")
    assert done.stderr.count("\n") == 1
