"""Several workers on one study with the project's own sampler: no network is trained twice, none is over the budget."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from effort import examples
from optuna.trial import TrialState

from nas.study.config import StudyConfig
from nas.study.experiment import prepare
from nas.study.storage.trial_queue import count

REPOSITORY = Path(__file__).resolve().parents[3]
WORKERS, TRIALS = examples(4, 8), examples(60, 200)
BUDGET = """
[budget]
max_params = 12_000
max_madds = 900_000
[sampler]
pool = 30
"""
WORK = """
import sys, time
from pathlib import Path
import torch
from nas.study.config import StudyConfig
from nas.study.experiment import prepare
from nas.study.storage.trial_queue import claim, count
from optuna.trial import TrialState

torch.set_num_threads(1)
experiment = prepare(StudyConfig.read(sys.argv[1]), Path(sys.argv[2]))
total, go = int(sys.argv[3]), Path(sys.argv[4])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.01)
study = experiment.open_study(experiment.sampler())
while True:
    trial = claim(study, total, experiment.space.choices)
    if trial is None:
        if count(study).done >= total:
            break
        time.sleep(0.01)
        continue
    candidate = experiment.problem.candidate(trial.params)
    cost = experiment.cost(candidate)
    trial.set_user_attr("candidate", candidate.to_dict())
    if trial.number % 5 == 4:
        trial.set_user_attr("rungs", {"1": 20.0})
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, [30 + cost.params / 1000, cost.params, cost.madds])
    print(trial.number, flush=True)
"""


@pytest.mark.slow
def test_no_network_is_trained_twice(write_study: Callable[..., Path], tmp_path: Path) -> None:
    file = write_study(more=BUDGET)
    experiment = prepare(StudyConfig.read(file), tmp_path / "runs")
    experiment.open_study()
    go = tmp_path / "go"
    line = [sys.executable, "-c", WORK, str(file), str(tmp_path / "runs"), str(TRIALS), str(go)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    go.touch()
    numbers = []
    for worker in workers:
        out, err = worker.communicate(timeout=400)
        assert worker.returncode == 0, err
        numbers.append([int(number) for number in out.split()])
    study = experiment.open_study()
    assert sorted(number for each in numbers for number in each) == list(range(TRIALS))
    assert sum(map(bool, numbers)) == WORKERS, "a worker had no trial"
    assert count(study).done == len(study.trials) == TRIALS
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    networks = [experiment.candidate_of(trial) for trial in study.trials]
    assert len({network.id for network in networks}) == TRIALS, "a network was trained twice"
    costs = [experiment.cost(network) for network in networks]
    assert all(cost.params <= 12_000 and cost.madds <= 900_000 for cost in costs)
    proposed = [experiment.cost(experiment.problem.candidate(trial.params)) for trial in study.trials]
    assert proposed == costs
