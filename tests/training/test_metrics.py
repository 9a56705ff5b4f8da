from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.stats
import torch
from torch import Tensor

from nas.data.skeletons import MPII, Skeleton
from nas.training.metrics import (
    Accuracy,
    bootstrap_intervals,
    head_normalizer,
    pck,
    pckh,
    score_predictions,
    torso_normalizer,
)

PAIR = Skeleton("pair", ("a", "b", "c"), (), (), {"one": (0,), "two": (1,)})  # c is not scored


def score(
    distances: list[list[float]], labelled: list[list[bool]], heads: list[float], threshold: float = 0.5
) -> Accuracy:
    """Of predictions that are off by these distances, people × joints."""
    truth = torch.full((len(distances), 3, 2), 100.0)
    off = torch.tensor(distances)
    predicted = truth + torch.stack([0.6 * off, -0.8 * off], dim=-1)  # 3-4-5 triangles
    return pckh(predicted, truth, torch.tensor(labelled), torch.tensor(heads), PAIR, threshold)


def test_real_predictions_give_the_published_pckh(shared_data: Path) -> None:
    mat = scipy.io.loadmat(shared_data / "mpii" / "annot" / "valid_head_boxes.mat")

    def points(name: str) -> Tensor:
        return torch.from_numpy(mat[name].astype("float64")).permute(2, 0, 1)  # (16, 2, N) → (N, 16, 2)

    boxes = torch.from_numpy(mat["headboxes_src"].astype("float64"))  # (2 corners, 2, N)
    head_size = 0.6 * (boxes[1] - boxes[0]).norm(dim=0)
    labelled = torch.from_numpy(mat["jnt_missing"] == 0).T
    accuracy = pckh(points("pos_pred_src"), points("pos_gt_src"), labelled, head_size, MPII)
    assert accuracy.people == 2958
    assert f"{accuracy.mean:.3f}" == "81.458"
    assert f"{accuracy.by_count:.3f}" == "82.337"
    assert tuple(accuracy.groups) == ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    assert sum(accuracy.groups.values()) / 7 == pytest.approx(accuracy.mean)  # seven groups of two joints each


def test_means_by_joint_and_by_count() -> None:
    # Joint a: 1 of 1 correct; b: 1 of 3.
    result = score(
        [[4.9, 5.1, 0.0], [0.0, 5.1, 0.0], [0.0, 4.9, 0.0]],
        [[True, True, True], [False, True, True], [False, True, True]],
        [10.0, 10.0, 10.0],
    )
    assert result.groups == {"one": pytest.approx(100), "two": pytest.approx(100 / 3)}
    assert result.mean == pytest.approx((100 + 100 / 3) / 2)
    assert result.by_count == pytest.approx(50)
    assert (result.people, result.threshold) == (3, 0.5)


def test_distance_is_relative_to_the_head_size() -> None:
    labelled = [[True, True, True]] * 2
    assert score([[8.0, 8.0, 0.0]] * 2, labelled, [20.0, 10.0]).mean == pytest.approx(50)
    assert score([[8.0, 8.0, 0.0]] * 2, labelled, [20.0, 10.0], threshold=0.9).mean == pytest.approx(100)
    assert score([[8.0, 8.0, 0.0]] * 2, labelled, [20.0, 10.0], threshold=0.1).mean == pytest.approx(0)


def test_joints_without_a_label_or_a_group_do_not_count() -> None:
    labelled = [[True, True, True], [True, False, True]]
    for anything in (0.0, 1e6, float("nan")):
        result = score([[0.0, 9.0, anything], [0.0, anything, anything]], labelled, [10.0, 10.0])
        assert result.mean == 50
        assert result.by_count == pytest.approx(200 / 3)
        assert result.groups == {"one": 100, "two": 0}


def test_a_joint_without_labels_is_left_out_of_the_mean() -> None:
    result = score([[0.0, 0.0, 0.0]], [[True, False, True]], [10.0])
    assert result.mean == 100
    assert math.isnan(result.groups["two"])
    nothing = score([[0.0, 0.0, 0.0]], [[False, False, True]], [10.0])
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.by_count)


def test_a_nan_prediction_is_incorrect() -> None:
    assert score([[float("nan"), 0.0, 0.0]], [[True, True, True]], [10.0]).mean == 50


def test_accuracy_per_joint() -> None:
    result = score([[4.9, 5.1, 0.0], [0.0, 5.1, 9.0]], [[True, True, True]] * 2, [10.0, 10.0])
    assert result.joints == {"a": 100, "b": 0, "c": 50}


