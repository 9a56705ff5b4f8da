from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest

from nas.data.augmentation import Augmentation
from nas.training.schedule import ScheduleConfig


@pytest.mark.parametrize(("images", "epochs", "batch"), [(16, 1, 16), (100, 2, 5), (4000, 8, 16), (50_000, 20, 24)])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_learning_rate_warms_up_and_anneals_to_zero(images: int, epochs: int, batch: int, warmup: float) -> None:
    schedule = ScheduleConfig(images, epochs, batch, warmup=warmup)
    assert schedule.steps == schedule.steps_per_epoch * epochs <= images / batch
    rates = [schedule.lr_factor(step) for step in range(schedule.steps)]
    top = rates.index(max(rates))
    assert max(rates) == 1
    assert top == max(1, round(warmup * schedule.steps)) - 1
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert min(rates) > 0
    if schedule.steps > 100:
        assert rates[0] < 0.2 or not warmup
        assert rates[-1] < 1e-3


def test_learning_rate_in_steps_drops_after_epochs_15_and_17_of_20() -> None:
    schedule = ScheduleConfig(20 * 50 * 8, 20, 8, anneal="steps", warmup=0.1)
    by_epoch = [schedule.lr_factor(epoch * 50) for epoch in range(20)]
    assert by_epoch[2:] == [1.0] * 13 + [0.1] * 2 + [0.01] * 3
    assert schedule.lr_factor(15 * 50 - 1) == 1.0


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"images": 127}, r"images \(127\) must be at least epochs × batch \(8 × 16\)"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, not nan"),
        ({"warmup": 1.0}, "warmup must be from 0 to below 1, not 1.0"),
        ({"ema": -0.1}, "ema must be from 0 to below 1, not -0.1"),
        ({"sigma": 0.0}, "sigma must be above 0, not 0.0"),
        ({"clip": -1.0}, "clip must not be negative, not -1.0"),
        ({"weight_decay": -0.5}, "weight_decay must not be negative, not -0.5"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, rmsprop, not 'sgd'"),
        ({"anneal": "linear"}, "anneal must be one of cosine, steps, not 'linear'"),
        ({"loss": "l1"}, "loss must be one of mse, cross_entropy, not 'l1'"),
        ({"decoder": "argmax"}, "decoder must be one of quarter, dark, not 'argmax'"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"schedule: {named}"):
        ScheduleConfig(**{"images": 4000, **values})


def test_a_dictionary_through_json_gives_an_equal_schedule() -> None:
    schedule = ScheduleConfig(
        1234, 3, 7, optimizer="rmsprop", anneal="steps", sigma=1.5, augmentation=Augmentation(rotate=10.0, flip=0.0)
    )
    assert ScheduleConfig.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert ScheduleConfig.from_dict(ScheduleConfig(500).to_dict()) == ScheduleConfig(500)
    assert ScheduleConfig.from_dict({"images": 500}) == ScheduleConfig(500)


def test_longer_changes_the_length_only() -> None:
    schedule = ScheduleConfig(1000, 4, 8, learning_rate=0.5)
    assert schedule.longer(4) == ScheduleConfig(4000, 4, 8, learning_rate=0.5)
    assert schedule.longer(4).lr_factor(schedule.steps) > 0.5  # where the shorter one has ended, this one has not
