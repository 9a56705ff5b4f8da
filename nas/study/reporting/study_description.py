"""What a study searched, how, and how to reproduce it, in words: the descriptive sections of the HTML report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from nas.console import format_duration
from nas.errors import UserError
from nas.study.analysis.importance import shown
from nas.study.analysis.results import StudyResults
from nas.study.config import SAMPLERS, StudyConfig
from nas.study.files import find, packaged
from nas.study.space.choices import LEVELS, RULES, members
from nas.study.space.space_file import read_space
from nas.study.space.stored_space import space_text
from nas.study.storage.trial_queue import DONE


@dataclass(frozen=True)
class ChoiceDescription:
    """One choice of a search space: its name, meaning and values."""

    name: str
    meaning: str
    values: str


def describe_choices(results: StudyResults) -> list[ChoiceDescription]:
    """The choices of a study's space."""
    return [
        ChoiceDescription(name, _meaning(name), _values(distribution))
        for name, distribution in results.experiment.space.choices.items()
    ]


def _meaning(name: str) -> str:
    if name in RULES:
        return RULES[name].meaning.replace("`", "")
    if name in LEVELS:
        return f"block at level {name.removeprefix('level_')}; level 1 has the highest resolution"
    return "block at the neck" if name == "neck" else "option of the blocks that support it"


def _values(distribution: BaseDistribution) -> str:
    values = members(distribution)
    if values is None:
        return f"{getattr(distribution, 'low', 0):g} to {getattr(distribution, 'high', 0):g}"
    return ", ".join(shown(value) for value in values)


def describe_method(results: StudyResults) -> list[tuple[str, str]]:
    """How a study was searched, as (topic, description)."""
    experiment, config = results.experiment, results.experiment.config
    schedule, people, size = config.short_schedule(), experiment.summary, config.data.input_size
    source = "synthetic people" if config.data.file is None else f"people of {Path(config.data.file).name}"
    splits = ", ".join(f"{count:,} {split}" for split, count in people.counts.items())
    reference = config.reference
    return [
        ("data", f"{source} at {size}×{size} ({splits}; {experiment.joints} joints)"),
        (
            "training",
            f"each network on {schedule.images:,} images in {schedule.epochs} epochs of batch size {schedule.batch}, "
            f"fully annealed ({schedule.optimizer}, learning rate {schedule.learning_rate:g}, "
            f"{schedule.loss.replace('_', ' ')} loss, {schedule.decoder} decoder); evaluated by PCKh@0.5 on the "
            "hold-out split",
        ),
        ("sampler", f"{config.sampler.name}: {SAMPLERS[config.sampler.name]}; seed {config.seed}"),
        ("early stopping", _early_stopping(results)),
        ("budget", _budget(config)),
        (
            "hypervolume",
            "fraction dominated by the front of the box spanned by PCKh from 0 to 100%, log params from "
            f"{reference.params[0]:,} to {reference.params[1]:,} and log MAdds from {reference.madds[0]:,} to "
            f"{reference.madds[1]:,}",
        ),
        *_time(results),
        *_environment(results),
    ]


def _early_stopping(results: StudyResults) -> str:
    config = results.experiment.config
    return (
        f"checked after epochs {', '.join(map(str, config.rung_epochs()))}, once {config.stopping.least:,} networks "
        f"have finished: a trial is stopped if its PCKh, plus the {100 * config.stopping.quantile:.0f}% quantile of "
        "the gains of finished trials from that epoch to the end, does not exceed that of a finished network with at "
        f"most its costs; {results.counts.pruned} of {results.counts.done} trials were stopped early or rejected"
    )


def _budget(config: StudyConfig) -> str:
    limits = {key: value for key, value in config.budget.model_dump().items() if value is not None}
    return ", ".join(f"at most {value:,} {key.removeprefix('max_')}" for key, value in limits.items()) or "none"


def _time(results: StudyResults) -> Iterator[tuple[str, str]]:
    """Start, end and summed training time of the ended trials; nothing where no trial has both times."""
    ended = [trial for trial in results.trials.values() if trial.state in DONE]
    spans = [(t.datetime_start, t.datetime_complete) for t in ended if t.datetime_start and t.datetime_complete]
    workers = {(owner["host"], owner["pid"]) for t in ended if (owner := t.user_attrs.get("owner"))}
    if not spans:
        return
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    seconds = sum((end - start).total_seconds() for start, end in spans)
    yield (
        "time",
        f"{first:%d %B %Y %H:%M} to {last:%d %B %Y %H:%M}; {format_duration(seconds)} of training in "
        f"{len(workers) or 'an unknown number of'} worker process{'es' if len(workers) != 1 else ''}",
    )


def _environment(results: StudyResults) -> Iterator[tuple[str, str]]:
    """Machine, package versions and commit, as recorded when the study was created."""
    record = results.study.user_attrs.get("record", {})
    packages = ", ".join(f"{name} {version}" for name, version in record.get("packages", {}).items())
    yield "machine", f"{record.get('device', 'unknown')}, Python {record.get('python', 'unknown')}"
    yield "versions", packages or "unknown"
    yield "commit", str(record.get("commit", "unknown"))


@dataclass(frozen=True)
class Reproduction:
    """How to run a study again.

    Attributes:
        commands: of a shell, one per line.
        toml: content of the study file.
        caveats: what else is needed, in sentences.
        space: content of the space file; empty if the space comes with the package.
    """

    commands: str
    toml: str
    caveats: str
    space: str


def describe_reproduction(results: StudyResults) -> Reproduction:
    """The commands and files that run a study again."""
    config = results.experiment.config
    commit = str(results.study.user_attrs.get("record", {}).get("commit", "unknown"))
    revision = commit.removesuffix("-dirty")
    commands = [f"git checkout {revision}"] if revision != "unknown" else []
    commands.append("pip install -c constraints.txt -e .")
    commands.append(f"python -m nas.search --study {config.name}.toml --trials {results.counts.done}")
    caveats = []
    if commit.endswith("-dirty"):
        caveats.append("The working tree had uncommitted changes when this study was created.")
    if config.data.file is not None:
        checksum = results.experiment.summary.checksum[:16]
        caveats.append(f"The data file is {config.data.file}, checksum {checksum}.")
    return Reproduction("\n".join(commands), to_toml(config), " ".join(caveats), _custom_space(results))


def _custom_space(results: StudyResults) -> str:
    """The text of a space file that does not come with the package; empty for those that do.

    The study's own space, as it is stored: the file may have been edited for another study since.
    """
    space = results.experiment.space
    try:
        path = find(results.experiment.config.space, "search_spaces")
        packaged_file = path.resolve().is_relative_to(packaged("search_spaces"))
        if packaged_file and read_space(path).hash == space.hash:
            return ""
    except UserError:
        pass  # moved or removed since
    return space_text(space)


def to_toml(config: StudyConfig) -> str:
    """A study as the text of its file."""
    plain = config.model_dump(mode="json", exclude_none=True)
    values = {key: value for key, value in plain.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in plain.items() if isinstance(value, dict) and value}
    parts = ["\n".join(f"{key} = {_toml(value)}" for key, value in values.items())]
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
    return json.dumps(value, ensure_ascii=False)  # strings, booleans and integers are the same in JSON and TOML
