from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data.augmentation import (
    PIXEL_MEAN,
    PIXEL_SCALE,
    Augmentation,
    centred_maps,
    cut_batch,
    fit_to_input,
    jitter_colours,
    random_maps,
    to_original,
)
from nas.data.packed.reader import PackedPeople
from nas.data.skeletons import Skeleton

# Each joint is a dot in a colour channel of its own.
DOTS = Skeleton("dots", ("left", "right", "middle"), ((0, 1),), (), {"all": (0, 1, 2)})
NOTHING = Augmentation(0, 0, 0, 0, 0)


def dotted(count: int, box: int, side: int, seed: int = 0, spread: float = 2.0) -> PackedPeople:
    """Black crops with three dots a person, near enough to the centre to stay in view under any augmentation."""
    rng = np.random.default_rng(seed)
    joints = side / 2 + rng.uniform(-0.18, 0.18, (count, 3, 2)) * box
    grid = np.arange(side) + 0.5
    x = np.exp(-0.5 * ((grid - joints[..., :1]) / spread) ** 2)
    y = np.exp(-0.5 * ((grid - joints[..., 1:]) / spread) ** 2)
    crops = np.rint(255 * y[..., :, None] * x[..., None, :]).astype(np.uint8)
    to_original = np.tile(np.array([[3.7, 0.2, 11], [-0.2, 3.7, -40]]), (count, 1, 1))
    return PackedPeople(
        skeleton=DOTS,
        box=box,
        crops=torch.from_numpy(crops).contiguous(memory_format=torch.channels_last),
        joints=torch.from_numpy(joints).float(),
        labelled=torch.from_numpy(rng.random((count, 3)) < 0.7),
        head_size=torch.ones(count),
        to_original=torch.from_numpy(to_original).float(),
        images=("",) * count,
        checksum="",
    )


def pixels(images: Tensor) -> Tensor:
    """Normalised images → 0 to 255."""
    return images * PIXEL_SCALE + PIXEL_MEAN


def where_dots_are(images: Tensor) -> Tensor:
    """(N, 3, 2) centre of mass of each channel, in pixels."""
    light = pixels(images)
    light = torch.where(light > 0.5, light, 0)
    grid = torch.arange(images.shape[-1]) + 0.5
    mass = light.sum(dim=(2, 3))
    return torch.stack([(light.sum(2) * grid).sum(-1), (light.sum(3) * grid).sum(-1)], dim=-1) / mass.unsqueeze(-1)


def seeded_maps(people: PackedPeople, size: int, changes: Augmentation, seed: int = 0) -> tuple[Tensor, Tensor]:
    return random_maps(people, len(people), size, changes, torch.Generator().manual_seed(seed))


def noisy(count: int, box: int, side: int) -> PackedPeople:
    crops = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return replace(dotted(count, box, side), crops=crops.to(torch.uint8))


def test_unchanged_people_are_the_middle_of_their_crops_to_the_pixel() -> None:
    people = noisy(3, 64, 110)
    batch = cut_batch(people, torch.tensor([2, 0]), 64, centred_maps(people, 2, 64))
    assert torch.equal(pixels(batch.images).round(), people.crops[[2, 0], :, 23:87, 23:87].float())
    assert (pixels(batch.images) - pixels(batch.images).round()).abs().max() < 0.01
    assert torch.allclose(batch.joints, people.joints[[2, 0]] - 23, atol=1e-4)
    assert torch.equal(batch.labelled, people.labelled[[2, 0]])
    assert batch.images.dtype == batch.joints.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_no_augmentation_changes_nothing() -> None:
    people = noisy(4, 64, 110)
    to_crop, mirrored = seeded_maps(people, 32, NOTHING)
    assert torch.allclose(to_crop, centred_maps(people, 4, 32), atol=1e-5)
    assert not mirrored.any()


