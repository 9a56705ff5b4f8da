"""Batches cut from packed people on the training device: one warp per batch, no Python per image.

The network's input is the box around the person at ``input_size`` pixels. A sample is an affine map from input pixels
to crop pixels; rotation, scale, shift and mirroring are all in that one map, so each image is interpolated once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data.packed.reader import PackedPeople

PIXEL_MEAN, PIXEL_SCALE = 127.5, 64.0
"""Networks see (pixel − mean) / scale."""


@dataclass(frozen=True)
class Augmentation:
    """Strength of the augmentation of training images. All zero: none.

    Attributes:
        rotate: largest rotation in either direction, in degrees.
        scale: largest change of the box's scale, as a fraction.
        shift: largest shift of the box, as a fraction of its side.
        flip: probability of mirroring.
        colour: strength of brightness, contrast and colour-cast changes, as a fraction.

    Raises:
        ValueError: a value out of range.
    """

    rotate: float = 30.0
    scale: float = 0.25
    shift: float = 0.05
    flip: float = 0.5
    colour: float = 0.2

    def __post_init__(self) -> None:
        for name, most in (("rotate", 180), ("scale", 1), ("shift", 1), ("flip", 1), ("colour", 1)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"augmentation: {name} must be from 0 to {most}, not {value}")


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of network inputs.

    Attributes:
        images: (N, 3, H, W) float32, channels-last, normalised.
        joints: (N, J, 2) float32, input pixels.
        labelled: (N, J) bool.
        to_crop: (N, 2, 3) float32, input pixels → crop pixels.
    """

    images: Tensor
    joints: Tensor
    labelled: Tensor
    to_crop: Tensor


def fit_to_input(people: PackedPeople, input_size: int) -> PackedPeople:
    """Reduce crops, by area averaging, so that the box is ``input_size`` pixels; smaller ones are returned unchanged.

    Done once after loading: this saves memory and avoids aliasing when batches are cut.
    """
    if people.box <= input_size:
        return people
    side = people.crops.shape[-1]
    small = 2 * round(side * input_size / people.box / 2)
    average = _area_average(side, small).to(people.crops.device)
    chunks = [
        (average @ chunk.float() @ average.T).round_().clamp_(0, 255).to(torch.uint8)
        for chunk in people.crops.split(256)
    ]
    crops = torch.cat(chunks).contiguous(memory_format=torch.channels_last)
    ratio = small / side
    to_original = people.to_original.clone()
    to_original[:, :, :2] /= ratio
    return replace(people, box=input_size, crops=crops, joints=people.joints * ratio, to_original=to_original)


def _area_average(side: int, small: int) -> Tensor:
    """Weights (small, side) that reduce ``side`` pixels to ``small``, each the mean over the exact interval it covers.

    torch's area mode averages whole pixels instead, which moves the image by up to half a pixel.
    """
    edges = torch.arange(small + 1) * (side / small)
    left = torch.arange(side)
    overlap = torch.minimum(left + 1, edges[1:, None]) - torch.maximum(left, edges[:-1, None])
    return overlap.clamp_min(0) * (small / side)


def centred_maps(people: PackedPeople, count: int, input_size: int) -> Tensor:
    """Maps (count, 2, 3) from input pixels to crop pixels that show each person's box without augmentation."""
    side = people.crops.shape[-1]
    step = people.box / input_size
    box_map = torch.tensor(
        [[step, 0, (side - people.box) / 2], [0, step, (side - people.box) / 2]], device=people.crops.device
    )
    return box_map.expand(count, 2, 3)


