"""A study as one HTML page that loads nothing else, written for readers who did not run the search."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from nas.console import format_count
from nas.errors import UserError
from nas.study.analysis.importance import Importance
from nas.study.analysis.rank_correlation import stored_calibration
from nas.study.analysis.results import StudyResults
from nas.study.analysis.selection import PICKS, SelectionLimits, pick
from nas.study.experiment import images_of
from nas.study.files import write_file
from nas.study.reporting.plotly_figures import study_figures
from nas.study.reporting.study_description import describe_choices, describe_method, describe_reproduction
from nas.study.reporting.tables import NEAR_FRONT, near_front
from nas.study.space.cardinality import count_architectures

TEMPLATE = Path(__file__).with_name("page.html")


def write_html_report(results: StudyResults, path: Path) -> None:
    """Write the page of a study atomically.

    Raises:
        UserError: no trial has finished, or the file cannot be written.
    """
    if not results.measured:
        raise UserError(f"study {results.name} has no finished trial yet; run `python -m nas.search`")
    write_file(path, render_html(results).encode(), "--html")


def render_html(results: StudyResults) -> str:
    """The page of a study that has finished trials."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["short"] = format_count
    figures = {name: _embedded(figure) for name, figure in study_figures(results).items()}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **_summary(results),
        **_front_section(results),
        **_importance_section(results),
        **_full_training_section(results),
        **_description_sections(results),
        figures=figures,
        effects=[name for name in figures if name.startswith("effects-")],
        plotly=Markup(get_plotlyjs()),
    )


