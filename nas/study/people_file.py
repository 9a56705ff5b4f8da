"""The packed file of a study: the user's, or one of synthetic people."""

from __future__ import annotations

import fcntl
import hashlib
import json
from pathlib import Path

from nas.console import default_workers, progress
from nas.data.packed.options import PackOptions
from nas.data.packed.summary import describe_packed
from nas.data.packed.synthetic import pack_synthetic
from nas.data.synthetic.scene import RENDERING_VERSION, SceneConfig
from nas.errors import UserError
from nas.study.config import StudyConfig


def people_file(config: StudyConfig, folder: Path) -> Path:
    """The packed file that a study names, or the one of its synthetic people, which all studies share."""
    if config.data.file is not None:
        return Path(config.data.file)
    about = config.data.synthetic.model_dump() | {"box": config.data.input_size, "code": RENDERING_VERSION}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    return folder.parent / "data" / f"synthetic-{config.data.input_size}-{key}.h5"


def find_people(config: StudyConfig, folder: Path, checksum: str) -> Path:
    """The packed file of a study, where it was or where it has been moved to together with the study's folder.

    Args:
        config: of the study.
        folder: of the study.
        checksum: of the people that the study was begun with; other people are not taken.

    Raises:
        UserError: it is not there, or holds other people.
    """
    file = people_file(config, folder)
    if config.data.file is None:
        make_synthetic_people(config, file)
    places = [file]
    if not file.is_file():
        around = [folder, *folder.parents] if folder.is_absolute() else [folder, *folder.parents, *Path.cwd().parents]
        ends = [Path(*file.parts[start:]) for start in range(1, len(file.parts))]
        places = [place for above in around[:6] for end in ends if (place := above / end).is_file()]
    for place in places:
        if place.is_file() and describe_packed(place).checksum == checksum:
            return place
    wrong = "holds other people than those that the study was begun with" if file.is_file() else "no such file"
    raise UserError(f"{file}: {wrong}; say where the people of study {config.name} are with --data PATH")


def make_synthetic_people(config: StudyConfig, file: Path) -> None:
    """Render and pack the synthetic people of a study, unless the file exists.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = open(file.with_suffix(".lock"), "ab")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--runs {file.parent.parent}: cannot be written: {error.strerror}; choose another") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two studies that start together render them once
        if file.is_file():
            return
        people = config.data.synthetic
        counts = {"train": people.people, "holdout": people.holdout, "valid": people.valid}
        with progress("rendering people", sum(counts.values())) as advance:
            pack_synthetic(
                file,
                counts,
                people.seed,
                SceneConfig(),
                PackOptions(config.data.input_size, default_workers()),
                on_progress=advance,
            )
