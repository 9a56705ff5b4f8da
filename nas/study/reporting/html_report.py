"""A study as one page of HTML that needs no network: for whoever was not there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from nas.console import format_count, format_duration
from nas.errors import UserError
from nas.study.analysis.baselines import PICKS, Limits, pick
from nas.study.analysis.importance import METHOD, shown
from nas.study.analysis.rank_correlation import stored_calibration
from nas.study.analysis.results import StudyResults
from nas.study.config import SAMPLERS, StudyConfig
from nas.study.experiment import images_of
from nas.study.files import find, packaged, write_file
from nas.study.reporting import plotly_figures as plots
from nas.study.reporting.progress import NEAR
from nas.study.space.cardinality import count_architectures
from nas.study.space.search_space import LEVELS, RULES, members
from nas.study.storage.study_store import DONE

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(found: StudyResults, path: Path) -> None:
    """Write a study's page; a reader sees the old one or the new one.

    Raises:
        UserError: nothing has finished, or the file cannot be written.
    """
    if not found.measured:
        raise UserError(f"study {found.name} has no finished trial yet; run `python -m nas.search`")
    write_file(path, render(found).encode(), "--html")


def render(found: StudyResults) -> str:
    """The page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["short"] = format_count
    drawn = {name: _embedded(figure) for name, figure in plots.figures(found).items()}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **facts(found),
        figures=drawn,
        effects=[name for name in drawn if name.startswith("effects-")],
        plotly=Markup(get_plotlyjs()),
        method=METHOD,
    )


