"""Synthetic people: properties that training relies on."""

from dataclasses import replace

import numpy as np
import pytest

from nas.data.skeletons import MPII
from nas.data.synthetic.figure_renderer import FigureRenderer
from nas.data.synthetic.render import SyntheticPerson, render_person
from nas.data.synthetic.scene import SceneConfig

BARE = SceneConfig(clutter=0, occluders=0, others=0, light=0, truncation=0)
WHOLE = replace(SceneConfig(), truncation=0)
MARGIN = 1.71
RIGHT_SHOULDER, LEFT_SHOULDER = MPII.joints.index("right shoulder"), MPII.joints.index("left shoulder")
NECK, TOP = MPII.joints.index("upper neck"), MPII.joints.index("head top")


def people(count: int, figures: SceneConfig, box: int = 64) -> list[SyntheticPerson]:
    return [render_person(5, index, box, MARGIN, figures) for index in range(count)]


def in_box(person: SyntheticPerson, box: int) -> np.ndarray:
    """Joints (16, 2) as fractions of the central box."""
    return (person.joints - person.crop.shape[0] / 2) / box + 0.5


def colour_at(person: SyntheticPerson, place: np.ndarray) -> np.ndarray:
    """The mean colour (3,) of the pixels around (x, y)."""
    x, y = np.floor(place).astype(int)
    return person.crop[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)


@pytest.mark.parametrize(("box", "size"), [(64, 110), (128, 218), (256, 438), (65, 112)])
def test_shapes_and_types(box: int, size: int) -> None:
    person = render_person(0, 0, box, MARGIN)
    assert person.crop.shape == (size, size, 3)
    assert person.crop.dtype == np.uint8
    assert person.joints.shape == (16, 2)
    assert person.joints.dtype == np.float32
    assert person.labelled.shape == (16,)
    assert person.labelled.dtype == np.bool_
    assert isinstance(person.head_size, float)


def test_same_arguments_draw_the_same_person() -> None:
    for index in range(5):
        once, again = (render_person(3, index, 64, MARGIN) for _ in range(2))
        assert once.crop.tobytes() == again.crop.tobytes()
        assert once.joints.tobytes() == again.joints.tobytes()
        assert once.labelled.tobytes() == again.labelled.tobytes()
        assert once.head_size == again.head_size


def test_seed_and_index_each_change_the_person() -> None:
    poses = {render_person(seed, index, 64, MARGIN).joints.tobytes() for seed in range(4) for index in range(4)}
    assert len(poses) == 16


def test_global_random_state_is_neither_used_nor_touched() -> None:
    before = np.random.get_state()[1].tobytes()
    render_person(0, 0, 64, MARGIN)
    assert np.random.get_state()[1].tobytes() == before


def test_people_fill_the_central_box() -> None:
    for person in people(60, WHOLE):
        joints = in_box(person, 64)
        assert person.labelled.all()
        assert joints.min() >= 0
        assert joints.max() <= 1
        assert 0.749 <= np.ptp(joints, axis=0).max() <= 0.951
        assert np.abs((joints.min(axis=0) + joints.max(axis=0)) / 2 - 0.5).max() < 0.05


@pytest.mark.parametrize("box", [64, 65, 256])
def test_the_background_reaches_every_edge(box: int) -> None:
    for person in people(5, BARE, box):
        for edge, inside in ((0, 3), (-1, -4)):
            for crop in (person.crop, person.crop.transpose(1, 0, 2)):
                assert np.abs(crop[edge].astype(int) - crop[inside]).mean() < 8


def test_close_ups_lose_exactly_the_joints_outside_the_box() -> None:
    for person in people(60, replace(BARE, truncation=1)):
        joints = in_box(person, 64)
        np.testing.assert_array_equal(person.labelled, ((joints >= 0) & (joints <= 1)).all(axis=1))
        assert person.labelled.sum() >= 2
    assert not all(person.labelled.all() for person in people(10, replace(BARE, truncation=1)))


def test_head_size_fits_the_head_and_the_body() -> None:
    for person in people(60, WHOLE):
        assert 1.05 < np.linalg.norm(person.joints[TOP] - person.joints[NECK]) / person.head_size < 1.6
    for person in people(40, replace(BARE, pose=0)):
        height = np.ptp(person.joints[:, 1])
        assert 1 / 7.6 < np.linalg.norm(person.joints[TOP] - person.joints[NECK]) / height < 1 / 5.8


def test_right_is_the_persons_right() -> None:
    """People whose right shoulder is at the image's left show a face under the hair; others show hair only."""
    faces, backs = [], []
    for person in people(120, replace(BARE, pose=0), box=128):
        neck, top = person.joints[NECK], person.joints[TOP]
        shoulders = person.joints[LEFT_SHOULDER, 0] - person.joints[RIGHT_SHOULDER, 0]
        contrast = np.abs(colour_at(person, neck + 0.3 * (top - neck)) - colour_at(person, neck + 0.88 * (top - neck)))
        if abs(shoulders) > 0.6 * np.linalg.norm(top - neck):
            (faces if shoulders > 0 else backs).append(contrast.mean())
    assert len(faces) > len(backs) > 10
    assert np.median(faces) > 2 * np.median(backs)


