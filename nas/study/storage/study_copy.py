"""Copies of studies in other databases, with the notes of their trials.

Optuna-dashboard keeps notes with the study, under the ids that its trials have in their database, and notes name images
by these ids. ``optuna.copy_study`` copies both as they are, so that a copy shows notes of other trials, or none.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.study.storage.locks import database_lock
from nas.study.storage.study_store import StudyStore

CHUNK = 2045
"""Characters of a note in one attribute, as optuna-dashboard cuts them."""
OWN_ATTRS = ("id", "checkpoints", "checkpoint_folder")
"""User attributes that hold for one database only."""
_NOTE = re.compile(r"dashboard:(?:(\d+):)?note_(?:ver$|str:\d+$)")
_IMAGE = re.compile(r"/artifacts/(\d+)/(\d+)/([0-9a-f-]{36})")
_PAGE = re.compile(r"/dashboard/studies/(\d+)(?=/)")


def copy_studies(studies: Sequence[Study], storage: RDBStorage) -> list[Study]:
    """Copy studies into another database: trials, attributes, panels, and notes that name what they did before.

    Args:
        studies: of one database; links between their notes are kept.
        storage: that holds none of their names.
    """
    copies = []
    with database_lock(storage.engine):
        for study in studies:
            copy = optuna.create_study(storage=storage, study_name=study.study_name, directions=study.directions)
            for key, value in study.user_attrs.items():
                if key not in OWN_ATTRS:
                    copy.set_user_attr(key, value)
            if "id" in study.user_attrs:
                copy.set_user_attr("id", uuid.uuid4().hex)
            for key, value in _system_attrs(study).items():
                if not _NOTE.match(key):
                    storage.set_study_system_attr(copy._study_id, key, value)
            for trial in _all_trials(study):
                storage.create_new_trial(copy._study_id, template_trial=trial)
            copies.append(copy)
        pages = {study._study_id: copy._study_id for study, copy in zip(studies, copies, strict=True)}
        for study, copy in zip(studies, copies, strict=True):
            notes, new = _notes(study), [trial._trial_id for trial in _all_trials(copy)]
            ids = {trial._trial_id: new[trial.number] for trial in _all_trials(study)}
            for old, text in notes.items():
                if old is None or old in ids:
                    _save(copy, None if old is None else ids[old], _renamed(text, pages, ids))
    return copies


def repair_notes(study: Study) -> bool:
    """Put the notes of a study that ``optuna.copy_study`` has copied under the ids that its trials have here.

    Images tell which note is whose; a note without images is placed by its neighbours, or dropped.

    Returns:
        whether there was something to repair.
    """
    trials, notes = _all_trials(study), _notes(study)
    owners = {
        key.removeprefix("artifacts:"): trial
        for trial in trials
        for key in trial.system_attrs
        if key[:10] == "artifacts:"
    }
    known: dict[int, FrozenTrial] = {}  # by the id that a note was written for
    studies = set()
    for old, text in notes.items():
        for study_id, trial_id, image in _IMAGE.findall(text):
            if old is not None and image in owners:
                known[old] = owners[image]
                studies.add(int(study_id))
                if int(trial_id) != old:
                    return False  # written by somebody else
    if all(old == trial._trial_id for old, trial in known.items()) and studies <= {study._study_id}:
        return False
    own = {old: trial.number for old, trial in known.items()}
    numbers = {old: _number_of(old, own) for old in notes if old is not None}
    ids = {old: trials[n]._trial_id for old, n in numbers.items() if n is not None and 0 <= n < len(trials)}
    pages = dict.fromkeys(studies, study._study_id)
    placed = {new: _renamed(notes[old], pages, ids) for old, new in ids.items()}
    for trial in trials:
        if trial._trial_id in placed or trial._trial_id in notes:
            _save(study, trial._trial_id, placed.get(trial._trial_id, ""))
    return True


def _number_of(old: int, known: Mapping[int, int]) -> int | None:
    """The number of the trial that had an id, from the numbers of other ids; trials are numbered in their order."""
    if old in known:
        return known[old]
    below = max((other for other in known if other < old), default=None)
    above = min((other for other in known if other > old), default=None)
    if below is not None and above is not None and above - below != known[above] - known[below]:
        return None  # trials of other studies lie between
    near = below if below is not None else above
    return None if near is None else known[near] + old - near


def _all_trials(study: Study) -> list[FrozenTrial]:
    return StudyStore(study).database.get_all_trials(study._study_id, deepcopy=False)


def _system_attrs(study: Study) -> dict[str, Any]:
    attrs: dict[str, Any] = StudyStore(study).database.get_study_system_attrs(study._study_id)
    return attrs


def _notes(study: Study) -> dict[int | None, str]:
    """The notes of a study by trial id, the study's own under None."""
    attrs, notes = _system_attrs(study), dict[int | None, str]()
    for key in attrs:
        found = _NOTE.match(key)
        if found and key.endswith("note_ver"):
            prefix = key.removesuffix("ver") + "str:"
            parts = sorted((k for k in attrs if k.startswith(prefix)), key=lambda k: int(k.removeprefix(prefix)))
            notes[int(found[1]) if found[1] else None] = "".join(str(attrs[part]) for part in parts)
    return notes


def _renamed(text: str, pages: Mapping[int, int], ids: Mapping[int, int]) -> str:
    """A note with the ids of studies and trials in its links replaced."""

    def image(found: re.Match[str]) -> str:
        study, trial = int(found[1]), int(found[2])
        return f"/artifacts/{pages.get(study, study)}/{ids.get(trial, trial)}/{found[3]}"

    text = _IMAGE.sub(image, text)
    return _PAGE.sub(lambda found: f"/dashboard/studies/{pages.get(int(found[1]), int(found[1]))}", text)


def _save(study: Study, trial_id: int | None, text: str) -> None:
    """Write a note as optuna-dashboard does, also of a finished trial."""
    storage, attrs = StudyStore(study).database, _system_attrs(study)
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    storage.set_study_system_attr(study._study_id, f"{prefix}note_ver", int(attrs.get(f"{prefix}note_ver", 0)) + 1)
    parts = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    old = sum(key.startswith(f"{prefix}note_str:") for key in attrs)
    for number, part in enumerate([*parts, *[""] * (old - len(parts))]):
        storage.set_study_system_attr(study._study_id, f"{prefix}note_str:{number}", part)


def artifact_ids(study: Study) -> list[str]:
    """The ids of all images and files that a study's trials have on the dashboard."""
    return [key[10:] for trial in _all_trials(study) for key in trial.system_attrs if key[:10] == "artifacts:"]
