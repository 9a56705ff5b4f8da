"""A session of ``nas.search``: trials are trained with progress on the console, and a summary follows."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass

import torch
from optuna.study import Study
from optuna.trial import TrialState

from nas.console import console, default_workers, format_count, print_note, print_tables
from nas.errors import UserError
from nas.study.analysis import seed_noise
from nas.study.analysis.rank_correlation import (
    calibration_experiment,
    calibration_of,
    queue,
    store_calibration,
    stored_calibration,
)
from nas.study.analysis.results import StudyResults, load_results
from nas.study.execution.worker import failure_log
from nas.study.execution.worker_count import measure_worker_count
from nas.study.execution.worker_pool import search
from nas.study.experiment import Experiment, points_of
from nas.study.reporting.progress import SearchProgress, live_progress
from nas.study.reporting.tables import baseline_table, front_records, front_table, near_front_table
from nas.study.storage.engine import mask_password
from nas.study.storage.trial_queue import DONE, count, given_up
from nas.study.understood_trials import note_left_out


@dataclass(frozen=True)
class SearchSession:
    """What a session searches, on which devices, and what it prints.

    Attributes:
        experiment: of the study.
        study: the opened study.
        devices: one entry for each worker.
        quiet: print results only.
        as_json: print results as JSON, and nothing else.
    """

    experiment: Experiment
    study: Study
    devices: list[str]
    quiet: bool
    as_json: bool

    @property
    def silent(self) -> bool:
        """Whether nothing but requested results is printed."""
        return self.quiet or self.as_json

    def run_until(self, experiment: Experiment, study: Study, trials: int) -> bool:
        """Train trials of the study, or of a companion study, until so many have ended; show the progress.

        Returns:
            whether every network within the budget has been tried, which may be fewer.
        """
        with live_progress(SearchProgress(experiment, study, trials, self.silent, console)) as show:
            return search(experiment, trials, self.devices, show).exhausted


def run_search(session: SearchSession, trials: int) -> None:
    """Search until the study has so many trials, then print its front and save the dashboard's panels."""
    experiment, study = session.experiment, session.study
    finished = count(study).done
    if (far := out_of_reference(experiment)) is not None:
        print_note(far)
    if not session.silent:
        console.print(_introduction(session, trials, finished), soft_wrap=True)
        console.print(
            stored_calibration(study)
            or "not calibrated: with --calibrate 12, the same command measures how far its ranking can be trusted",
            soft_wrap=True,
        )
    start = time.monotonic()
    if finished < trials:
        if session.run_until(experiment, study, trials) and not session.as_json:
            done, within = count(study).done, " within the budget" if experiment.has_budget else ""
            print_note(
                f"every network of {experiment.space.path.name}{within} was tried: {done} trials; nothing "
                f"is left for --trials {trials}"
            )
    elif not session.silent:
        console.print(f"{finished} trials are done already: nothing to search for --trials {trials}.")
    check_measured(experiment, study)
    for number, reason in given_up(study):
        print_note(f"trial {number} was {reason}{log_of(experiment)}")
    from nas.study.reporting.dashboard import save_panels  # imports plotly: trials need not wait for it

    note_left_out(study, session.quiet)
    results = load_results(experiment, study)
    save_panels(results)
    if session.as_json:
        print(json.dumps(front_records(results)))
    elif not session.quiet:
        _print_summary(results, time.monotonic() - start)


def out_of_reference(experiment: Experiment) -> str | None:
    """What is wrong if every network of a sample costs more than the hypervolume's corner, which makes it 0."""
    reference = experiment.config.reference
    costs: dict[str, list[int]] = {"params": [], "madds": []}  # of those beyond the corner
    for candidate in experiment.draw():
        cost = experiment.problem.cost(candidate)
        for key in list(costs):
            costs[key].append(getattr(cost, key))
            if costs[key][-1] < getattr(reference, key)[1]:
                del costs[key]
        if not costs:  # mostly after the first network
            return None
    wrong = "; ".join(
        f"{key} = [{min(values):_}, {max(values):_}] would hold them, not up to {getattr(reference, key)[1]:_}"
        for key, values in costs.items()
        if values
    )
    if not wrong:
        return None
    return f"no network of {experiment.space.path} lies within [reference], so the hypervolume stays 0: {wrong}"


def calibrate(session: SearchSession, architectures: int) -> None:
    """Train what is missing to compare the short schedule's ranking with a longer one's, and print the correlation.

    Raises:
        UserError: fewer than three architectures could be trained to the end.
    """
    companion = calibration_experiment(session.experiment)
    total = queue(companion, architectures)
    study = companion.open_study()
    if count(study).done < total:
        session.run_until(companion, study, total)
    calibration = calibration_of(study)
    if calibration is None:
        raise UserError(f"--calibrate {architectures}: fewer than three architectures could be trained to the end")
    store_calibration(session.study, calibration)
    if session.as_json:
        print(json.dumps(calibration.to_dict()))
    elif not session.quiet:
        console.print(str(calibration), soft_wrap=True)