def random_maps(
    people: PackedPeople, count: int, input_size: int, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw random maps from input pixels to crop pixels.

    Returns:
        maps (count, 2, 3) and mirrored (count,) bool.
    """
    device = people.crops.device
    u = torch.rand((5, count), generator=generator, device=device) * 2 - 1
    angle = u[0] * augmentation.rotate * torch.pi / 180
    # A ratio and its inverse are equally likely.
    step = people.box / input_size * torch.exp(u[1] * math.log1p(augmentation.scale))
    mirrored = (u[2] + 1) / 2 < augmentation.flip
    sign = 1 - 2 * mirrored.float()
    cos, sin = step * angle.cos(), step * angle.sin()
    linear = torch.stack([torch.stack([cos * sign, -sin], -1), torch.stack([sin * sign, cos], -1)], dim=1)
    centre = people.crops.shape[-1] / 2 + u[3:].T * augmentation.shift * people.box
    offset = centre - (linear @ torch.full((2, 1), input_size / 2, device=device)).squeeze(-1)
    return torch.cat([linear, offset.unsqueeze(-1)], dim=-1), mirrored


def cut_batch(
    people: PackedPeople,
    indices: Tensor,
    input_size: int,
    to_crop: Tensor,
    mirrored: Tensor | None = None,
) -> Batch:
    """Cut a batch out of the crops.

    Args:
        people: N of them, on the device.
        indices: (B,), the people of the batch.
        input_size: H = W of the images.
        to_crop: (B, 2, 3) from input pixels to crop pixels.
        mirrored: (B,) bool, images whose left and right joints are swapped.
    """
    grid = _grid(to_crop, people.crops.shape[-1], input_size)
    images = F.grid_sample(
        _select(people.crops, indices), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    images = _normalised(images)

    joints, labelled = people.joints[indices], people.labelled[indices]
    if mirrored is not None:
        order = _on_device(people.skeleton.flip_order, joints.device)
        joints = torch.where(mirrored[:, None, None], joints[:, order], joints)
        labelled = torch.where(mirrored[:, None], labelled[:, order], labelled)
    # The inverse in closed form: it does not synchronise with the device, nor call a library that CUDA graphs exclude.
    (a, b), (c, d) = (row.unbind(-1) for row in to_crop[:, None, :, :2].unbind(2))  # (B, 1) each
    x, y = (joints - to_crop[:, None, :, 2]).unbind(-1)  # (B, J)
    joints = torch.stack([d * x - b * y, a * y - c * x], dim=-1) / (a * d - b * c).unsqueeze(-1)
    return Batch(images, joints, labelled, to_crop)


def cut_boxes(people: PackedPeople, indices: Tensor, input_size: int) -> Tensor:
    """Cut images of people's boxes without augmentation: :func:`cut_batch` with :func:`centred_maps`, but faster.

    Args:
        people: N of them, on the device.
        indices: (B,), the people of the batch.
        input_size: H = W of the images.

    Returns:
        (B, 3, H, W) float32, channels-last, normalised.
    """
    side = people.crops.shape[-1]
    if people.box != input_size or (side - input_size) % 2:
        return cut_batch(people, indices, input_size, centred_maps(people, len(indices), input_size)).images
    margin = (side - input_size) // 2  # in whole pixels, so that nothing is interpolated
    boxes = people.crops[:, :, margin : margin + input_size, margin : margin + input_size]
    return _normalised(_select(boxes, indices))


def _select(crops: Tensor, indices: Tensor) -> Tensor:
    """Select crops, uint8 (N, 3, S, S), as float32 (B, 3, S, S), channels-last."""
    return crops.permute(0, 2, 3, 1).index_select(0, indices).float().permute(0, 3, 1, 2)


def _normalised(images: Tensor) -> Tensor:
    """Normalise pixels in place; channels-last."""
    return images.sub_(PIXEL_MEAN).div_(PIXEL_SCALE).contiguous(memory_format=torch.channels_last)


def _grid(to_crop: Tensor, side: int, input_size: int) -> Tensor:
    """Position (B, H, W, 2) of each input pixel on the crop, in the coordinates of grid_sample.

    Without aligned corners, −1 and 1 are the crop's outer edges: x → 2x/side − 1. Adding the contributions of column
    and row takes a third of the time of affine_grid, which multiplies matrices for every pixel.
    """
    at = (torch.arange(input_size, device=to_crop.device) + 0.5).unsqueeze(-1)
    columns, rows, offset = (to_crop * (2 / side)).unsqueeze(1).unbind(-1)  # (B, 1, 2) each
    across, down = columns * at, rows * at + (offset - 1)  # (B, W, 2), (B, H, 2)
    return down.unsqueeze(2) + across.unsqueeze(1)


@cache
def _on_device(order: tuple[int, ...], device: torch.device) -> Tensor:
    """A permutation as a tensor, copied only once: a copy per batch would synchronise with the device."""
    return torch.tensor(order, device=device)


def jitter_colours(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Randomly change brightness, contrast and colour cast of each image; images: (N, 3, H, W), normalised."""
    if not strength:
        return images
    u = torch.rand((len(images), 5, 1, 1), generator=generator, device=images.device) * 2 - 1
    gain = (1 + strength * u[:, :1]) * (1 + 0.5 * strength * u[:, 1:4])
    return torch.addcmul(strength * u[:, 4:] * (PIXEL_MEAN / PIXEL_SCALE) * 0.5, images, gain)


def to_original(people: PackedPeople, indices: Tensor, positions: Tensor, to_crop: Tensor) -> Tensor:
    """Convert input pixels to pixels of the original images.

    Args:
        people: the people that the batch was cut from.
        indices: (B,), the people of the batch.
        positions: (B, J, 2) input pixels.
        to_crop: (B, 2, 3), the maps that the batch was cut with.
    """
    in_crop = positions @ to_crop[:, :, :2].transpose(1, 2) + to_crop[:, None, :, 2]
    matrix = people.to_original[indices]
    return in_crop @ matrix[:, :, :2].transpose(1, 2) + matrix[:, None, :, 2]


def to_input(people: PackedPeople, indices: Tensor, positions: Tensor, to_crop: Tensor) -> Tensor:
    """Convert pixels of the original images to input pixels; the inverse of :func:`to_original`, with its arguments."""
    matrix = people.to_original[indices]
    in_crop = (positions - matrix[:, None, :, 2]) @ torch.linalg.inv(matrix[:, :, :2]).mT
    positions = (in_crop - to_crop[:, None, :, 2]) @ torch.linalg.inv(to_crop[:, :, :2]).mT
    return positions


def as_images(images: Tensor) -> Tensor:
    """Convert normalised images (N, 3, H, W) to pixels, uint8 (N, H, W, 3) on the CPU."""
    pixels = (images * PIXEL_SCALE + PIXEL_MEAN).clamp(0, 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu()
