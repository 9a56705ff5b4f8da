from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.data.people import Person, image_split
from nas.data.readers.dataset import apply_validation_list
from nas.data.readers.parsing import file_format, read_json
from nas.data.readers.splits import (
    TRAINING,
    merge,
    read_image_names,
    remove_split_overlap,
    validate_images,
    validate_people,
)
from nas.errors import UserError


def person(image: str, split: str = "train", x: float = 10) -> Person:
    joints = np.zeros((2, 2), np.float32)
    return Person(image, joints, np.ones(2, bool), np.array([x, 5], np.float32), 100, 10, split)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["train", "holdout", "valid"]))))
def test_no_training_person_is_in_a_validation_image(rows: list[tuple[str, str]]) -> None:
    people = [person(image, split) for image, split in rows]
    kept, dropped = remove_split_overlap(people)
    splits = defaultdict(set)
    for one in kept:
        splits[one.image].add(one.split == "valid")
    assert all(len(sides) == 1 for sides in splits.values())
    assert [p for p in kept if p.split == "valid"] == [p for p in people if p.split == "valid"]
    assert len(kept) + sum(dropped.values()) == len(people)


def test_training_people_of_one_image_stay_together_and_a_tenth_is_held_out() -> None:
    people = validate_images([person(f"{i // 2}.jpg") for i in range(8000)], frozenset({"7.jpg"}))
    splits = defaultdict(set)
    for one in people:
        splits[one.image].add(one.split)
    assert all(len(found) == 1 for found in splits.values())
    assert splits["7.jpg"] == {"valid"}
    assert 0.09 < sum(found == {"holdout"} for found in splits.values()) / len(splits) < 0.11
    assert all(one.split in ("valid", image_split(one.image, TRAINING)) for one in people)


def test_only_listed_people_are_validated_and_others_in_their_images_are_left_out() -> None:
    people = [person("a", x=10), person("a", x=50), person("b", "valid"), person("c", x=10)]
    listed = [person("a", "valid", 10.4), person("c", "valid", 12)]
    split = validate_people(people, listed)
    assert [one.split == "valid" for one in split] == [True, False, False, False]
    kept, dropped = remove_split_overlap(split)
    assert [one.image for one in kept] == ["a", "b", "c"]
    assert dropped == {"training people in a validation image": 1}


def test_people_of_two_files_are_taken_once() -> None:
    first = [person("a"), person("a"), person("b")]  # doubles in one file are the file's own
    people, dropped = merge([first, [person("a", x=10.9), person("a", x=12), person("c")], [person("c")]])
    assert [one.image for one in people] == ["a", "a", "b", "a", "c"]
    assert dropped == {"also in an earlier file": 2}
    people, _ = merge([first, [person("b", "valid")]])
    assert [one.split for one in people] == ["train", "train", "valid"]
    people, _ = merge([[person("b", "valid")], first])
    assert [(one.image, one.split) for one in people] == [("b", "valid"), ("a", "train"), ("a", "train")]


def test_names_of_images(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# validation\n\n a.jpg \nfolder/b.jpg\n")
    assert read_image_names(path) == {"a.jpg", "folder/b.jpg"}
    for content in (b"", b"\n# nothing\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="one image name per line"):
            read_image_names(path)
    with pytest.raises(UserError, match="FileNotFoundError"):
        read_image_names(tmp_path / "none")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_of_windows_are_read(tmp_path: Path, mark: str, ends: str) -> None:
    (tmp_path / "list.txt").write_bytes(ends.join([f"{mark}a.jpg", "# comment", " b.jpg ", ""]).encode())
    assert read_image_names(tmp_path / "list.txt") == {"a.jpg", "b.jpg"}


def test_names_that_match_nothing_are_said(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\nno_such.jpg\n")
    said: list[str] = []
    people = apply_validation_list([person("a.jpg"), person("b.jpg")], tmp_path / "list.txt", said.append)
    assert [one.split == "valid" for one in people] == [True, False]
    assert any("1 of 2 names are of no image in the annotations: no_such.jpg" in line for line in said)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_of_windows_is_read(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "people.json").write_bytes(mark + b'{"images": []}')
    assert read_json(tmp_path / "people.json", "remedy") == {"images": []}
    assert file_format(tmp_path / "people.json", "remedy") == "JSON"