def confirm(session: SearchSession, networks: int) -> None:
    """Train the networks whose membership of the front is least certain under more seeds, and print the new front.

    Raises:
        UserError: the study has fewer than two finished trials.
    """
    experiment, study = session.experiment, session.study
    if len(points_of(study)) < 2:
        raise UserError(
            f"--confirm {networks}: study {experiment.config.name} has fewer than two finished trials; "
            "search first, without --confirm"
        )
    companion = seed_noise.repeats_experiment(experiment)
    total = seed_noise.queue(experiment, study, networks)
    repeats = companion.open_study()
    finished = count(repeats).done
    if finished < total:
        session.run_until(companion, repeats, total)
    check_measured(companion, repeats)
    results = load_results(experiment, study)
    if session.as_json:
        print(json.dumps(front_records(results)))
    elif not session.quiet:
        print_tables(front_table(results), near_front_table(results))
        console.print(
            f"{total - finished} trained again; PCKh of one network between seeds: standard deviation "
            f"{results.noise:.2f}"
            if total > finished
            else "no network's membership of the front is uncertain: nothing to train again",
            soft_wrap=True,
        )


def check_measured(experiment: Experiment, study: Study) -> None:
    """Refuse to present a study in which no trial was ever measured as a result.

    Raises:
        UserError: trials have ended, none of them with a PCKh; the message tells the most frequent reason.
    """
    ended = study.get_trials(deepcopy=False, states=DONE)
    if not ended or any(t.state == TrialState.COMPLETE or t.user_attrs.get("rungs") for t in ended):
        return
    reasons = Counter(str(trial.user_attrs.get("reason", "no reason is stored")) for trial in ended)
    ((reason, times),) = reasons.most_common(1)
    trials = "the only trial has no" if len(ended) == 1 else f"none of the {len(ended)} trials has a"
    raise UserError(
        f"study {experiment.config.name}: {trials} PCKh; {f'{times} of them: ' if len(ended) > 1 else ''}{reason}"
        f"{log_of(experiment)}; fix the cause and begin another study with --name"
    )


def log_of(experiment: Experiment) -> str:
    """Where the tracebacks of workers are, in parentheses, with a leading space; empty if there are none."""
    log = failure_log(experiment)
    return f" (traceback in {log})" if log.is_file() else ""


def worker_count(requested: str | None, experiment: Experiment, device: str, silent: bool) -> int:
    """How many worker processes to start.

    Args:
        requested: a number, ``auto`` to measure the number that trains most trials an hour, or None for one per core
            or GPU.
        experiment: what the workers train.
        device: "cpu" or "cuda".
        silent: do not print what ``auto`` measured.

    Raises:
        UserError: ``auto``, and the device has too little memory for a single worker.
    """
    devices = default_workers() if device == "cpu" else torch.cuda.device_count()
    if requested is None:
        return devices
    if requested != "auto":
        return int(requested)
    best = measure_worker_count(experiment, device)
    if best is None:
        raise UserError("--workers auto: this device has too little memory for one; choose smaller networks or batches")
    workers = best.workers if device == "cpu" else best.workers * devices
    if not silent:
        per_gpu = "" if workers == best.workers else f", {best.workers} on each GPU"
        rate = best.trials_per_hour * workers / best.workers
        console.print(f"--workers auto: {workers}{per_gpu}: {rate:,.0f} whole trials an hour", soft_wrap=True)
    return workers


def _introduction(session: SearchSession, trials: int, finished: int) -> str:
    experiment, workers = session.experiment, len(session.devices)
    config, schedule = experiment.config, experiment.config.short_schedule()
    size = config.data.input_size
    already = f", {finished} done already" if finished else ""
    fitting = ""
    if experiment.has_budget:
        affordable = experiment.problem.affordable
        more = "" if affordable.counted else "more than "
        networks = "network" if affordable.networks == 1 else "networks"
        fitting = f", {more}{affordable.networks:,} {networks} of it within the budget"
    return (
        f"study {config.name}: {trials} trials{already}, {workers} worker{'s' if workers > 1 else ''}, "
        f"{format_count(experiment.space.size)} points of {experiment.space.path.name}{fitting}, "
        f"{schedule.images:,} images of {size}×{size} each\nstored in {mask_password(experiment.url)}"
    )


def _print_summary(results: StudyResults, seconds: float) -> None:
    print_tables(front_table(results), baseline_table(results))
    console.print(
        f"{results.counts.complete} finished, {results.counts.pruned} stopped early, in {seconds / 60:.1f} minutes; "
        f"hypervolume {results.volume:.4f}"
    )
    name, flags = results.name, results.experiment.location_flags
    console.print("next:")
    console.print(f"  python -m nas.dashboard --study {name}{flags}", soft_wrap=True)
    console.print(f"  python -m nas.report --study {name} --html {name}.html{flags}", soft_wrap=True)
    console.print(f"  python -m nas.retrain --study {name} --pick knee{flags}", soft_wrap=True)
