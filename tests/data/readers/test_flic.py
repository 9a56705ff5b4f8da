from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from annotation_files import EXAMPLE, flic_content, flic_examples, save_examples, save_h5, save_json, structs
from numpy.typing import NDArray

from nas.data.readers.flic import EITHER, OBSERVER, PERSON, read_flic
from nas.data.skeletons import FLIC
from nas.errors import UserError

TRAIN = {"train": 1.0}


def turned(content: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """With the first person seen from behind, left and right their own."""
    content["part"][0] = content["part"][0][list(FLIC.flip_order)]
    content["normalize"] = np.linalg.norm(content["part"][:, 3] - content["part"][:, 6], axis=-1)
    return content


def test_the_hourglass_layout(tmp_path: Path) -> None:
    found, whose = read_flic(save_h5(tmp_path / "train.h5", flic_content()), TRAIN)
    assert (len(found.people), found.dropped, found.defines_validation, whose) == (4, {}, False, EITHER)
    person = found.people[1]
    assert person.image == "film-00000001.jpg"
    assert np.array_equal(person.joints[0], (239.5, 99.5))
    assert np.array_equal(person.center, (209.5, 239.5))
    assert person.size == pytest.approx(440)
    torso = np.linalg.norm(np.subtract(*person.joints[list(FLIC.torso or ())]))
    assert 0.5 * person.head_size == pytest.approx(0.2 * torso)  # PCKh@0.5 is PCK@0.2 of the torso


def test_the_same_people_from_both_formats(tmp_path: Path) -> None:
    hourglass, _ = read_flic(save_h5(tmp_path / "train.h5", flic_content()), TRAIN)
    original, whose = read_flic(save_examples(tmp_path / "examples.mat", flic_examples()), TRAIN)
    assert (original.defines_validation, whose) == (True, EITHER)
    assert [person.split == "valid" for person in original.people] == [False, False, True, True]
    for a, b in zip(hourglass.people, original.people, strict=True):
        assert a.image == b.image
        assert np.array_equal(a.joints, b.joints)
        assert np.array_equal(a.labelled, b.labelled)
        assert np.array_equal(a.center, b.center)
        assert (a.size, a.head_size) == pytest.approx((b.size, b.head_size))


@pytest.mark.slow
def test_whose_left_it_is(tmp_path: Path) -> None:
    own = turned(flic_content())
    assert read_flic(save_h5(tmp_path / "a.h5", own), TRAIN)[1] == PERSON
    seen = {**flic_content(), "normalize": own["normalize"]}
    assert read_flic(save_h5(tmp_path / "b.h5", seen), TRAIN)[1] == OBSERVER
    assert read_flic(save_h5(tmp_path / "c.h5", flic_content(200)), TRAIN)[1] == OBSERVER
    both = {**own, "normalize": own["normalize"] + 3}
    with pytest.raises(UserError, match="observer-centric joints according to 'normalize', person-centric"):
        read_flic(save_h5(tmp_path / "d.h5", both), TRAIN)


def test_unusable_people_are_dropped_by_reason(tmp_path: Path) -> None:
    content = flic_content(5)
    content["part"][0] = 0
    content["scale"][1] = 0
    content["normalize"][2] = 0
    found, _ = read_flic(save_h5(tmp_path / "train.h5", content), TRAIN)
    assert len(found.people) == 2
    assert found.dropped == {"no labelled joint": 1, "no scale": 1, "no torso": 1}

    rows = flic_examples(5, tested=1)
    rows[0]["istrain"] = np.array([[False]])
    rows[1]["coords"][:, 3] = np.nan
    rows[2]["coords"][:, 5] = np.nan
    rows[3]["torsobox"] = np.full((1, 4), np.nan)
    found, _ = read_flic(save_examples(tmp_path / "examples.mat", rows), TRAIN)
    assert found.dropped == {"neither training nor test": 1, "no torso": 1, "no torso box": 1}
    assert [np.flatnonzero(~person.labelled).tolist() for person in found.people] == [[5], []]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"filepath": 3}, "examples(1).filepath is 3"),
        ({"coords": np.zeros((2, 11))}, "examples(1).coords has shape (2, 11), expected (2, 29)"),
        ({"coords": "none"}, "examples(1).coords is 'none', expected numbers"),
        ({"coords": np.full((2, 29), 1e7)}, "examples(1).coords holds values beyond any image"),
        ({"torsobox": np.zeros((1, 3))}, "examples(1).torsobox has shape (1, 3)"),
        ({"istest": np.zeros((0, 0))}, "examples(1).istest has shape (0,)"),
        ({"istrain": structs([{"a": 1}], ["a"])}, "examples(1).istrain is [{}]"),
        ({"istrain": 0, "istest": 0}, "nobody in it can be used (neither training nor test)"),
    ],
)
def test_wrong_examples(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_flic(save_examples(tmp_path / "examples.mat", flic_examples(**changes)), TRAIN)
    assert words in str(caught.value)
    assert "; give FLIC's examples.mat" in str(caught.value)


@pytest.mark.slow
def test_other_files(tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(UserError) as caught:
            read_flic(path, TRAIN)
        assert words in str(caught.value)

    refused(save_json(tmp_path / "a.json", []), "JSON")
    scipy.io.savemat(tmp_path / "b.mat", {"joints": np.zeros(3)})
    refused(tmp_path / "b.mat", "holds no 'examples'")
    missing = [name for name in EXAMPLE if name != "coords"]
    refused(
        save_examples(tmp_path / "c.mat", flic_examples(), missing), "examples(1).coords is 'missing', expected numbers"
    )
    content = flic_content()
    content["part"] = np.zeros((4, 16, 2))
    refused(save_h5(tmp_path / "d.h5", content), "expected numbers (4, 11, 2)")
    refused(save_h5(tmp_path / "e.h5", {**flic_content(), "scale": np.zeros(4)}), "nobody in it can be used (no scale)")
