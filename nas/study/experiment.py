"""A study made ready to run: its file, its space, its people, its storage, checked against each other."""

from __future__ import annotations

import random
import shlex
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from optuna import get_all_study_names
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.architecture.cost import Cost, network_cost
from nas.architecture.hourglass import build_network
from nas.consent import allow_code, allowed_code
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import PackedSummary, describe_packed, scored_people
from nas.errors import UserError
from nas.study.config import OBJECTIVES, DataSettings, StudyConfig, check_same, identity_hash
from nas.study.files import no_study
from nas.study.optimization.early_stopping import Finished
from nas.study.optimization.optuna_samplers import make_sampler
from nas.study.optimization.problem import NoCandidateLeftError, Problem, evaluated_ids, sample_any_unseen
from nas.study.pareto import HypervolumeScale, Point
from nas.study.people_file import find_people, make_synthetic_people, people_file
from nas.study.provenance import record
from nas.study.space.candidate import Candidate
from nas.study.space.published import named
from nas.study.space.search_space import SearchSpace
from nas.study.space.stored_space import space_of_identity
from nas.study.storage.backend import (
    check_name,
    check_ours,
    create_study,
    database_file,
    database_url,
    default_url,
    is_companion,
    load_study,
    open_read_only,
    open_storage,
)
from nas.study.storage.engine import mask_password
from nas.study.storage.locks import database_lock
from nas.study.storage.study_store import StudyStore
from nas.study.storage.tolerant_study import TolerantStudy, check_attributes
from nas.study.storage.trial_queue import DONE
from nas.study.stored_settings import (
    check_fixed,
    checkpoint_folder_of,
    keep_checkpoints,
    own_checkpoint_folder,
    store_changes,
    stored_config,
    summary_from_dict,
    summary_to_dict,
)
from nas.study.understood_trials import note_left_out, understood
from nas.training.checkpoint import AnyPath
from nas.training.devices import training_dtype
from nas.training.host_prefetch import place_people
from nas.training.memory_estimate import estimate_memory
from nas.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class Experiment:
    """A study, its space and its people.

    Attributes:
        config: the study file, with what flags changed.
        space: the choices.
        summary: of the packed file: skeleton, people per split, checksum.
        folder: where everything of this study is kept.
        url: of the storage.
        checkpoints: folder or URL where unfinished trials are to be kept, if not where the study says.
        kind: of a companion study: "repeats" or "calibration"; None for a study of its own.
    """

    config: StudyConfig
    space: SearchSpace
    summary: PackedSummary
    folder: Path
    url: str = field(repr=False)  # may hold a password
    checkpoints: str | None = None
    kind: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker puts its own together: caches and locks do not travel between processes.
        parts = (self.config, self.folder.parent, self.url, self.checkpoints, self.kind)
        return _prepare_in_worker, (allowed_code(), *parts)

    @property
    def joints(self) -> int:
        """J."""
        return len(self.summary.skeleton.joints)

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.config.data.input_size,) * 2

    @property
    def scale(self) -> HypervolumeScale:
        """Of the hypervolume."""
        return HypervolumeScale(self.config.reference.params, self.config.reference.madds)

    @cached_property
    def problem(self) -> Problem:
        """What samplers know before any training."""

        @lru_cache(maxsize=100_000)
        def from_items(items: tuple[tuple[str, Any], ...]) -> Candidate:
            return self.space.candidate(dict(items), self.config.width_scale)

        return Problem(
            space=self.space,
            candidate=lambda point: from_items(tuple((name, point[name]) for name in self.space.choices)),
            cost=lru_cache(maxsize=100_000)(self.cost),
            within=self.within_budget,
            scale=self.scale,
        )

    def cost(self, candidate: Candidate) -> Cost:
        """Exact costs at the study's input size and number of joints."""
        return network_cost(candidate.architecture, self.joints, self.input_size)

    def sample(self, networks: int = 300) -> list[Candidate]:
        """Random networks of the space within budget, the fewest MAdds first; of so many draws, always the same."""
        return sorted(self.draw(networks), key=lambda candidate: self.problem.cost(candidate).madds)

    def draw(self, networks: int = 300) -> Iterator[Candidate]:
        """Yield random networks of the space within budget; of so many draws, always the same."""
        rng = random.Random(0)
        for _ in range(networks):
            with suppress(ValueError):  # values that cannot be built together
                candidate = self.problem.candidate(self.space.random(rng))
                if self.within_budget(self.problem.cost(candidate)):
                    yield candidate

    def within_budget(self, cost: Cost) -> bool:
        """Whether a cost may be trained."""
        budget = self.config.budget
        limits = (
            (cost.params, budget.max_params),
            (cost.madds, budget.max_madds),
            (cost.layers, budget.max_layers),
        )
        return all(most is None or value <= most for value, most in limits)

    @property
    def has_budget(self) -> bool:
        """Whether the study limits what networks may cost."""
        budget = self.config.budget
        return any((budget.max_params, budget.max_madds, budget.max_layers))

    @property
    def masked_url(self) -> str:
        """The URL of the storage, without its password."""
        return mask_password(self.url)

    @property
    def location_flags(self) -> str:
        """Flags that another command needs to find and read this study; with a leading space where there are any."""
        flags = "" if self.folder.parent == Path("runs") else f" --runs {shlex.quote(str(self.folder.parent))}"
        if self.url != default_url(self.folder):
            flags += f" --storage {shlex.quote(self.masked_url)}"
        return flags + "".join(f" --allow-code {shlex.quote(kind)}" for kind in self.space.blocks_of_ones_own)

    def candidate_of(self, trial: FrozenTrial) -> Candidate:
        """What a trial tried."""
        stored = trial.user_attrs.get("candidate")
        return Candidate.from_dict(stored) if stored else self.problem.candidate(trial.params)

    def schedule_of(self, trial: FrozenTrial) -> ScheduleConfig:
        """What a trial trains: the short schedule, or one of several times its length."""
        schedule = self.config.short_schedule()
        return replace(schedule, images=schedule.images * int(trial.user_attrs.get("times", 1)))

    def beside(self, kind: str) -> Experiment:
        """A companion in the same storage: the same people, space and schedule, trials of its own."""
        # What it holds was chosen already: latency, which is noisy, does not choose again.
        budget = self.config.budget.model_copy(update={"max_latency_ms": None})
        config = self.config.model_copy(
            update={"name": f"{self.config.name}-{kind}", "baselines": (), "budget": budget}
        )
        return replace(self, config=config, folder=self.folder.with_name(config.name), kind=kind)

    def store_changes(self, study: Study) -> list[str]:
        """Store what the study file says otherwise than before, for all later commands; returns each as text."""
        with StudyStore(study).lock():
            return store_changes(study, self.config)

    def check_companion(self, study: Study, kind: str) -> None:
        """Raise UserError if another study has the name of a companion."""
        other = StudyStore(study).companion(f"{self.config.name}-{kind}")
        if other is not None:
            check_ours(other, kind)

    def companion(self, study: Study, kind: str) -> TolerantStudy | None:
        """A companion study of the same storage, such as the full trainings; None before it was begun."""
        other = StudyStore(study).companion(f"{self.config.name}-{kind}")
        if other is None or not is_companion(other, kind):
            return None
        other = understood(self, other, kind)
        note_left_out(other)
        return other

    def network_of(self, trial: FrozenTrial) -> str:
        """A trial's network in words."""
        return trial.user_attrs.get("network") or str(self.candidate_of(trial))

    def title_of(self, trial: FrozenTrial) -> str:
        """A trial's network in words, with its name if it is a published one."""
        name = trial.user_attrs.get("published")
        return f"{name}: {self.network_of(trial)}" if name else self.network_of(trial)

    def published(self, name: str) -> Candidate:
        """A published network at the study's width scale.

        Raises:
            UserError: there is none of that name, or it cannot be built at this study's input size.
        """
        candidate = named(name).candidate
        scaled = Candidate(candidate.architecture.scaled(self.config.width_scale), candidate.losses)
        try:
            self.cost(scaled)
        except ValueError as error:
            raise UserError(f"published network {name}: cannot be built for this study: {error}") from error
        return scaled

    def queue_baselines(self, study: Study) -> None:
        """Enqueue the baselines that were not tried yet. Call inside the lock of the storage."""
        trials = study.get_trials(deepcopy=False)
        marked = {t.user_attrs.get("published") for t in trials if t.state != TrialState.FAIL}
        if marked.issuperset(self.config.baselines):
            return
        seen = evaluated_ids(study, self.problem)
        for name in self.config.baselines:
            candidate = self.published(name)
            if name in marked or candidate.id in seen:
                continue
            # With the space's parameters where it holds the network: then samplers and the dashboard learn from it.
            point = self.space.point_of(named(name).candidate) or {}
            study.enqueue_trial(point, user_attrs={"given": True, "published": name, "candidate": candidate.to_dict()})
            seen.add(candidate.id)

    def sampler(self) -> BaseSampler:
        """The study's sampler."""
        settings = self.config.sampler
        return make_sampler(settings.name, self.problem, self.config.seed, settings.startup, settings.pool)

    def check_still_there(self, study: Study) -> None:
        """Check that a study that is in use is still in its storage, under its name.

        Raises:
            UserError: it was deleted or renamed meanwhile.
        """
        name = self.config.name
        try:
            stored = study.study_name
        except KeyError as error:
            raise self._missing_study() from error
        if stored != name:
            raise UserError(
                f"study {name}: was renamed to {stored} while it was in use; "
                f"go on with --name {shlex.quote(stored)}, or give it its name back"
            )

    def _missing_study(self) -> UserError:
        return UserError(
            f"study {self.config.name}: was deleted or renamed in {self.masked_url} while it was in use; "
            "the same command begins it anew"
        )

    def open_existing(self, sampler: BaseSampler | None = None) -> TolerantStudy:
        """Go on with the study, which must be in its storage: one that was deleted meanwhile is not made again.

        Raises:
            UserError: it is not there.
        """
        if self.config.name not in get_all_study_names(open_storage(self.url)):
            raise self._missing_study()
        return self.open_study(sampler)

    def open_study(self, sampler: BaseSampler | None = None) -> TolerantStudy:
        """Create the study in its storage, or go on with it. Its lists leave out trials that are not understood.

        Raises:
            UserError: the storage cannot be opened, or it holds this study under other settings.
        """
        if self.url == default_url(self.folder):
            _make(self.folder)  # before the database in it, whose error would name another flag
        storage = open_storage(self.url)
        if self.kind is None:
            check_name(storage, self.config.name)
        _make(self.folder)
        identity = self.config.identity(self.space, self.summary.checksum)
        with database_lock(storage.engine):
            study = understood(self, create_study(storage, self.config.name, OBJECTIVES, sampler, self.kind), self.kind)
            stored = study.user_attrs.get("identity")
            if stored is None:
                study.set_user_attr("identity", identity)
                study.set_user_attr("identity_hash", identity_hash(identity))
                study.set_user_attr("space", {"path": str(self.space.path), "hash": self.space.hash})
                study.set_user_attr("config", self.config.model_dump(mode="json"))
                study.set_user_attr("record", record())
                study.set_user_attr("id", uuid.uuid4().hex)
                study.set_user_attr("people", summary_to_dict(self.summary))
            else:
                check_same(self.config.name, stored, identity)
                check_fixed(study, self.config)
                if "people" not in study.user_attrs:  # begun by a version that did not store them
                    study.set_user_attr("people", summary_to_dict(self.summary))
            if self.checkpoints is not None:
                keep_checkpoints(study, self.checkpoints)
            own_checkpoint_folder(study, self.config.name, self.url)
            self.queue_baselines(study)
        return study

    def checkpoints_of(self, study: Study) -> AnyPath:
        """Where unfinished trials of a study are kept: the same place for all machines, if the study names one."""
        return checkpoint_folder_of(study, self.config.name) or self.folder / "checkpoints"

    def artifacts_of(self, study: Study) -> Path:
        """Where images of all studies of a storage are kept: a dashboard serves one storage from one folder.

        Beside an SQLite database. With a server, in the folder that all machines reach, if the study names one (and
        no URL), else among the runs.
        """
        file = database_file(self.url)
        if file is not None:
            return file.parent / "artifacts"
        named = study.user_attrs.get("checkpoints")
        return (Path(named) if named and "://" not in named else self.folder.parent) / "artifacts"

    def artifact_folders(self, study: Study) -> list[Path]:
        """Where images may be: where they are kept, and where other databases of these studies kept them."""
        runs = self.folder.parent
        return list(dict.fromkeys([self.artifacts_of(study), self.folder / "artifacts", runs / "artifacts"]))

    def load_people(self, split: str | tuple[str, ...], device: str) -> PackedPeople:
        """People of some splits, on the device; crops to train on stay on the host where a GPU has no room for them."""
        file = find_people(self.config, self.folder, self.summary.checksum)
        if device == "cpu" or "train" not in split:
            return PackedPeople.load(file, split, device)
        return place_people(
            PackedPeople.load(file, split), torch.device(device), self.training_bytes(torch.device(device))
        )

    def training_bytes(self, device: torch.device) -> int:
        """Bytes that training takes at most, predicted: of the baselines and the costliest of a sample of networks."""
        schedule, size = self.config.short_schedule(), self.config.data.input_size
        candidates = [*(self.published(name) for name in self.config.baselines), *self.sample()[-1:]]
        networks = ((build_network(each.architecture, self.joints, self.input_size), each) for each in candidates)
        return max(
            estimate_memory(network, each.losses, schedule, size, self.joints, training_dtype(device)).peak(
                schedule.batch
            )
            for network, each in networks
        )