def _embedded(figure: Any) -> Markup:
    """A figure's JSON, so that no text of it can end the script that it stands in."""
    raw = figure.to_json()
    return Markup(raw.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def facts(found: StudyResults) -> dict[str, Any]:
    """All that the page says, as plain values and texts."""
    config, schedule = found.experiment.config, found.experiment.config.short_schedule()
    best = max(found.measured, key=lambda m: m.mean)
    full = config.full_schedule()
    ahead = {m.number for m in found.front}
    near = sorted(
        (m for m in found.measured if m.number not in ahead and m.chance >= NEAR), key=lambda m: (-m.chance, m.number)
    )
    architectures = count_architectures(found.experiment.space)
    return {
        "name": found.name,
        "size": config.data.input_size,
        "best": _row(found, best.number),
        "counts": found.counts,
        "images": f"{images_of(found.study):,}",
        "volume": f"{found.volume:.4f}",
        "noise": f"{found.noise:.1f}",
        "clear": f"{1.96 * math.sqrt(2) * found.noise:.1f}",  # of two single seeds, at 95 %
        "repeated": sum(len(m.values) > 1 for m in found.measured),
        "choices": _choices(found),
        "points": format_count(found.experiment.space.size),
        "architectures": "uncountably many" if architectures is None else f"{architectures:,}",
        "space": found.experiment.space.path.name,
        "width_scale": config.width_scale,
        "how": _how(found),
        "front": [_row(found, m.number) for m in found.front],
        "near": [_row(found, m.number) for m in near],
        "scored": bool(found.scores),
        "comparisons": _comparisons(found),
        "met": sum(one.met for one in found.comparisons),
        "importance": [
            {
                "name": one.name,
                "share": f"{100 * max(0.0, one.share):.0f} %",
                "chance": "< 0.001" if one.chance < 0.001 else f"{one.chance:.3f}",
                "networks": one.networks,
                "matters": one.matters,
                "effects": [
                    f"{e.value} {_signed(e.mean)} ({_signed(e.low)} to {_signed(e.high)})" for e in one.effects
                ],
            }
            for one in found.importance
        ],
        "random_proposals": config.sampler.name == "random",
        "calibration": stored_calibration(found.study),
        "full": found.full,
        "agreement": found.agreement,
        "schedule": {
            "short": f"{schedule.images:,}",
            "full": f"{full.images:,}",
            "times": f"{full.images / schedule.images:.3g}",
        },
        "recommended": recommended(found),
        "location_flags": found.experiment.location_flags,
        "reproduce": _reproduce(found),
    }


def _row(found: StudyResults, number: int) -> dict[str, Any]:
    measured = next(m for m in found.measured if m.number == number)
    trial = found.trials[number]
    score = found.scores.get(number)
    return {
        "trial": number,
        "pckh": f"{measured.mean:.1f}",
        "error": f"{found.error(number):.1f}",
        "seeds": len(measured.values),
        "chance": f"{100 * measured.chance:.0f} %",
        "params": f"{measured.params:,}",
        "madds": format_count(measured.madds),
        "layers": trial.user_attrs.get("cost", {}).get("layers", "–"),
        "score": "–" if score is None else _signed(score),
        "published": found.published.get(number),
        "network": trial.user_attrs.get("network") or str(found.experiment.candidate_of(trial)),
    }


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _choices(found: StudyResults) -> list[dict[str, str]]:
    rows = []
    for name, distribution in found.experiment.space.choices.items():
        there = members(distribution)
        values = (
            ", ".join(shown(value) for value in there)
            if there is not None
            else f"{getattr(distribution, 'low', 0):g} to {getattr(distribution, 'high', 0):g}"
        )
        if name in RULES:
            meaning = RULES[name].meaning
        elif name in LEVELS:
            meaning = f"block at level {name.removeprefix('level_')}, 1 being the finest"
        else:
            meaning = "block at the neck" if name == "neck" else "option of the blocks that have it"
        rows.append({"name": name, "meaning": meaning.replace("`", ""), "values": values})
    return rows


def _how(found: StudyResults) -> list[tuple[str, str]]:
    """What was done, as pairs of a thing and its description."""
    experiment, config = found.experiment, found.experiment.config
    schedule, people = config.short_schedule(), experiment.summary
    kind = "synthetic people" if config.data.file is None else f"people of {Path(config.data.file).name}"
    splits = ", ".join(f"{count:,} {split}" for split, count in people.counts.items())
    ended = [t for t in found.trials.values() if t.state in DONE]
    spans = [(t.datetime_start, t.datetime_complete) for t in ended if t.datetime_start and t.datetime_complete]
    owners = {(o["host"], o["pid"]) for t in ended if (o := t.user_attrs.get("owner"))}
    rows = [
        ("data", f"{kind} at {config.data.input_size}×{config.data.input_size} ({splits}; {experiment.joints} joints)"),
        (
            "each network",
            f"{schedule.images:,} pictures in {schedule.epochs} epochs of batch {schedule.batch}, annealed fully "
            f"({schedule.optimizer}, learning rate {schedule.learning_rate:g}, loss {schedule.loss.replace('_', ' ')}, "
            f"decoder {schedule.decoder}); scored by PCKh@0.5 on the hold-out people",
        ),
        ("proposals", f"{config.sampler.name}: {SAMPLERS[config.sampler.name]}; seed {config.seed}"),
        (
            "early stopping",
            f"looked at after epochs {', '.join(map(str, config.rung_epochs()))}; ends when, with the "
            f"{100 * config.stopping.quantile:.0f} % quantile of the gains seen from there, it would stay behind a "
            f"finished network that costs no more; from {config.stopping.least:,} finished networks on; "
            f"{found.counts.pruned} of {found.counts.done} trials ended early or were not eligible",
        ),
        ("budget", _budget(config)),
        (
            "hypervolume",
            f"share of the cube of PCKh / 100 × log params from {config.reference.params[0]:,} to "
            f"{config.reference.params[1]:,} × log MAdds from {config.reference.madds[0]:,} to "
            f"{config.reference.madds[1]:,} that the front covers",
        ),
    ]
    if spans:
        began, over = min(start for start, _ in spans), max(end for _, end in spans)
        busy = sum((end - start).total_seconds() for start, end in spans)
        rows.append(
            (
                "time",
                f"{began:%d %B %Y %H:%M} to {over:%d %B %Y %H:%M}; {format_duration(busy)} of training by "
                f"{len(owners) or 'unknown'} worker process{'es' if len(owners) != 1 else ''}",
            )
        )
    record = found.study.user_attrs.get("record", {})
    packages = ", ".join(f"{name} {version}" for name, version in record.get("packages", {}).items())
    rows.append(("machine", f"{record.get('device', 'unknown')}, Python {record.get('python', 'unknown')}"))
    rows.append(("versions", packages or "unknown"))
    rows.append(("commit", str(record.get("commit", "unknown"))))
    return rows


def _budget(config: StudyConfig) -> str:
    given = {k: v for k, v in config.budget.model_dump().items() if v is not None}
    return ", ".join(f"at most {v:,} {k.removeprefix('max_')}" for k, v in given.items()) or "none"


def _comparisons(found: StudyResults) -> list[dict[str, Any]]:
    rows = []
    for one in found.comparisons:
        base, other, ratios = one.baseline.point, one.found, one.ratios
        rows.append(
            {
                "name": one.baseline.name + (" (over the budget)" if one.baseline.over_budget else ""),
                "pckh": f"{base.pckh:.1f}",
                "error": f"{found.error(base.number):.1f}",
                "params": f"{base.params:,}",
                "madds": format_count(base.madds),
                "met": "yes" if one.met else "no",
                "trial": "–" if other is None else str(other.number),
                "gain": "–" if other is None else _signed(other.pckh - base.pckh),
                "of_params": "–" if ratios is None else f"{ratios[0]:.2f}",
                "of_madds": "–" if ratios is None else f"{ratios[1]:.2f}",
            }
        )
    return rows


def recommended(found: StudyResults) -> list[dict[str, Any]]:
    """What to train in full: the picks, and the most accurate network for each of some round numbers of params."""
    ways: list[tuple[str, str, Limits]] = [
        ("the best compromise of accuracy and costs", "knee", Limits()),
        ("the most accurate", "best", Limits()),
        ("the best trade-off against hg2 (0.8 PCKh, 0.1 MAdds, 0.1 params)", "tradeoff", Limits()),
    ]
    ways = [way for way in ways if way[1] in PICKS and (way[1] != "tradeoff" or found.scores)]
    ways += [(f"at most {format_count(most)} params", "best", Limits(most)) for most in budgets(found)]
    rows = []
    for wanted, how, limits in ways:
        chosen = pick(found.experiment, found.study, how, limits)
        flags = (f" --max-params {_flag(limits.params)}" if limits.params else "") + found.experiment.location_flags
        rows.append(
            {
                **_row(found, chosen.number),
                "wanted": wanted,
                "command": f"python -m nas.retrain --study {found.name} --pick {how}{flags}",
            }
        )
    return rows


def budgets(found: StudyResults) -> list[int]:
    """Round numbers of params (1, 2 or 5 times a power of ten) under which the most accurate network changes."""
    params = [m.params for m in found.front]
    rounds = [step * 10**power for power in range(1, 12) for step in (1, 2, 5)]
    kept, last = [], None
    for most in (r for r in rounds if min(params) <= r <= max(params)):
        best = max((p for p in found.points if p.params <= most), key=lambda p: (p.pckh, -p.params))
        if best.number != last:
            kept.append(most)
            last = best.number
    return kept[-6:]


def _flag(most: int) -> str:
    """A round number as a flag takes it: 50k."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if most % size == 0:
            return f"{most // size}{unit}"
    return str(most)


def _reproduce(found: StudyResults) -> dict[str, str]:
    """Commands, the study's file, and what may differ."""
    config = found.experiment.config
    record: Mapping[str, Any] = found.study.user_attrs.get("record", {})
    commit = str(record.get("commit", "unknown"))
    known = commit.removesuffix("-dirty") != "unknown"
    lines = [f"git checkout {commit.removesuffix('-dirty')}"] if known else []
    lines.append("pip install -c constraints.txt -e .")
    lines.append(f"python -m nas.search --study {config.name}.toml --trials {found.counts.done}")
    caveats = []
    if commit.endswith("-dirty"):
        caveats.append("The code had changes that were not committed when this study was begun.")
    if config.data.file is not None:
        caveats.append(
            f"The people are those of {config.data.file}, checksum {found.experiment.summary.checksum[:16]}."
        )
    return {
        "commands": "\n".join(lines),
        "toml": to_toml(config),
        "caveats": " ".join(caveats),
        "space": _content(found, config),
    }


def _content(found: StudyResults, config: StudyConfig) -> str:
    """The text of a space that does not come with the project; empty for those that do."""
    path = find(config.space, "search_spaces")
    if path.resolve().is_relative_to(packaged("search_spaces")):
        return ""
    return path.read_text(encoding="utf-8")


def to_toml(config: StudyConfig) -> str:
    """A study as the text of its file."""
    plain = config.model_dump(mode="json", exclude_none=True)
    tops = {key: value for key, value in plain.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in plain.items() if isinstance(value, dict) and value}
    parts = ["\n".join(f"{key} = {_toml(value)}" for key, value in tops.items())]
    parts += [
        "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())])
        for name, table in tables.items()
    ]
    return "\n\n".join(parts) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # strings, booleans and integers read the same in both
