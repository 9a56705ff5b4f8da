from __future__ import annotations

import math
from pathlib import Path

import pytest
import scipy.io
import torch
from torch import Tensor

from nas.data.people import MPII, Skeleton
from nas.training.metrics import Accuracy, pckh

PAIR = Skeleton("pair", ("a", "b", "c"), (), (), {"one": (0,), "two": (1,)})  # c is not scored


def score(
    distances: list[list[float]], labelled: list[list[bool]], heads: list[float], threshold: float = 0.5
) -> Accuracy:
    """Of predictions that are off by these distances, people × joints."""
    truth = torch.full((len(distances), 3, 2), 100.0)
    off = torch.tensor(distances)
    predicted = truth + torch.stack([0.6 * off, -0.8 * off], dim=-1)  # 3-4-5 triangles
    return pckh(predicted, truth, torch.tensor(labelled), torch.tensor(heads), PAIR, threshold)


def test_real_predictions_score_what_is_published(shared_data: Path) -> None:
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
    # Joint a: 1 of 1 found; b: 1 of 3.
    result = score(
        [[4.9, 5.1, 0.0], [0.0, 5.1, 0.0], [0.0, 4.9, 0.0]],
        [[True, True, True], [False, True, True], [False, True, True]],
        [10.0, 10.0, 10.0],
    )
    assert result.groups == {"one": pytest.approx(100), "two": pytest.approx(100 / 3)}
    assert result.mean == pytest.approx((100 + 100 / 3) / 2)
    assert result.by_count == pytest.approx(50)
    assert (result.people, result.threshold) == (3, 0.5)


def test_distance_is_measured_in_heads() -> None:
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


def test_a_joint_that_nobody_has_is_left_out_of_the_mean() -> None:
    result = score([[0.0, 0.0, 0.0]], [[True, False, True]], [10.0])
    assert result.mean == 100
    assert math.isnan(result.groups["two"])
    nothing = score([[0.0, 0.0, 0.0]], [[False, False, True]], [10.0])
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.by_count)


def test_a_prediction_that_is_not_a_number_is_not_found() -> None:
    assert score([[float("nan"), 0.0, 0.0]], [[True, True, True]], [10.0]).mean == 50