def test_a_box_twice_the_input_is_averaged_two_by_two() -> None:
    people = noisy(2, 64, 110)
    batch = cut_batch(people, torch.arange(2), 32, centred_maps(people, 2, 32))
    want = F.avg_pool2d(people.crops[:, :, 23:87, 23:87].float(), 2)
    assert torch.allclose(pixels(batch.images), want, atol=0.02)
    assert torch.allclose(batch.joints, (people.joints - 23) / 2, atol=1e-4)


@pytest.mark.parametrize("size", [48, 64, 96])
@pytest.mark.parametrize(
    "changes",
    [
        Augmentation(30, 0, 0, 0, 0),
        Augmentation(0, 0.25, 0, 0, 0),
        Augmentation(0, 0, 0.05, 0, 0),
        Augmentation(0, 0, 0, 1, 0),
        Augmentation(),
        Augmentation(180, 0.3, 0.1, 0.5, 0),
    ],
)
def test_joints_land_where_their_dots_land(changes: Augmentation, size: int) -> None:
    people = dotted(64, 64, 110)
    to_crop, mirrored = seeded_maps(people, size, changes)
    batch = cut_batch(people, torch.arange(64), size, to_crop, mirrored)
    dots = where_dots_are(batch.images)
    # A mirrored person's left hand is the dot that was on the right.
    exchanged = torch.where(mirrored[:, None, None], dots[:, [1, 0, 2]], dots)
    assert (batch.joints - exchanged).norm(dim=-1).max() < 0.1
    labelled = torch.where(mirrored[:, None], people.labelled[:, [1, 0, 2]], people.labelled)
    assert torch.equal(batch.labelled, labelled)


def test_a_mirrored_image_is_the_mirror_image() -> None:
    people = noisy(2, 64, 110)
    to_crop, mirrored = seeded_maps(people, 64, replace(NOTHING, flip=1.0))
    assert mirrored.all()
    batch = cut_batch(people, torch.arange(2), 64, to_crop, mirrored)
    plain = cut_batch(people, torch.arange(2), 64, centred_maps(people, 2, 64))
    assert torch.allclose(batch.images, plain.images.flip(-1), atol=1e-3)
    assert torch.allclose(batch.joints[..., 0], 64 - plain.joints[:, [1, 0, 2], 0], atol=1e-4)
    assert torch.allclose(batch.joints[..., 1], plain.joints[:, [1, 0, 2], 1], atol=1e-4)


def test_augmentation_stays_within_its_limits_and_uses_them() -> None:
    people = dotted(1, 64, 110)
    changes = Augmentation(rotate=30, scale=0.25, shift=0.05, flip=0.3)
    to_crop, mirrored = random_maps(people, 4000, 64, changes, torch.Generator().manual_seed(0))
    down = to_crop[:, :, 1]  # where the input's y axis points in the crop
    angle = torch.atan2(-down[:, 0], down[:, 1]).rad2deg()
    scale = down.norm(dim=-1)
    middle = (to_crop @ torch.tensor([32.0, 32.0, 1.0]) - 55) / 64
    for values, limit in ((angle, 30), (scale.log(), np.log(1.25)), (middle[:, 0], 0.05), (middle[:, 1], 0.05)):
        assert 0.99 * limit < values.abs().max() < 1.001 * limit
        assert values.mean().abs() < 0.05 * limit
    assert torch.allclose(torch.linalg.det(to_crop[:, :, :2]), torch.where(mirrored, -1, 1) * scale**2, atol=1e-5)
    assert mirrored.float().mean() == pytest.approx(0.3, abs=0.03)