def test_standing_people_have_their_parts_in_order_and_sides_apart() -> None:
    for person in people(40, replace(BARE, pose=0)):
        down = person.joints[:, 1]
        assert down[TOP] < down[NECK] < down[7] < down[6] < min(down[[1, 4]]) < min(down[[0, 5]])
        right, left = np.array(MPII.flip_pairs)[:3].T
        sides = person.joints[left, 0] - person.joints[right, 0]
        facing = np.sign(person.joints[LEFT_SHOULDER, 0] - person.joints[RIGHT_SHOULDER, 0])
        assert np.sign(sides[2]) == facing, "hips and shoulders turn together"


def test_joints_lie_on_the_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same scene without its person, every joint's pixel differs and far ones do not."""
    drawn = [render_person(9, index, 128, MARGIN, BARE) for index in range(30)]
    monkeypatch.setattr(FigureRenderer, "draw", lambda self: None)
    for index, person in enumerate(drawn):
        changed = np.any(person.crop != render_person(9, index, 128, MARGIN, BARE).crop, axis=2)
        x, y = np.floor(person.joints).astype(int).T
        assert changed[y, x].all()
        rows, columns = np.nonzero(changed)
        distance = np.hypot(columns[:, None] + 0.5 - person.joints[:, 0], rows[:, None] + 0.5 - person.joints[:, 1])
        assert distance.min(axis=1).max() < 2.5 * person.head_size


@pytest.mark.parametrize(
    "change",
    [{"occluders": 6.0}, {"clutter": 1.0}, {"others": 5.0}, {"light": 1.0}],
    ids=lambda change: next(iter(change)),
)
def test_scenery_changes_pixels_but_not_joints(change: dict[str, float]) -> None:
    for index in range(4):
        plain = render_person(1, index, 64, MARGIN, BARE)
        busy = render_person(1, index, 64, MARGIN, replace(BARE, **change))
        assert np.any(plain.crop != busy.crop)
        np.testing.assert_array_equal(plain.joints, busy.joints)
        np.testing.assert_array_equal(plain.labelled, busy.labelled)
        assert plain.head_size == busy.head_size


def test_occluders_leave_most_of_the_person_in_sight() -> None:
    for index in range(40):
        plain = render_person(2, index, 64, MARGIN, BARE)
        hidden = render_person(2, index, 64, MARGIN, replace(BARE, occluders=1.0))
        x, y = np.floor(plain.joints).astype(int).T
        changed = np.abs(plain.crop[y, x].astype(int) - hidden.crop[y, x]).max(axis=1) > 0
        assert changed.sum() <= 3 * 3 + 2, "three things, three joints each, and antialiased edges"
        assert not changed[TOP]


def test_pose_moves_joints() -> None:
    def spread(pose: float) -> float:
        joints = np.stack([in_box(person, 64) for person in people(40, replace(BARE, pose=pose))])
        return float(joints.std(axis=0).mean())

    assert spread(0.0) < spread(0.5) < spread(1.0)


def test_the_scene_is_the_same_at_every_size() -> None:
    for index in range(6):
        small, large = (render_person(4, index, box, MARGIN, WHOLE) for box in (64, 128))
        np.testing.assert_allclose(in_box(small, 64), in_box(large, 128), atol=1e-5)
        np.testing.assert_array_equal(small.labelled, large.labelled)
        assert large.head_size == pytest.approx(2 * small.head_size)
    for index in range(6):
        # Crops of 112 and 224 show exactly the same field, so that pixels can be compared.
        small, large = (render_person(4, index, box, 1.75, replace(WHOLE, light=0)).crop for box in (64, 128))
        halved = large.reshape(112, 2, 112, 2, 3).mean(axis=(1, 3))
        assert np.abs(halved - small).mean() < 3


@pytest.mark.parametrize("knob", ["clutter", "pose", "light", "truncation", "occluders", "others"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_knobs_out_of_range_are_refused(knob: str, value: float) -> None:
    with pytest.raises(ValueError, match=knob):
        SceneConfig(**{knob: value})


@pytest.mark.parametrize("knob", ["clutter", "pose", "light", "truncation"])
def test_shares_above_one_are_refused(knob: str) -> None:
    with pytest.raises(ValueError, match=knob):
        SceneConfig(**{knob: 1.01})


@pytest.mark.parametrize(("box", "margin"), [(0, 1.5), (64, 0.9), (64, float("nan")), (64, float("inf"))])
def test_impossible_sizes_are_refused(box: int, margin: float) -> None:
    with pytest.raises(ValueError, match="box must be"):
        render_person(0, 0, box, margin)
