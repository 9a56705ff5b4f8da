"""Studies: how a space is searched, read from a TOML file and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nas.data.augmentation import Augmentation
from nas.errors import UserError
from nas.study.files import find, first_problem, read_toml
from nas.study.space.published import named
from nas.study.space.search_space import SearchSpace
from nas.study.space.space_file import read_space
from nas.training.schedule import ScheduleConfig

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Table(BaseModel):
    # Strict: "64" and true are no integers. (Fields that hold tuples say otherwise, as TOML has lists.)
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SyntheticSettings(_Table):
    """Drawn people (:mod:`nas.data.synthetic.scene`), made once and kept under ``.cache/``."""

    people: Positive = 3000
    holdout: Positive = 400
    valid: Positive = 500
    seed: Seed = 0


class DataSettings(_Table):
    """What a study trains on: ``file``, a packed file, or the synthetic people where there is none."""

    input_size: Annotated[int, Field(ge=16, le=1024, multiple_of=4)]
    file: str | None = None
    synthetic: SyntheticSettings = SyntheticSettings()


class ScheduleSettings(_Table):
    """Fields of :class:`nas.training.schedule.Schedule`; what is left out takes its default there."""

    images: Positive
    epochs: Positive | None = None
    batch: Positive | None = None
    optimizer: Literal["adamw", "rmsprop"] | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    anneal: Literal["cosine", "steps"] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    clip: Annotated[float, Field(ge=0)] | None = None
    sigma: Annotated[float, Field(gt=0)] | None = None
    loss: Literal["mse", "cross_entropy"] | None = None
    decoder: Literal["dark", "quarter"] | None = None
    rotate: Annotated[float, Field(ge=0, le=180)] | None = None
    scale: Annotated[float, Field(ge=0, lt=1)] | None = None
    shift: Annotated[float, Field(ge=0, lt=1)] | None = None
    flip: Annotated[float, Field(ge=0, le=1)] | None = None
    colour: Annotated[float, Field(ge=0, lt=1)] | None = None

    def schedule(self) -> ScheduleConfig:
        """The schedule that this table describes. Raises ValueError where its values do not go together."""
        values = self.model_dump(exclude_none=True)
        changes = {name: values.pop(name) for name in Augmentation.__dataclass_fields__ if name in values}
        return ScheduleConfig(augmentation=Augmentation(**changes), **values)


class FullSettings(_Table):
    """The full schedule of ``nas.retrain``: the study's recipe, longer."""

    images: Positive
    epochs: Positive
    batch: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None


class BudgetSettings(_Table):
    """Largest networks to consider; nothing above it is trained. Layers take time however little they multiply.

    ``max_latency_ms`` is of one image on the worker's own device (on a CPU with one thread), measured when a trial
    has begun: unlike the others it cannot keep samplers from proposing what is over, and each such trial counts.
    """

    max_params: Positive | None = None
    max_madds: Positive | None = None
    max_layers: Positive | None = None
    max_latency_ms: Annotated[float, Field(gt=0, strict=False)] | None = None


SamplerName = Literal["front", "tpe", "nsga2", "gp", "random"]
SAMPLERS: Mapping[SamplerName, str] = {
    "front": "a Gaussian process on PCKh proposes what is expected to add most hypervolume, costs being known",
    "tpe": "Optuna's TPE",
    "nsga2": "Optuna's NSGA-II",
    "gp": "Optuna's Gaussian process",
    "random": "at random",
}
"""Every sampler that a study may name, with what the report says about it; ``make_sampler`` makes each."""


class SamplerSettings(_Table):
    """Who proposes. "front" is this project's own (:mod:`nas.study.optimization`); the others are Optuna's."""

    name: SamplerName = "front"
    startup: Positive | None = None  # trials before a model is used
    pool: Positive = 1000


class StoppingSettings(_Table):
    """When a trial ends before its schedule does.

    A trial is looked at after the epochs of ``rungs`` (fractions of the schedule). It goes on while its PCKh, plus the
    ``quantile`` of the gains that finished trials showed from that rung to the end, exceeds that of every finished
    trial that costs no more. ``least`` finished trials are needed first.
    """

    rungs: Annotated[tuple[Fraction, ...], Field(strict=False)] = (0.125, 0.25, 0.5, 0.75)
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.5
    least: Positive = 6

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ValueError("rungs must ascend")
        return rungs