def prepare(config: StudyConfig, runs: Path, storage: str | None = None, checkpoints: str | None = None) -> Experiment:
    """Read the space, find or make the people, and put a study's parts together.

    Args:
        config: the study.
        runs: folder of all studies.
        storage: database URL; by default SQLite in the study's folder.
        checkpoints: folder or URL for unfinished trials that all workers reach; by default the study's folder.

    Raises:
        UserError: a file is missing or wrong, the folder cannot be written, or the parts do not fit together.
    """
    if storage is not None:
        database_url(storage)  # before people are drawn
    space = config.search_space()
    folder = runs / config.name
    file = people_file(config, folder)
    if config.data.file is None:
        make_synthetic_people(config, file)
    summary = describe_packed(file)
    for split in ("train", "holdout"):
        if not summary.counts.get(split):
            raise UserError(f"{file}: no {split} people; make it again with `python -m nas.prepare`")
    check_scored(file, "holdout")
    experiment = Experiment(config, space, summary, folder, storage or default_url(folder), checkpoints)
    for name in config.baselines:
        experiment.published(name)
    _check_affordable(experiment)
    return experiment


def check_scored(file: Path, split: str) -> None:
    """Raise UserError if nobody of a split has a labelled joint that counts: every PCKh would be no number."""
    if not scored_people(file)[split]:
        raise UserError(
            f"{file}: no joint that counts is labelled among its {split} people, so that there is no PCKh; "
            "see `python -m nas.prepare check`"
        )