def test_a_generator_decides_everything() -> None:
    people = dotted(8, 64, 110)
    images = cut_batch(people, torch.arange(8), 64, centred_maps(people, 8, 64)).images
    first, again, other = (seeded_maps(people, 64, Augmentation(), seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    colours = [jitter_colours(images, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(colours[0], colours[1])
    assert not torch.equal(colours[0], colours[2])


def test_to_original_undoes_the_cut() -> None:
    people = dotted(32, 64, 110)
    indices = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    to_crop, _ = seeded_maps(people, 48, replace(Augmentation(), flip=0.0))
    batch = cut_batch(people, indices, 48, to_crop)
    back = to_original(people, indices, batch.joints, to_crop)
    assert (back - people.original_joints()[indices]).abs().max() < 1e-3 * 3.7


def test_to_original_of_a_mirrored_image_leaves_positions_where_they_are_seen() -> None:
    people = dotted(32, 64, 110)
    to_crop, mirrored = seeded_maps(people, 64, replace(Augmentation(), flip=1.0))
    batch = cut_batch(people, torch.arange(32), 64, to_crop, mirrored)
    back = to_original(people, torch.arange(32), batch.joints, to_crop)
    assert (back - people.original_joints()[:, [1, 0, 2]]).abs().max() < 1e-3 * 3.7


def test_fit_to_input_averages_areas() -> None:
    people = noisy(3, 64, 128)
    small = fit_to_input(people, 32)
    assert small.box == 32
    assert small.crops.dtype == torch.uint8
    assert small.crops.is_contiguous(memory_format=torch.channels_last)
    want = F.avg_pool2d(people.crops.float(), 2)
    assert (small.crops.float() - want).abs().max() <= 0.5
    assert torch.allclose(small.joints, people.joints / 2)
    assert torch.allclose(small.original_joints(), people.original_joints(), atol=1e-2)


def test_fit_to_input_keeps_small_crops() -> None:
    people = dotted(2, 64, 110)
    assert fit_to_input(people, 64) is people
    assert fit_to_input(people, 256) is people


@pytest.mark.parametrize(("box", "side", "size"), [(256, 438, 64), (256, 438, 96), (128, 218, 64), (80, 136, 64)])
def test_fitted_joints_stay_on_their_dots(box: int, side: int, size: int) -> None:
    people = dotted(12, box, side, spread=2.0 * box / size)
    small = fit_to_input(people, size)
    assert small.crops.shape[-1] == pytest.approx(side * size / box, abs=1)
    batch = cut_batch(small, torch.arange(12), size, centred_maps(small, 12, size))
    assert (batch.joints - where_dots_are(batch.images)).norm(dim=-1).max() < 0.1
    back = to_original(small, torch.arange(12), batch.joints, centred_maps(small, 12, size))
    assert (back - people.original_joints()).abs().max() < 0.01


def test_colour_changes_are_one_draw_per_image_and_bounded() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.full((500, 3, 4, 4), 1.5)
    images[:, :, 0, 0] = -0.5
    changed = jitter_colours(images, 0.2, generator)
    assert changed.shape == images.shape
    assert torch.isfinite(changed).all()
    gain = (changed[:, :, 1, 1] - changed[:, :, 0, 0]) / 2
    shift = changed[:, :, 1, 1] - 1.5 * gain
    assert gain.min() > 0.8 * 0.9 - 1e-4
    assert gain.max() < 1.2 * 1.1 + 1e-4
    assert gain.std() > 0.05
    assert (gain[:, 0] - gain[:, 1]).abs().max() > 0.1  # a colour cast
    assert shift.abs().max() < 0.2
    assert (shift[:, 0] - shift[:, 1]).abs().max() < 1e-5  # brightness: the same in all channels
    assert (changed[:, :, 1:, 1:] == changed[:, :, 1:2, 1:2]).all()


def test_no_colour_strength_changes_nothing() -> None:
    images = torch.randn(2, 3, 4, 4)
    assert jitter_colours(images, 0.0, torch.Generator()) is images


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rotate": -1.0}, "rotate must be from 0 to 180, not -1.0"),
        ({"rotate": 200.0}, "rotate must be from 0 to 180, not 200.0"),
        ({"scale": -1.0}, "scale must be from 0 to 1, not -1.0"),
        ({"shift": float("nan")}, "shift must be from 0 to 1, not nan"),
        ({"flip": 1.5}, "flip must be from 0 to 1, not 1.5"),
        ({"colour": float("inf")}, "colour must be from 0 to 1, not inf"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"augmentation: {named}"):
        Augmentation(**values)
