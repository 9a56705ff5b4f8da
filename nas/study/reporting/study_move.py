"""Moving a study into another database: trials, companions, notes and images."""

from __future__ import annotations

import shutil
from dataclasses import replace

import optuna
from optuna.trial import TrialState

from nas.errors import UserError
from nas.study.analysis.results import StudyResults
from nas.study.storage.backend import COMPANIONS, open_storage
from nas.study.storage.engine import mask_password, mask_url
from nas.study.storage.study_copy import artifact_ids, copy_studies, repair_notes
from nas.study.storage.study_store import StudyStore


def copy_study_to(results: StudyResults, url: str) -> list[str]:
    """Copy a study and its companions into another database, and their images where its dashboard looks for them.

    Returns:
        the names of the studies that were copied.

    Raises:
        UserError: the database cannot be written, is the study's own or holds a study of the name; or trials run.
    """
    experiment, study = results.experiment, results.study
    companions = (experiment.companion(study, kind) for kind in COMPANIONS)
    studies: list[optuna.Study] = [study, *(other for other in companions if other is not None)]
    for one in studies:
        if one.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            raise UserError(
                f"--copy-to {mask_password(url)}: trials of study {one.study_name} are running; stop the search, or "
                "requeue what is stale with `python -m nas.workers --reap`, and copy then"
            )
    storage = open_storage(url)
    there = set(optuna.get_all_study_names(storage))
    taken = [one.study_name for one in studies if one.study_name in there]
    if taken:
        raise UserError(
            f"--copy-to {mask_url(storage.engine.url)}: it holds a study {taken[0]!r} already; give another database"
        )
    copies = copy_studies(studies, storage)
    target = replace(experiment, url=url, checkpoints=None)
    folder = target.artifacts_of(copies[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(name for one in studies for name in artifact_ids(one)):
            source = next((f / name for f in experiment.artifact_folders(study) if (f / name).is_file()), None)
            if source is not None and not (folder / name).exists():
                shutil.copyfile(source, folder / name)
    except OSError as error:
        raise UserError(f"{folder}: images cannot be copied: {error.strerror}; copy them there by hand") from error
    return [copy.study_name for copy in copies]


def repair_copied_notes(results: StudyResults) -> None:
    """Put the notes of a study that was copied with Optuna, and of its companions, where the dashboard looks."""
    companions = [results.experiment.companion(results.study, kind) for kind in COMPANIONS]
    with StudyStore(results.study).lock():
        for study in (results.study, *companions):
            if study is not None:
                repair_notes(study)