class HypervolumeBounds(_Table):
    """The corner that hypervolume is measured from: PCKh 0 and these costs; and the costs that count as nothing.

    Hypervolume is in units of (PCKh / 100) × log-params × log-MAdds, each cost scaled so that ``least`` is 1 and
    ``most`` is 0: the ideal front has 1.
    """

    params: Annotated[tuple[Positive, Positive], Field(strict=False)]
    madds: Annotated[tuple[Positive, Positive], Field(strict=False)]

    @field_validator("params", "madds")
    @classmethod
    def _least_first(cls, pair: tuple[int, int]) -> tuple[int, int]:
        if pair[0] >= pair[1]:
            raise ValueError("give [least, most], the first below the second")
        return pair


OBJECTIVES = ("pckh", "params", "madds")


class StudyConfig(_Table):
    """One experiment.

    ``baselines`` are published networks, at the study's ``width_scale``, that are trained first, under the same
    schedule as every candidate, so that what is found is compared with them on equal terms. They count as trials.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
    space: str
    baselines: Annotated[tuple[str, ...], Field(strict=False)] = ()
    width_scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    seed: Seed = 0
    data: DataSettings
    schedule: ScheduleSettings
    full: FullSettings
    reference: HypervolumeBounds
    budget: BudgetSettings = BudgetSettings()
    sampler: SamplerSettings = SamplerSettings()
    stopping: StoppingSettings = StoppingSettings()

    @model_validator(mode="before")
    @classmethod
    def _drop_objectives(cls, values: Any) -> Any:
        """Accept the key ``objectives`` of earlier versions, which could have one value only."""
        if not isinstance(values, dict) or "objectives" not in values:
            return values
        if values["objectives"] not in (OBJECTIVES, list(OBJECTIVES)):
            raise ValueError(f"objectives must be {list(OBJECTIVES)}, or left out")
        return {key: value for key, value in values.items() if key != "objectives"}

    @field_validator("baselines")
    @classmethod
    def _published(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                named(name)
            except UserError as error:
                raise ValueError(str(error)) from error
        if len(set(names)) != len(names):
            raise ValueError("a name is given twice")
        return names

    @model_validator(mode="after")
    def _together(self) -> Self:
        self.schedule.schedule()
        try:
            self.full_schedule()
        except ValueError as error:
            raise ValueError(f"full {error}") from error
        return self

    @classmethod
    def read(cls, name: str | Path) -> StudyConfig:
        """Read a study file by path or by its name under studies/.

        Raises:
            UserError: no such file, not TOML, or a key or value that is not allowed: says where.
        """
        path = find(name, "studies")
        raw = read_toml(path)
        beside = path.parent / str(raw.get("space"))
        if beside.is_file():  # a space of one's own lies beside its study, wherever the command is run
            raw["space"] = str(beside.resolve())
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise first_problem(path, error, cls) from error

    def search_space(self) -> SearchSpace:
        """The space that the study names. Raises UserError as reading it does."""
        return read_space(find(self.space, "search_spaces"))

    def short_schedule(self) -> ScheduleConfig:
        """What each trial trains."""
        return self.schedule.schedule()

    def full_schedule(self) -> ScheduleConfig:
        """What ``nas.retrain`` trains: the same recipe, longer."""
        return self.schedule.model_copy(update=self.full.model_dump(exclude_none=True)).schedule()

    def rung_epochs(self) -> tuple[int, ...]:
        """The epochs after which a trial is looked at, the last one not among them."""
        epochs = self.short_schedule().epochs
        return tuple(sorted({max(1, round(rung * epochs)) for rung in self.stopping.rungs} - {epochs}))

    def identity(self, space: SearchSpace, data_checksum: str) -> dict[str, Any]:
        """What must not change while a study goes on, as flat names and plain values."""
        schedule = self.short_schedule().to_dict()
        parts: dict[str, Any] = {
            "space": space.content,
            "schedule": schedule,
            "data": {"checksum": data_checksum, "input_size": self.data.input_size},
            "width_scale": self.width_scale,
            "objectives": list(OBJECTIVES),
            "rungs": list(self.rung_epochs()),
        }
        flat: dict[str, Any] = json.loads(json.dumps(flatten(parts)))
        return flat


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by their dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def identity_hash(identity: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def check_same(name: str, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a study under another space, schedule or data.

    Raises:
        UserError: names what changed, from what to what.
    """
    changed = [key for key in sorted({*stored, *now}) if stored.get(key) != now.get(key)]
    if not changed:
        return
    shown = "; ".join(f"{key} was {stored.get(key, 'absent')!r}, is {now.get(key, 'absent')!r}" for key in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise UserError(
        f"study {name!r} was begun under other settings: {shown}{more}; restore them, or begin another with --name"
    )
