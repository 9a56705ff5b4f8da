"""optuna-dashboard over a finished search, seen through a real browser."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from workplace import ENVIRONMENT, Workplace, until

from nas.study.front import Point, front

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
    """Where a dashboard serves the finished search."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = Path(sys.executable).with_name("optuna-dashboard")
    server = subprocess.Popen(
        [dashboard, "sqlite:///runs/tiny/study.db", "--host", "127.0.0.1", "--port", str(port), "--quiet"],
        cwd=going.folder,
        env=ENVIRONMENT,
    )
    url = f"http://127.0.0.1:{port}/dashboard"

    def answers() -> bool:
        assert server.poll() is None, "the dashboard ended"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        until(answers, "the dashboard answers")
        yield url
    finally:
        server.kill()
        server.wait()


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

        page.goto(address)
        study = page.locator("a[href*='/studies/']", has_text="tiny")
        expect(study).to_have_count(1)
        study.click()

        expect(page.get_by_text("Pareto Front", exact=True)).to_be_visible()
        importance = page.locator(".js-plotly-plot .legendtext")
        expect(importance).to_have_text(["PCKh", "params", "MAdds"])
        best = page.get_by_role("heading", name=re.compile(r"^Trial \d+$"))
        expect(best).to_have_count(len(front(points)))
        listed = {int(text.split()[1]) for text in best.all_inner_texts()}
        plotted = page.locator(".js-plotly-plot").first.evaluate(
            "p => p.data.flatMap(t => t.x.map((x, i) => [x, t.y[i]]))"
        )
        browser.close()

    assert listed == {point.number for point in front(points)}
    assert sorted(map(tuple, plotted)) == sorted((point.pckh, point.params) for point in points)
    assert complaints == []