def _embedded(figure: go.Figure) -> Markup:
    """A figure's JSON, escaped so that no text in it can end the script element around it."""
    raw = figure.to_json()
    return Markup(raw.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _summary(results: StudyResults) -> dict[str, Any]:
    config = results.experiment.config
    architectures = count_architectures(results.experiment.space)
    return {
        "name": results.name,
        "size": config.data.input_size,
        "best": _network_row(results, max(results.measured, key=lambda m: m.mean).number),
        "counts": results.counts,
        "images": f"{images_of(results.study):,}",
        "hypervolume": f"{results.volume:.4f}",
        "architectures": "uncountably many" if architectures is None else f"{architectures:,}",
        "width_scale": config.width_scale,
        "location_flags": results.experiment.location_flags,
    }


def _front_section(results: StudyResults) -> dict[str, Any]:
    return {
        "noise": f"{results.noise:.1f}",
        "clear_difference": f"{1.96 * math.sqrt(2) * results.noise:.1f}",  # between two single seeds, at 95%
        "repeated": sum(len(m.values) > 1 for m in results.measured),
        "front": [_network_row(results, m.number) for m in results.front],
        "near_front": f"{100 * NEAR_FRONT:.0f}%",
        "near": [_network_row(results, m.number) for m in near_front(results)],
        "scored": bool(results.scores),
        "comparisons": _comparison_rows(results),
        "met": sum(comparison.met for comparison in results.comparisons),
    }


def _network_row(results: StudyResults, number: int) -> dict[str, Any]:
    """The cells of a finished trial."""
    network = next(m for m in results.measured if m.number == number)
    trial = results.trials[number]
    score = results.scores.get(number)
    return {
        "trial": number,
        "pckh": f"{network.mean:.1f}",
        "error": f"{results.error(number):.1f}",
        "seeds": len(network.values),
        "probability": f"{100 * network.chance:.0f}%",
        "params": f"{network.params:,}",
        "madds": format_count(network.madds),
        "layers": trial.user_attrs.get("cost", {}).get("layers", "–"),
        "score": "–" if score is None else _signed(score),
        "published": results.published.get(number),
        "network": trial.user_attrs.get("network") or str(results.experiment.candidate_of(trial)),
    }


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _comparison_rows(results: StudyResults) -> list[dict[str, Any]]:
    """The cells of each published network and of the trial that comes closest to the target."""
    rows = []
    for comparison in results.comparisons:
        baseline, closest, ratios = comparison.baseline, comparison.closest, comparison.ratios
        rows.append(
            {
                "name": baseline.name + (" (over budget)" if baseline.over_budget else ""),
                "pckh": f"{baseline.point.pckh:.1f}",
                "error": f"{results.error(baseline.point.number):.1f}",
                "params": f"{baseline.point.params:,}",
                "madds": format_count(baseline.point.madds),
                "met": "yes" if comparison.met else "no",
                "trial": "–" if closest is None else str(closest.number),
                "gain": "–" if closest is None else _signed(closest.pckh - baseline.point.pckh),
                "params_ratio": "–" if ratios is None else f"{ratios[0]:.2f}",
                "madds_ratio": "–" if ratios is None else f"{ratios[1]:.2f}",
            }
        )
    return rows


def _importance_section(results: StudyResults) -> dict[str, Any]:
    return {
        "importance": [_importance_row(choice) for choice in results.importance],
        "random_sampler": results.experiment.config.sampler.name == "random",
    }


def _importance_row(choice: Importance) -> dict[str, Any]:
    return {
        "name": choice.name,
        "share": f"{100 * max(0.0, choice.share):.0f}%",
        "p_value": "< 0.001" if choice.chance < 0.001 else f"{choice.chance:.3f}",
        "networks": choice.networks,
        "significant": choice.matters,
        "effects": [f"{e.value} {_signed(e.mean)} ({_signed(e.low)} to {_signed(e.high)})" for e in choice.effects],
    }


def _full_training_section(results: StudyResults) -> dict[str, Any]:
    short, full = results.experiment.config.short_schedule(), results.experiment.config.full_schedule()
    return {
        "calibration": stored_calibration(results.study),
        "schedule": {
            "short": f"{short.images:,}",
            "full": f"{full.images:,}",
            "ratio": f"{full.images / short.images:.3g}",
        },
        "full": results.full,
        "agreement": results.agreement,
        "recommended": _recommended_rows(results),
    }


def _description_sections(results: StudyResults) -> dict[str, Any]:
    space = results.experiment.space
    return {
        "space": space.path.name,
        "points": format_count(space.size),
        "choices": describe_choices(results),
        "methods": describe_method(results),
        "reproduction": describe_reproduction(results),
    }


def _recommended_rows(results: StudyResults) -> list[dict[str, Any]]:
    """Networks to train in full: each pick, and the most accurate network within each of some numbers of params."""
    descriptions = {
        "knee": "best compromise between accuracy and costs (knee of the front)",
        "best": "most accurate",
        "tradeoff": "best trade-off score against hg2 (0.8 PCKh, 0.1 MAdds, 0.1 params)",
    }
    recommended = [
        (descriptions[way], way, SelectionLimits()) for way in PICKS if way != "tradeoff" or results.scores
    ]  # without hg2 in the study, no trial has a trade-off score
    recommended += [
        (f"most accurate with at most {format_count(params)} params", "best", SelectionLimits(params))
        for params in params_limits(results)
    ]
    rows = []
    for description, way, limits in recommended:
        trial = pick(results.experiment, results.study, way, limits)
        limit = f" --max-params {_as_flag(limits.params)}" if limits.params else ""
        flags = limit + results.experiment.location_flags
        rows.append(
            {
                **_network_row(results, trial.number),
                "description": description,
                "command": f"python -m nas.retrain --study {results.name} --pick {way}{flags}",
            }
        )
    return rows


def params_limits(results: StudyResults) -> list[int]:
    """Up to six round numbers of params (1, 2 or 5 times a power of ten) whose most accurate networks differ."""
    params = [m.params for m in results.front]
    round_numbers = [step * 10**power for power in range(1, 12) for step in (1, 2, 5)]
    limits, last = [], None
    for limit in (number for number in round_numbers if min(params) <= number <= max(params)):
        best = max((p for p in results.points if p.params <= limit), key=lambda p: (p.pckh, -p.params))
        if best.number != last:
            limits.append(limit)
            last = best.number
    return limits[-6:]


def _as_flag(number: int) -> str:
    """A round number as a flag accepts it: 50k."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number % size == 0:
            return f"{number // size}{unit}"
    return str(number)