def _prepare_in_worker(
    allowed: tuple[str, ...], config: StudyConfig, runs: Path, storage: str, checkpoints: str | None, kind: str | None
) -> Experiment:
    """Put a study's parts together in a worker process, which may import what its parent may."""
    allow_code(allowed)
    return replace(prepare(config, runs, storage, checkpoints), kind=kind)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--runs {folder.parent}: folder cannot be made: {error.strerror}; choose a writable one"
        ) from error


def load(
    name: str, runs: Path, storage: str | None = None, data: Path | None = None
) -> tuple[Experiment, TolerantStudy]:
    """A study that has been searched before, with the settings, the space and the people that it stores.

    None of the files that it was begun with is read, unless it was begun by a version that stored no people.

    Args:
        name: of the study.
        runs: folder of all studies.
        storage: database URL; by default SQLite in the study's folder.
        data: packed file of its people, if it is not where it was.

    Raises:
        UserError: no such study in the storage, or it cannot be understood.
    """
    url = storage or default_url(runs / name)
    opened = stored_study(name, runs, storage)
    config = stored_config(opened)
    if data is not None:
        file = DataSettings.model_copy(config.data, update={"file": str(data.resolve())})
        config = config.model_copy(update={"data": file})
    identity = opened.user_attrs["identity"]
    space = space_of_identity(identity, Path(config.space))
    people = summary_from_dict(opened.user_attrs.get("people"))
    if people is None or data is not None or people.checksum != identity.get("data.checksum"):
        people = describe_packed(find_people(config, runs / name, str(identity.get("data.checksum"))))
    experiment = Experiment(config, space, people, runs / name, url, kind=opened.user_attrs.get("companion"))
    check_same(name, identity, config.identity(space, people.checksum))
    study = understood(experiment, opened, experiment.kind)
    note_left_out(study)
    return experiment, study


