"""What a study stores about itself when it is begun, and what later commands may change of it."""

from __future__ import annotations

import json
import socket
import uuid
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState
from pydantic import ValidationError
from upath import UPath

from nas.data.packed.summary import PackedSummary
from nas.data.people import SPLITS
from nas.data.skeletons import Skeleton
from nas.errors import UserError
from nas.study.config import StudyConfig, flatten
from nas.study.storage.backend import database_file
from nas.study.storage.engine import mask_password
from nas.study.storage.tolerant_study import shorten
from nas.training.checkpoint import AnyPath

FIXED = ("reference",)
"""Tables that must stay as they are, beside what ``StudyConfig.identity`` holds: trials store hypervolumes."""
OWNER_SUFFIX = ".study.json"
"""Ending of the file beside a folder of checkpoints that says which study the folder belongs to."""


def stored_config(study: Study) -> StudyConfig:
    """The settings that a study was begun with, or last continued with.

    Raises:
        UserError: there are none, or they are not those of a study.
    """
    name, raw = study.study_name, study.user_attrs.get("config")
    if not isinstance(raw, dict) or not isinstance(study.user_attrs.get("identity"), dict):
        held = study.user_attrs.get("companion")
        what = f"it holds the {held} trainings of another study" if held else "not a study of nas.search"
        raise UserError(f"--study {name}: {what}; name a study that nas.search has begun")
    try:
        return StudyConfig.model_validate({**raw, "name": name})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"--study {name}: its stored settings cannot be read: {shorten(where, 40)}: {shorten(problem['msg'])}; "
            "continue it once with nas.search and its study file, which stores them again"
        ) from error


def check_fixed(study: Study, config: StudyConfig) -> None:
    """Refuse settings that differ from the stored ones where they must not.

    Raises:
        UserError: names what changed, from what to what.
    """
    for key, was, now in _changes(study, config):
        if key.split(".")[0] in FIXED:
            raise UserError(
                f"study {study.study_name!r} was begun under other settings: {key} was {was!r}, is {now!r}, and the "
                "hypervolumes of its trials hold for the former; restore it, or begin another with --name"
            )


_PATHS = ("space", "data.file")
"""Settings that name files, whose content is part of a study's identity."""


def store_changes(study: Study, config: StudyConfig) -> list[str]:
    """Store settings that have changed since the study was begun; they hold from now on.

    Returns:
        each change as text: key, from what to what. Files that have only moved are not among them.
    """
    changes = _changes(study, config)
    if study.user_attrs.get("config") != config.model_dump(mode="json"):
        study.set_user_attr("config", config.model_dump(mode="json"))
    return [f"{key} was {was!r}, is {now!r}" for key, was, now in changes if key not in _PATHS]


def _changes(study: Study, config: StudyConfig) -> list[tuple[str, Any, Any]]:
    try:
        stored = flatten(stored_config(study).model_dump(mode="json"))
    except UserError:
        return []
    now = flatten(config.model_dump(mode="json"))
    return [(key, stored.get(key), now.get(key)) for key in now if stored.get(key) != now.get(key)]


def summary_to_dict(summary: PackedSummary) -> dict[str, Any]:
    """What a packed file holds, as plain values: a study is read with it where the file is not at hand."""
    return {
        "skeleton": summary.skeleton_text,
        "box": summary.box,
        "counts": dict(summary.counts),
        "labelled": summary.labelled,
        "source": dict(summary.source),
        "checksum": summary.checksum,
        "jpeg": summary.jpeg,
    }


def summary_from_dict(raw: Any) -> PackedSummary | None:
    """Inverse of :func:`summary_to_dict`; None for anything else, such as what earlier versions did not store."""
    try:
        return PackedSummary(
            skeleton=Skeleton.from_json(raw["skeleton"]),
            box=int(raw["box"]),
            counts={split: int(raw["counts"].get(split, 0)) for split in SPLITS},
            labelled=int(raw["labelled"]),
            source={str(key): str(value) for key, value in raw["source"].items()},
            checksum=str(raw["checksum"]),
            jpeg=None if raw["jpeg"] is None else int(raw["jpeg"]),
            skeleton_text=str(raw["skeleton"]),
        )
    except (ValueError, TypeError, LookupError, AttributeError, UserError):
        return None


def keep_checkpoints(study: Study, folder: str) -> None:
    """Store where a study's unfinished trials are kept. Not while one runs: its worker would not be told.

    Raises:
        UserError: trials are running.
    """
    stored = study.user_attrs.get("checkpoints")
    if stored == folder:
        return
    if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        where = mask_password(stored) if stored else "the study's folder"  # versions before 0.8 stored passwords
        raise UserError(
            f"--checkpoints {folder}: trials are running whose checkpoints are kept in {where}; leave the flag out, or "
            "wait until they have ended"
        )
    study.set_user_attr("checkpoints", folder)


def checkpoint_folder_of(study: Study, name: str) -> AnyPath | None:
    """The folder of a study below the one that all its machines reach; None where it names none."""
    named = study.user_attrs.get("checkpoints")
    return UPath(named) / str(study.user_attrs.get("checkpoint_folder", name)) if named else None


def own_checkpoint_folder(study: Study, name: str, url: str) -> None:
    """Make sure that a study's checkpoints have a folder of their own, whatever other databases keep beside it.

    A file beside the folder holds the id of the study that it belongs to. If it is another's, or that of a database
    that this one is a copy of, this study takes another folder, whose name ends with its id. Call inside the lock.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = checkpoint_folder_of(study, name)
    if folder is None:
        return
    place = _place(url)
    try:
        owner = _owner(folder)
        if owner is not None and (owner["id"] != study.user_attrs.get("id") or _is_copy(owner, place)):
            study.set_user_attr("id", uuid.uuid4().hex)
            study.set_user_attr("checkpoint_folder", f"{name}-{study.user_attrs['id'][:8]}")
            folder = checkpoint_folder_of(study, name)
            assert folder is not None
        if "id" not in study.user_attrs:
            study.set_user_attr("id", uuid.uuid4().hex)
        if owner is None or owner != {"id": study.user_attrs["id"], **place}:
            folder.mkdir(parents=True, exist_ok=True)
            _owner_file(folder).write_text(json.dumps({"id": study.user_attrs["id"], **place}))
    except OSError as error:
        raise UserError(
            f"--checkpoints {folder}: cannot be written: {error.strerror}; give a folder that all workers can write"
        ) from error


def _owner_file(folder: AnyPath) -> AnyPath:
    return folder.parent / f"{folder.name}{OWNER_SUFFIX}"


def _owner(folder: AnyPath) -> dict[str, str] | None:
    """Which study a folder says that it belongs to; None where it says nothing."""
    try:
        raw = json.loads(_owner_file(folder).read_text())
    except (FileNotFoundError, ValueError):
        return None
    good = isinstance(raw, dict) and all(isinstance(raw.get(key), str) for key in ("id", "host", "database"))
    return raw if good else None


def _place(url: str) -> dict[str, str]:
    """The database of a study, for others to see."""
    file = database_file(url)
    if file is None:
        return {"host": "", "database": mask_password(url)}
    return {"host": socket.gethostname(), "database": str(file.resolve())}


def _is_copy(owner: dict[str, str], place: dict[str, str]) -> bool:
    """Whether the database that a folder belongs to is still there, beside this one."""
    if owner["database"] == place["database"]:
        return False
    return not owner["host"] or (owner["host"] == socket.gethostname() and Path(owner["database"]).is_file())
