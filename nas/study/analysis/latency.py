"""How long a study's networks take for one image, on the device at hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from optuna.study import Study

from nas.architecture.latency import device_name, forward_latency
from nas.console import progress
from nas.study.experiment import Experiment
from nas.study.space.candidate import Candidate


@dataclass(frozen=True)
class MeasuredLatency:
    """Attributes:
    ms: milliseconds for one image, the median of many runs.
    low: a tenth of the runs were faster.
    high: a tenth were slower.
    device: that it was measured on; on a CPU, with one thread.
    """

    ms: float
    low: float
    high: float
    device: str

    def __str__(self) -> str:
        return f"{self.ms:.3g} ms per image on {self.device}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a user attribute."""
        return asdict(self)


def measure_candidate(experiment: Experiment, candidate: Candidate, device: str) -> MeasuredLatency:
    """Time a network, which takes about half a second.

    Args:
        experiment: says the input size.
        candidate: to build.
        device: to run on.
    """
    timing = forward_latency(candidate.architecture, experiment.joints, experiment.input_size, device)
    return MeasuredLatency(timing.median, timing.low, timing.high, device_name(device))


def stored_latencies(experiment: Experiment, study: Study, device: str) -> dict[str, MeasuredLatency]:
    """What trials of a study have measured on such a device, by architecture; the first measurement counts."""
    name, found = device_name(device), dict[str, MeasuredLatency]()
    for trial in study.get_trials(deepcopy=False):
        raw = trial.user_attrs.get("latency")
        if raw and raw["device"] == name:
            found.setdefault(experiment.candidate_of(trial).architecture.id, MeasuredLatency(**raw))
    return found


def latencies_of(
    experiment: Experiment, study: Study, numbers: Iterable[int], device: str
) -> dict[int, MeasuredLatency]:
    """The speed of some trials' networks: as the study has measured it on such a device, else measured now."""
    there, trials = stored_latencies(experiment, study, device), {t.number: t for t in study.get_trials(deepcopy=False)}
    wanted, speeds = list(numbers), dict[int, MeasuredLatency]()
    with progress("timing networks", len(wanted)) as advance:
        for done, number in enumerate(wanted, 1):
            candidate = experiment.candidate_of(trials[number])
            speeds[number] = there.get(candidate.architecture.id) or measure_candidate(experiment, candidate, device)
            advance(done)
    return speeds
