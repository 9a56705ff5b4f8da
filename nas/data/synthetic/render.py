"""Procedurally rendered people: labelled images for training without any dataset.

A scene is described in *crop units* and rendered last: the origin is the centre of the crop, the side of the person's
box is 1, x points right and y down. The same seed and index therefore give the same scene at any size. People are posed
as 3-D stick figures and projected, which gives foreshortening and the order in which limbs occlude each other; the
joints are those of the projected stick figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nas.data.synthetic.appearance import sample_appearance
from nas.data.synthetic.background import draw_background
from nas.data.synthetic.canvas import Canvas
from nas.data.synthetic.colours import wall_colour
from nas.data.synthetic.figure_renderer import FigureRenderer
from nas.data.synthetic.occluders import draw_occluder
from nas.data.synthetic.scene import SceneConfig
from nas.data.synthetic.stick_figure import HEAD_WIDTH, fit_to_box, sample_bystander, sample_figure


@dataclass(frozen=True, eq=False)
class SyntheticPerson:
    """One rendered person.

    Attributes:
        crop: uint8 (S, S, 3) RGB, with the person's box in its centre.
        joints: float32 (16, 2), x then y in crop pixels, in the order of :data:`nas.data.skeletons.MPII`; 0-based and
            continuous, pixel centres at +0.5. Unlabelled joints may lie outside the crop.
        labelled: bool (16,), False for joints outside the central box.
        head_size: 0.6 × the diagonal of the head box, in crop pixels.
    """

    crop: NDArray[np.uint8]
    joints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    head_size: float


def render_person(
    seed: int, index: int, box: int, margin: float, scene: SceneConfig = SceneConfig()
) -> SyntheticPerson:
    """Render person ``index`` of the series ``seed``.

    Args:
        seed: identifies a series of people, at least 0.
        index: which person of the series, at least 0; people are independent of each other.
        box: side of the square box that the person fills, in pixels.
        margin: crop side as a multiple of ``box``, at least 1; the side is rounded to an even number of pixels.
        scene: what the image contains.

    Returns:
        The person, determined by the arguments alone; joints do not depend on background, occluders or light.

    Raises:
        ValueError: ``box`` or ``margin`` is too small, or ``seed`` or ``index`` is negative.
    """
    if box < 8 or not 1 <= margin < math.inf:
        raise ValueError(f"box must be at least 8 and margin finite and at least 1, got {box} and {margin}")
    # One random stream per aspect: changing one setting leaves everything that the others control unchanged.
    streams = np.random.default_rng((seed, index)).spawn(7)
    for_pose, for_placement, for_appearance, for_background, for_others, for_occluders, for_light = streams
    size = 2 * round(box * margin / 2)

    figure = fit_to_box(sample_figure(for_pose, scene.pose), for_placement, scene.truncation)
    backdrop = wall_colour(for_appearance)
    light = np.array([for_appearance.uniform(-1, 1), -0.6])

    canvas = Canvas(size, box, light)
    draw_background(canvas, for_background, backdrop, margin / 2, scene.clutter)
    for _ in range(min(3, for_others.poisson(scene.others))):
        FigureRenderer(canvas, sample_bystander(for_others, scene.pose), sample_appearance(for_others, backdrop)).draw()
    FigureRenderer(canvas, figure, sample_appearance(for_appearance, backdrop)).draw()
    for _ in range(min(3, for_occluders.poisson(scene.occluders))):
        draw_occluder(canvas, for_occluders, figure)

    joints = figure.points[:16]
    labelled = np.all(np.abs(joints) <= 0.5, axis=1)
    return SyntheticPerson(
        crop=_apply_camera(canvas.to_image(), for_light, scene.light, box),
        joints=(joints * box + size / 2).astype(np.float32),
        labelled=labelled,
        head_size=0.6 * math.hypot(1, HEAD_WIDTH) * figure.head * box,
    )


def _apply_camera(crop: NDArray[np.uint8], rng: Generator, strength: float, box: int) -> NDArray[np.uint8]:
    """Apply random lighting and camera effects to uint8 (S, S, 3); ``strength`` is :attr:`SceneConfig.light`."""
    contrast, brightness = 1 + strength * rng.uniform(-0.4, 0.3), strength * rng.uniform(-45, 45)
    cast = 1 + strength * rng.uniform(-0.18, 0.18, 3)
    angle, falloff = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, 0.45)
    blur, noise = rng.random() < 0.6 * strength, strength * rng.uniform(0, 12)
    softness = rng.uniform(0.25, 0.65) * box / 64

    axis = np.linspace(-1, 1, crop.shape[0], dtype=np.float32)
    shadow = 1 - falloff * (0.5 + 0.35 * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None]))
    gain = (contrast * cast).astype(np.float32) * shadow.astype(np.float32)[..., None]
    image = (crop.astype(np.float32) - 128) * gain + np.float32(128 + brightness)
    if blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), softness), np.float32)
    # Drawn last, because the number of random values depends on the image size.
    image += np.float32(noise) * rng.standard_normal(crop.shape, dtype=np.float32)
    return np.asarray(np.clip(image + 0.5, 0, 255), np.uint8)
