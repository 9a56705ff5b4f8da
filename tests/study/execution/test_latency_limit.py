"""A limit on latency: measured once before training, stored, and respected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import get_note

from nas.architecture.latency import device_name
from nas.data.augmentation import fit_to_input
from nas.study.analysis.latency import MeasuredLatency, measure_candidate
from nas.study.config import StudyConfig
from nas.study.execution import trial_session as objective
from nas.study.execution.trial_session import TrialSession
from nas.study.experiment import Experiment, prepare
from nas.study.space.candidate import Candidate
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, requeue


@pytest.mark.slow
def test_networks_over_the_latency_limit_are_not_trained(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ("seed = 0\n\n[data]", 'seed = 0\nbaselines = ["hg1"]\n\n[data]')
    small = (("size = 32", "size = 64"), ("width_scale = 1", "width_scale = 0.06"))
    text = write_study(named, *small, more="\n[budget]\nmax_latency_ms = 1e-3\n")
    experiment = prepare(StudyConfig.read(text), tmp_path / "runs")
    study = experiment.open_study(RandomSampler(seed=0))
    people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 64) for split in ("train", "holdout"))
    measured: list[str] = []

    def measure(of: Experiment, candidate: Candidate, device: str) -> MeasuredLatency:
        measured.append(candidate.architecture.id)
        return measure_candidate(of, candidate, device)

    monkeypatch.setattr(objective, "measure_candidate", measure)

    def run_trial() -> FrozenTrial:
        trial = claim(study, 9, experiment.space.choices)
        assert trial is not None
        number = TrialSession(study, trial, experiment, people, held_out).run().number
        return study.trials[number]

    given = run_trial()
    assert given.user_attrs["published"] == "hg1"
    assert given.state == TrialState.PRUNED
    assert given.user_attrs["reason"] == "over the budget: trained to the end for comparison only"
    assert given.user_attrs["final_pckh"] >= 0

    slow = run_trial()
    assert slow.state == TrialState.PRUNED
    latency = MeasuredLatency(**slow.user_attrs["latency"])
    assert latency.device == device_name("cpu")
    assert 0.01 < latency.low <= latency.ms <= latency.high
    assert slow.user_attrs["reason"] == f"over the budget: {latency}, more than 0.001 ms: not trained"
    assert "images" not in slow.user_attrs
    assert f"{latency.ms:.3g} ms per image" in get_note(optuna.Trial(study, slow._trial_id))

    # A requeued trial is not measured again.
    lost = claim(study, 9, experiment.space.choices)
    assert lost is not None
    with monkeypatch.context() as context:
        context.setattr(objective, "adopt_checkpoint", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            TrialSession(study, lost, experiment, people, held_out).run()
    assert len(measured) == 3
    with StudyStore(study).lock():
        requeue(study, study.trials[lost.number])
    again = run_trial()
    assert again.user_attrs["first_number"] == lost.number
    assert again.user_attrs["latency"] == study.trials[lost.number].user_attrs["latency"]
    assert len(measured) == 3


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_companion_studies_have_no_latency_limit(write_study: Callable[..., Path], tmp_path: Path) -> None:
    text = write_study(more="\n[budget]\nmax_latency_ms = 5\nmax_layers = 900\n")
    experiment = prepare(StudyConfig.read(text), tmp_path / "runs")
    assert experiment.config.budget.max_latency_ms == 5
    budget = experiment.beside("repeats").config.budget
    assert (budget.max_latency_ms, budget.max_layers) == (None, 900)
