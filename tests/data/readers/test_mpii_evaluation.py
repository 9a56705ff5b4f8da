from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nas.data.readers.mpii_evaluation import predictions_mat, read_ground_truth, read_predictions
from nas.data.skeletons import MPII
from nas.errors import UserError

Content = Mapping[str, object]


def truth_content(people: int = 3) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    low = rng.uniform(1, 100, (1, 2, people))
    return {
        "pos_gt_src": rng.uniform(1, 500, (16, 2, people)),
        "jnt_missing": (rng.random((16, people)) < 0.1).astype(np.uint8),
        "headboxes_src": np.concatenate([low, low + np.array([30.0, 40.0])[None, :, None]]),
    }


def save(path: Path, content: Content) -> Path:
    scipy.io.savemat(path, dict(content))
    return path


def save_newer(path: Path, content: Mapping[str, NDArray[np.generic]]) -> Path:
    """As MATLAB's -v7.3 does: HDF5 behind 512 bytes of text, axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in content.items():
            file[name] = array.T
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("write", [save, save_newer])
@pytest.mark.parametrize("people", [1, 3])
def test_truth(tmp_path: Path, people: int, write) -> None:
    content = truth_content(people)
    truth = read_ground_truth(write(tmp_path / "truth.mat", content))
    assert truth.joints.shape == (people, 16, 2)
    assert np.array_equal(truth.labelled, content["jnt_missing"].T == 0)
    assert truth.head_size == pytest.approx(0.6 * 50)
    positions = content["pos_gt_src"].transpose(2, 0, 1)
    assert np.array_equal(truth.joints[truth.labelled], positions[truth.labelled] - 0.5)


def test_one_persons_truth_as_matlab_writes_it(tmp_path: Path) -> None:
    content = truth_content(1)
    one = {**content, "pos_gt_src": content["pos_gt_src"][..., 0], "headboxes_src": content["headboxes_src"][..., 0]}
    truth, whole = (
        read_ground_truth(save(tmp_path / "a.mat", one)),
        read_ground_truth(save(tmp_path / "b.mat", content)),
    )
    assert np.array_equal(truth.joints, whole.joints)
    assert np.array_equal(truth.head_size, whole.head_size)


def test_what_is_not_labelled_may_be_anything(tmp_path: Path) -> None:
    content = truth_content()
    content["jnt_missing"][5, 1] = 1
    content["pos_gt_src"][5, :, 1] = np.nan, 1e300
    assert np.isfinite(read_ground_truth(save(tmp_path / "a.mat", content)).joints).all()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("pos_gt_src", None, "holds no 'pos_gt_src'"),
        ("pos_gt_src", np.ones((3, 16, 2)), "'pos_gt_src' is float64 (3, 16, 2), expected numbers (16, 2, N)"),
        ("pos_gt_src", np.ones((16, 2, 0)), "'pos_gt_src'"),
        ("pos_gt_src", np.full((16, 2, 3), np.nan), "'pos_gt_src' holds values beyond any image"),
        ("pos_gt_src", "text", "'pos_gt_src' is str"),
        ("jnt_missing", np.zeros((16, 4)), "'jnt_missing' is float64 (16, 4), expected numbers (16, N), the same N"),
        ("jnt_missing", np.full((16, 3), 2), "'jnt_missing' holds values other than 0 and 1"),
        ("headboxes_src", np.ones((2, 2, 3)), "'headboxes_src' has boxes of no size"),
        ("headboxes_src", np.full((2, 2, 3), np.inf), "'headboxes_src' has boxes of no size"),
        ("headboxes_src", np.ones((2, 2, 4)), "'headboxes_src' is"),
        ("headboxes_src", np.array([{"a": 1}], object), "neither numbers nor texts"),
    ],
)
def test_wrong_truth(tmp_path: Path, name: str, value: object, words: str) -> None:
    content: dict[str, object] = dict(truth_content())
    del content[name]
    path = save(tmp_path / "truth.mat", content if value is None else {**content, name: value})
    with pytest.raises(UserError) as caught:
        read_ground_truth(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


PREDICTIONS = np.random.default_rng(1).uniform(1, 300, (5, 16, 2))


@pytest.mark.parametrize("write", [save, save_newer])
@pytest.mark.parametrize(
    "content",
    [
        {"preds": PREDICTIONS},
        {"preds": PREDICTIONS.transpose(1, 2, 0)},
        {"pos_pred_src": PREDICTIONS.transpose(1, 2, 0), "pos_gt_src": np.zeros((16, 2, 5))},
        {"preds": PREDICTIONS, "pos_pred_src": np.zeros((16, 2, 5))},
        {"file": PREDICTIONS, "score": np.ones((5, 16)), "boxes": np.ones((5, 2, 2)), "n": np.float64(5)},
        {"preds": np.ones((5, 14, 2)), "mine": PREDICTIONS},
    ],
)
def test_predictions_are_found_by_content(tmp_path: Path, content: Mapping[str, NDArray[np.float64]], write) -> None:
    assert np.array_equal(
        read_predictions(write(tmp_path / "a.mat", {k: np.asarray(v) for k, v in content.items()})), PREDICTIONS - 0.5
    )


@pytest.mark.slow
@pytest.mark.parametrize("people", [1, 2, 16])
def test_both_layouts_of_few_people(tmp_path: Path, people: int) -> None:
    some = np.random.default_rng(2).uniform(1, 300, (people, 16, 2))
    for layout in (some, some.transpose(1, 2, 0)):
        assert np.array_equal(read_predictions(save(tmp_path / "a.mat", {"x": layout})), some - 0.5)
    if people == 1:
        assert np.array_equal(read_predictions(save(tmp_path / "a.mat", {"x": some[0]})), some - 0.5)


def test_integer_predictions(tmp_path: Path) -> None:
    whole = PREDICTIONS.astype(np.int16)
    assert np.array_equal(read_predictions(save(tmp_path / "a.mat", {"preds": whole})), whole - 0.5)


def test_a_variable_can_be_chosen(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mat", {"preds": np.zeros((5, 16, 2)), "better": PREDICTIONS, "cells": np.ones((2, 2))})
    assert np.array_equal(read_predictions(path, "better"), PREDICTIONS - 0.5)
    with pytest.raises(UserError, match="holds no 'best'"):
        read_predictions(path, "best")
    with pytest.raises(UserError, match=r"no predictions \(it holds cells float64 \(2, 2\)\)"):
        read_predictions(path, "cells")


def test_several_candidates_must_be_chosen_from(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mat", {"b": PREDICTIONS, "a": PREDICTIONS})
    with pytest.raises(UserError, match="choose one with --variable a or b"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"preds": np.ones((5, 17, 2))}, "it holds preds float64 (5, 17, 2)"),
        ({"preds": np.ones((5, 2, 16))}, "no predictions"),
        ({"preds": np.ones((5, 16, 2), complex)}, "no array of numbers"),
        ({"preds": "none"}, "no array of numbers"),
        ({"preds": np.ones((0, 16, 2))}, "no predictions"),
        ({}, "no array of numbers"),
    ],
)
def test_no_predictions(tmp_path: Path, content: Content, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_predictions(save(tmp_path / "a.mat", content))
    assert words in str(caught.value)
    assert "(N, 16, 2) or (16, 2, N)" in str(caught.value)


def test_what_is_no_position_is_not_a_number(tmp_path: Path) -> None:
    odd = PREDICTIONS.copy()
    odd[0], odd[1, 3], odd[2, 4, 0], odd[3, 5] = np.nan, np.inf, -np.inf, 1e30
    found = read_predictions(save(tmp_path / "a.mat", {"preds": odd}))
    assert np.isnan(found[0]).all()
    assert np.isnan(found[1, 3]).all()
    assert np.isnan(found[2, 4]).tolist() == [True, False]
    assert np.isnan(found[3, 5]).all()
    assert int(np.isnan(found).sum()) == 32 + 2 + 1 + 2


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "preds.mat"
    images = ["b.jpg", "größer/a.jpg", "b.jpg", "c", ""]
    path.write_bytes(predictions_mat(PREDICTIONS - 0.5, images, MPII.joints))
    assert np.allclose(read_predictions(path), PREDICTIONS - 0.5, atol=1e-12)
    raw = scipy.io.loadmat(path)
    assert raw["preds"].shape == (5, 16, 2)
    assert raw["preds"].dtype == np.float64
    assert [str(name[0][0]) if name[0].size else "" for name in raw["images"]] == images
    assert [str(name[0][0]) for name in raw["joints"]] == list(MPII.joints)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_ground_truth, read_predictions):
        with pytest.raises(UserError, match=r"a\.mat: no such file"):
            read(tmp_path / "a.mat")
        with pytest.raises(UserError, match="not a file"):
            read(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files whose damage must not matter: both kinds, compressed, plain, and HDF5."""
    folder = tmp_path_factory.mktemp("whole")
    content = {**truth_content(4), "preds": PREDICTIONS[:4]}
    files = {"plain": save(folder / "a.mat", content), "newer": save_newer(folder / "b.mat", content)}
    scipy.io.savemat(folder / "c.mat", content, do_compression=True)
    return {name: path.read_bytes() for name, path in {**files, "compressed": folder / "c.mat"}.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "compressed", "newer"])
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 7)), min_size=1, max_size=4),
)
def test_damage_is_a_clear_error_or_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory,
    whole: dict[str, bytes],
    kind: str,
    cut: float | None,
    flips: list[tuple[float, int]],
) -> None:
    data = bytearray(whole[kind])
    if cut is not None:
        data = data[: int(cut * len(data))]
    for place, bit in flips if data else ():
        data[int(place * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("damaged") / "a.mat"
    path.write_bytes(data)
    for read in (read_ground_truth, read_predictions):
        with suppress(UserError):
            read(path)