def test_pck_is_relative_to_the_torso() -> None:
    # Torsos, from a to b: 50, 100, none labelled, none long.
    truth = torch.tensor([[[0, 0], [30, 40], [7, 7]], [[0, 0], [60, 80], [7, 7]]] + [[[0, 0], [0, 0], [7, 7]]] * 2)
    labelled = torch.tensor([[True, True, True], [True, True, True], [True, False, True], [True, True, True]])
    predicted = truth + torch.tensor([0.0, 15.0])
    result = pck(predicted, truth.float(), labelled, (0, 1), PAIR)
    assert (result.metric, result.threshold, result.people, result.left_out) == ("PCK", 0.2, 2, 2)
    assert (result.mean, result.by_count) == (50, 50)  # 15 of 50 is too far, 15 of 100 is not
    assert result.joints == {"a": 50, "b": 50, "c": 50}
    assert pck(predicted, truth.float(), labelled, (0, 1), PAIR, 0.31).mean == 100
    nobody = pck(predicted[2:], truth[2:].float(), labelled[2:], (0, 1), PAIR)
    assert math.isnan(nobody.mean)
    assert (nobody.people, nobody.left_out) == (0, 2)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_torso_sizes_of_flic_equal_its_annotation(shared_data: Path, split: str) -> None:
    # Its other files exchange left and right of people seen from behind, 5 %, and leave the measure as it was.
    with h5py.File(shared_data / "flic" / "annot" / f"{split}_personcentric.h5") as file:
        truth, size = (torch.from_numpy(file[key][:].astype("float64")) for key in ("part", "normalize"))
    normalizer = torso_normalizer(
        truth, torch.ones(truth.shape[:2], dtype=torch.bool), (3, 6)
    )  # right shoulder, left hip
    assert normalizer.left_out == 0
    assert torch.allclose(normalizer.size, size, atol=0.01)


def sample(people: int, seed: int, chance: float = 0.7) -> tuple[Tensor, Tensor]:
    """Hits and labels; a person's joints are correlated, as real ones are."""
    generator = torch.Generator().manual_seed(seed)
    easy = torch.rand((people, 1), generator=generator) < chance
    labelled = torch.rand((people, 3), generator=generator) < torch.tensor([0.9, 0.5, 0.7])
    noise = torch.rand((people, 3), generator=generator) < 0.2
    return (easy ^ noise) & labelled, labelled


def test_intervals_agree_with_scipy() -> None:
    hits, labelled = sample(80, 0)

    def mean(rows: np.ndarray) -> float:
        return float(np.mean([100 * hits[rows][:, j].sum() / labelled[rows][:, j].sum() for j in (0, 1)]))

    def by_count(rows: np.ndarray) -> float:
        return float(100 * hits[rows][:, :2].sum() / labelled[rows][:, :2].sum())

    (ours,) = bootstrap_intervals([hits], labelled, PAIR, resamples=4000)
    for statistic, bounds in ((mean, ours.mean), (by_count, ours.by_count)):
        theirs = scipy.stats.bootstrap(
            (np.arange(80),), statistic, vectorized=False, method="percentile", n_resamples=4000, rng=1
        ).confidence_interval
        assert bounds == pytest.approx((theirs.low, theirs.high), abs=0.8)


def test_intervals_have_the_stated_coverage() -> None:
    truth = 100 * (0.7 * 0.8 + 0.3 * 0.2)
    held = 0
    for seed in range(200):
        hits, labelled = sample(100, seed + 1)
        ((low, high),) = (one.mean for one in bootstrap_intervals([hits], labelled, PAIR, resamples=300))
        held += low <= truth <= high
    assert 0.88 <= held / 200 <= 0.99


def test_intervals_are_repeatable_and_shrink_with_people() -> None:
    few, many = sample(100, 0), sample(1600, 0)
    first = bootstrap_intervals([few[0], ~few[0] & few[1]], few[1], PAIR)
    assert first == bootstrap_intervals([few[0], ~few[0] & few[1]], few[1], PAIR)
    # The same samples: correct joints of one result are incorrect in the other.
    assert first[0].mean == pytest.approx(tuple(100 - end for end in reversed(first[1].mean)))
    (low, high), (less, more) = first[0].mean, bootstrap_intervals([many[0]], many[1], PAIR)[0].mean
    assert 3 < (high - low) / (more - less) < 5.3


def test_intervals_without_variance_and_without_labels() -> None:
    labelled = torch.tensor([[True, True, False]] * 4)
    assert bootstrap_intervals([labelled], labelled, PAIR)[0].mean == (100, 100)
    one = bootstrap_intervals([torch.tensor([[True, False, False]])], labelled[:1], PAIR)[0]
    assert (one.mean, one.by_count) == ((50, 50), (50, 50))
    nothing = bootstrap_intervals([torch.zeros(4, 3, dtype=torch.bool)], torch.zeros(4, 3, dtype=torch.bool), PAIR)[0]
    assert all(math.isnan(end) for end in (*nothing.mean, *nothing.by_count))


def test_people_who_are_left_out_are_not_sampled() -> None:
    hits, labelled = sample(60, 3)
    nobody = torch.zeros(40, 3, dtype=torch.bool)
    (mine,), (padded,) = (
        bootstrap_intervals([torch.cat([hits, more])], torch.cat([labelled, more]), PAIR)
        for more in (nobody[:0], nobody)
    )
    assert mine == padded


def test_scores_are_accuracies_with_intervals() -> None:
    truth = torch.full((6, 3, 2), 50.0)
    near, far = truth + 1.0, truth + torch.linspace(0, 10, 6)[:, None, None]
    labelled = torch.ones(6, 3, dtype=torch.bool)
    heads = torch.full((6,), 10.0)
    rows = score_predictions([near, far], truth, head_normalizer(heads, labelled), PAIR, (0.5, 0.1))
    assert [[one.accuracy for one in row] for row in rows] == [
        [pckh(at, truth, labelled, heads, PAIR, threshold) for at in (near, far)] for threshold in (0.5, 0.1)
    ]
    assert rows[0][0].interval.mean == (100, 100)
    low, high = rows[0][1].interval.mean
    assert low < rows[0][1].accuracy.mean < high