def stored_study(name: str, runs: Path, storage: str | None = None) -> TolerantStudy:
    """A study that has been begun before, without its people.

    Its lists leave out trials with attributes of other types.

    Raises:
        UserError: no such study in the storage.
    """
    url = storage or default_url(runs / name)
    file = database_file(url)
    if file is not None and not file.is_file():
        raise no_study(name, file)
    return TolerantStudy(load_study(open_read_only(url), name), check_attributes)


def _check_affordable(experiment: Experiment) -> None:
    """Raise UserError if no network of the space is within the budget, or can be built at this input size at all."""
    problem, config = experiment.problem, experiment.config
    with suppress(NoCandidateLeftError):
        sample_any_unseen(problem, set(), random.Random(0))
        return
    smallest = problem.affordable.smallest
    if smallest is None:
        why = f": {problem.affordable.problem}" if problem.affordable.problem else ""
        raise UserError(
            f"data.input_size {config.data.input_size}: no network of {experiment.space.path} can be built for it{why}"
            "; use a multiple of 64, or a space with smaller depths"
        )
    budget = config.budget
    limits = [
        (name, limit, least)
        for name, limit, least in (
            ("max_params", budget.max_params, smallest.params),
            ("max_madds", budget.max_madds, smallest.madds),
            ("max_layers", budget.max_layers, smallest.layers),
        )
        if limit is not None
    ]
    too_low = [each for each in limits if each[1] < each[2]] or limits
    shown = ", ".join(f"{name} is {limit:,} (the least of any network {least:,})" for name, limit, least in too_low)
    raise UserError(
        f"budget: no network of {experiment.space.path} is within it: {shown}; raise --max-params, --max-madds or "
        "--max-layers"
    )


def point_of(trial: FrozenTrial) -> Point:
    """What a finished trial has reached, and at which costs."""
    return Point(trial.number, trial.values[0], int(trial.values[1]), int(trial.values[2]))


def points_of(study: Study) -> list[Point]:
    """The finished trials of a study."""
    return [point_of(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]


def images_of(study: Study) -> int:
    """Images that a study's ended trials were trained on; those of a requeued trial are counted once."""
    return sum(int(t.user_attrs.get("images", 0)) for t in study.get_trials(deepcopy=False, states=DONE))


def finished_of(study: Study) -> list[Finished]:
    """The finished trials with their values at the rungs."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        Finished(
            t.number,
            t.values[0],
            int(t.values[1]),
            int(t.values[2]),
            {int(epoch): value for epoch, value in t.user_attrs.get("rungs", {}).items()},
        )
        for t in trials
    ]
