"""The dashboard and the HTML report of a finished search in a real browser; selections and their error messages."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from optuna.trial import FrozenTrial, TrialState
from workplace import Workplace, until

from nas.study.pareto import Point, front

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_FLAGS = [
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
    """The URL at which nas.dashboard serves the page of the finished search."""
    with going.begun("dashboard", "--study", "tiny", "--port", 0, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "study tiny of sqlite:///runs/tiny/study.db\n"
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/studies/1", url)

        def responds() -> bool:
            assert server.poll() is None, "the dashboard exited"
            try:
                with urllib.request.urlopen(url, timeout=10) as response:
                    return bool(response.status == 200)
            except OSError:
                return False

        until(responds, "the dashboard responds")
        yield url
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0


PANELS = {"front-params", "front-madds", "front-3d", "history"}
IMAGES = ("learning-curve.svg", "people.jpg", "heatmaps.jpg")


def finished_trials(going: Workplace) -> list[FrozenTrial]:
    return [trial for trial in going.trials() if trial.state == TrialState.COMPLETE]


def point_of(trial: FrozenTrial) -> Point:
    return Point(trial.number, trial.values[0], int(trial.values[1]), int(trial.values[2]))


@contextmanager
def browser_page(profile: Path, errors: list[str], width: int, height: int) -> Iterator[Page]:
    """A page of a new browser; errors of its console and scripts are appended to the list."""
    from playwright.sync_api import ConsoleMessage, sync_playwright

    def record_error(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=BROWSER_FLAGS, viewport={"width": width, "height": height}
        )
        browser.set_default_timeout(60_000)
        page = browser.new_page()
        page.on("console", record_error)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_dashboard_shows_front_and_named_objectives(going: Workplace, address: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    trials = finished_trials(going)
    points = [point_of(trial) for trial in trials]
    errors: list[str] = []
    expect.set_options(timeout=60_000)
    with browser_page(tmp_path / "browser", errors, 1400, 2400) as page:
        page.goto(address.partition("/studies/")[0])
        study = page.locator("a[href*='/studies/']", has_text="tiny")
        expect(study).to_have_count(1)
        study.click()

        expect(page.get_by_text("Pareto Front", exact=True)).to_be_visible()
        importance = page.locator("#graph-hyperparameter-importances .legendtext")
        expect(importance).to_have_text(["PCKh", "params", "MAdds"])
        # If there is a single best trial, the title of the card names it.
        single = page.get_by_text(re.compile(r"^Best Trial \(number=\d+\)$"))
        best = page.get_by_role("heading", name=re.compile(r"^Trial \d+$")).or_(single)
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
        check_trial_page(page, address, max(trials, key=lambda trial: trial.values[0]))
        page.goto(f"{address}/note")
        expect(page.get_by_role("heading", name="tiny", exact=True)).to_be_visible()
        rows = page.locator("table tbody tr")
        expect(rows).to_have_count(len(front(points)))
        in_note = {int(text.split()[0]) for text in rows.all_inner_texts()}

    assert sorted(map(tuple, shown)) == sorted((point.pckh, point.params) for point in points)
    assert in_note == listed
    assert listed == {point.number for point in front(points)}
    assert sorted(map(tuple, plotted)) == sorted((point.pckh, point.params) for point in points)
    assert errors == []


def check_trial_page(page: Page, address: str, trial: FrozenTrial) -> None:
    """Check that the page of a finished trial shows its PCKh, its network and its artifacts."""
    from playwright.sync_api import expect

    page.goto(f"{address}/trials?numbers={trial.number}")
    expect(page.get_by_text(f"PCKh {trial.values[0]:.1f}", exact=True)).to_be_visible()
    expect(page.get_by_text("image 32×32 → stem")).to_be_visible()
    for name in IMAGES:
        image = page.locator(f"img[alt='{name}']").first
        expect(image).to_be_visible()
        until(lambda one=image: one.evaluate("i => i.complete && i.naturalWidth") > 100, f"{name} is shown")
    for name in (*IMAGES, "config.json"):
        expect(page.get_by_text(name, exact=True).first).to_be_attached()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
@pytest.mark.parametrize("width", [1200, 390])
def test_html_report_is_one_page_that_loads_nothing(going: Workplace, tmp_path: Path, width: int) -> None:
    result = going.run("report", "--study", "tiny", "--html", "tiny.html", "--csv", "tiny.csv")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("wrote tiny.html\nwrote tiny.csv\n")
    file = going.folder / "tiny.html"
    requests: list[str] = []
    errors: list[str] = []
    with browser_page(tmp_path / "browser", errors, width, 900) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        page.locator(".plot .main-svg").first.wait_for()
        figures = page.locator(".plot").evaluate_all("all => all.filter(p => p.data).map(p => p.id)")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        rows = page.locator("#front ~ .wide >> nth=0").locator("tbody tr")
        shown = [int(row.locator("td").first.inner_text()) for row in rows.all()]
    assert set(figures) >= PANELS
    assert shown == [point.number for point in front([point_of(trial) for trial in finished_trials(going)])]
    assert overflow <= 0, "the page is not wider than the window"
    assert requests == [file.as_uri()]
    assert errors == []


def test_ports_in_use_or_out_of_range_are_rejected(going: Workplace) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = going.run("dashboard", "--study", "tiny", "--port", port)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: --port {port}: cannot listen on it: ")
    for invalid in (-1, 65536):
        assert going.run("dashboard", "--study", "tiny", "--port", invalid).returncode == 2


def test_pick_within_limits_is_printed_and_retrained(going: Workplace) -> None:
    trials = finished_trials(going)
    limit = int(sorted(t.values[1] for t in trials)[len(trials) // 2])
    best = max((t for t in trials if t.values[1] <= limit), key=lambda t: t.values[0])
    flags = ("--study", "tiny", "--pick", "best", "--max-params", limit)
    record = json.loads(going.run("report", *flags, "--json").stdout)
    assert (record["trial"], record["pckh"], record["params"]) == (best.number, best.values[0], best.values[1])
    printed = going.run("report", *flags).stdout
    assert f"python -m nas.retrain --study tiny --trial {best.number}" in printed.splitlines()
    retrained = going.run("retrain", *flags, "--json")
    assert [r["label"] for r in json.loads(retrained.stdout)] == [f"trial-{best.number}"]


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("report", ("--max-params", "1M"), "--max-params 1,000,000: say what to pick within it"),
        ("report", ("--pick", "best", "--max-madds", "lots"), "--max-madds lots: must be a positive count"),
        ("report", ("--pick", "best", "--trial", 1), "give one of --pick, --trial and --published"),
        ("report", ("--pick", "best", "--max-latency", 0), "--max-latency 0: must be positive milliseconds"),
        ("report", ("--pick", "best", "--max-latency", 1e-6), "--max-latency 1e-06: no finished network of study tiny"),
        ("report", ("--published", "hg2"), "--published hg2: study tiny has not trained it to the end (trained: none)"),
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
def test_invalid_selections_are_rejected(
    finished: Workplace, command: str, flags: tuple[object, ...], message: str
) -> None:
    result = finished.run(command, "--study", "tiny", *flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_the_dashboard_answers_to_names_of_this_machine_only(address: str) -> None:
    def status(host: str) -> int:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address, headers={"Host": host}), timeout=10
            ) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    port = address.split(":")[2].split("/")[0]
    names = (f"127.0.0.1:{port}", f"localhost:{port}", "localhost", "LOCALHOST:1", f"[::1]:{port}")
    assert {name: status(name) for name in names} == dict.fromkeys(names, 200)
    others = ("attacker.example", f"attacker.example:{port}", f"127.0.0.1.attacker.example:{port}", "localhost.:80")
    assert {name: status(name) for name in others} == dict.fromkeys(others, 403)
