"""Procedurally drawn people: labelled pictures for training without any dataset.

A scene is made in *crop units* and only then rendered: the origin is the centre of the crop, the side of the
person's box is 1, x runs right and y down. The same seed and index therefore give the same scene at any
size. People are posed as 3-D stick figures and projected, which yields foreshortening and the order in which limbs
cover each other; the joints are the projected stick figure itself.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

RENDERING_VERSION = "75e6c154"
"""Change it when the same seed renders other people: files of older versions are then rendered anew.

It is part of the names of packed files. This value is the one that 0.7.0 derived from its source code, so that its
files are found again.
"""

Array = NDArray[np.float64]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class SceneConfig:
    """How varied and how hard the pictures are.

    Attributes:
        clutter: 0 to 1, how much stands in the background; at 0 it is a smooth backdrop and a floor.
        occluders: expected number of things in front of the person, at least 0. Each hides at most three joints,
            never the head.
        others: expected number of further people, behind the person and off the centre, at least 0.
        pose: 0 to 1, how far joints leave a standing pose with hanging arms; also scales in-plane rotation.
        light: 0 to 1, strength of changes in brightness, contrast, colour, shadow, sharpness and noise.
        truncation: probability, 0 to 1, of a close-up that reaches beyond the box; joints out there are not labelled.
    """

    clutter: float = 0.5
    occluders: float = 0.3
    others: float = 0.4
    pose: float = 0.8
    light: float = 0.5
    truncation: float = 0.05

    def __post_init__(self) -> None:
        for name in ("clutter", "pose", "light", "truncation"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"figures: {name} must lie between 0 and 1, got {value}")
        for name in ("occluders", "others"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"figures: {name} must be a finite number, at least 0, got {value}")


def stored_description(config: SceneConfig) -> str:
    """The text that packed files store for a scene configuration, unchanged since 0.7.0."""
    values = ", ".join(f"{field.name}={getattr(config, field.name)!r}" for field in fields(config))
    return f"Figures({values})"


@dataclass(frozen=True, eq=False)
class SyntheticPerson:
    """One drawn person.

    Attributes:
        crop: uint8 (S, S, 3) RGB, the person's box in the centre of it.
        joints: float32 (16, 2), x then y in crop pixels, in the order of :data:`nas.data.people.MPII`; 0-based and
            continuous, pixel centres at +0.5. Joints that are not labelled may lie outside the crop.
        labelled: bool (16,), False for joints outside the central box.
        head_size: 0.6 × the diagonal of the head box, in crop pixels.
    """

    crop: NDArray[np.uint8]
    joints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    head_size: float


def render_person(
    seed: int, index: int, box: int, margin: float, figures: SceneConfig = SceneConfig()
) -> SyntheticPerson:
    """Draw person ``index`` of the series ``seed``.

    Args:
        seed: names a series of people, at least 0.
        index: which person of the series, at least 0; each can be drawn alone.
        box: side in pixels of the square box that the person fills.
        margin: the crop's side is this multiple of ``box``, rounded to an even number of pixels; at least 1.
        figures: what the pictures contain.

    Returns:
        The person. Depends on the arguments alone; joints do not depend on background, occluders or light.

    Raises:
        ValueError: ``box`` or ``margin`` is too small, or ``seed`` or ``index`` is negative.
    """
    if box < 8 or not 1 <= margin < math.inf:
        raise ValueError(f"box must be at least 8 and margin finite and at least 1, got {box} and {margin}")
    # One stream for each concern: changing a knob leaves what the other knobs govern as it was.
    for_pose, for_place, for_look, for_scene, for_others, for_occluders, for_light = np.random.default_rng(
        (seed, index)
    ).spawn(7)
    size = 2 * round(box * margin / 2)

    body = _pose(for_pose, figures.pose)
    placed = _place(body, for_place, figures.truncation)
    backdrop = _wall_colour(for_look)
    sun = for_look.uniform(-1, 1)

    canvas = _Canvas(size, box, np.array([sun, -0.6]))
    _draw_background(canvas, for_scene, backdrop, margin / 2, figures.clutter)
    for _ in range(min(3, for_others.poisson(figures.others))):
        _Drawing(canvas, _bystander(for_others, figures.pose), _dress(for_others, backdrop)).draw()
    _Drawing(canvas, placed, _dress(for_look, backdrop)).draw()
    for _ in range(min(3, for_occluders.poisson(figures.occluders))):
        _draw_occluder(canvas, for_occluders, placed)

    joints = placed.points[:16]
    labelled = np.all(np.abs(joints) <= 0.5, axis=1)
    return SyntheticPerson(
        crop=_expose(canvas.downscaled(), for_light, figures.light, box),
        joints=(joints * box + size / 2).astype(np.float32),
        labelled=labelled,
        head_size=0.6 * math.hypot(1, _HEAD_WIDTH) * placed.head * box,
    )


# --- The stick figure ------------------------------------------------------------------------------------------------

_HEAD_WIDTH = 0.78  # of the head's height
_HAND, _TOE, _HEEL = 16, 18, 20  # the right one; the left one follows. Points 0 to 15 are the joints.
_SHOULDER, _ELBOW, _WRIST = (12, 13), (11, 14), (10, 15)
_HIP, _KNEE, _ANKLE = (2, 3), (1, 4), (0, 5)
_PELVIS, _THORAX, _NECK, _TOP = 6, 7, 8, 9

Range = tuple[float, float]


@dataclass(frozen=True)
class _Stance:
    """Ranges in degrees from which a pose is drawn; which leg leads is drawn too."""

    weight: float
    lean: Range  # of the trunk, forward
    lead: tuple[Range, Range, Range]  # thigh forward, thigh sideways, knee bend
    trail: tuple[Range, Range, Range]
    arms: float = 0.0  # probability that arms swing against the legs


_STANCES = (
    _Stance(0.34, (-5, 8), ((-5, 8), (0, 9), (0, 8)), ((-8, 5), (0, 9), (0, 8))),  # stands
    _Stance(0.18, (-2, 12), ((12, 38), (-2, 5), (2, 22)), ((-28, -8), (-2, 5), (5, 40)), 0.7),  # walks
    _Stance(0.12, (5, 28), ((35, 80), (-2, 8), (45, 105)), ((-35, -5), (-2, 8), (10, 90)), 0.8),  # runs
    _Stance(0.11, (-10, 25), ((60, 95), (2, 25), (55, 100)), ((60, 95), (2, 25), (55, 100))),  # sits
    _Stance(0.07, (10, 45), ((60, 110), (8, 35), (80, 130)), ((20, 100), (8, 35), (80, 130))),  # crouches
    _Stance(0.10, (-8, 10), ((-15, 25), (10, 45), (0, 50)), ((-20, 15), (10, 40), (0, 35))),  # legs apart
    _Stance(0.05, (-15, 15), ((40, 90), (0, 25), (0, 35)), ((-15, 5), (0, 10), (0, 25))),  # kicks
    _Stance(0.03, (35, 75), ((-5, 20), (0, 12), (0, 25)), ((-5, 15), (0, 12), (0, 25))),  # bends over
)

# Upper arm forward, upper arm sideways, elbow bend, and the plane of that bend (0 forward, + up, - across the body).
_ARMS: tuple[tuple[float, tuple[Range, Range, Range, Range]], ...] = (
    (0.34, ((-12, 18), (4, 18), (2, 35), (-50, 10))),  # hangs
    (0.10, ((-25, -5), (28, 50), (80, 115), (-85, -50))),  # hand on the hip
    (0.14, ((35, 95), (0, 30), (5, 85), (-60, 30))),  # reaches forward
    (0.14, ((-10, 15), (115, 170), (0, 75), (30, 90))),  # raised
    (0.12, ((-10, 20), (55, 105), (0, 60), (-40, 60))),  # held sideways
    (0.08, ((-5, 15), (60, 105), (65, 115), (60, 100))),  # waves
    (0.08, ((15, 45), (5, 20), (85, 120), (-75, -35))),  # folded over the chest
)


@dataclass(frozen=True, eq=False)
class _Figure:
    """A stick figure as the viewer sees it.

    Attributes:
        points: (22, 2) in the picture: the 16 joints, then hand tips, toes and heels, right before left.
        depth: (22,), how far each is from the viewer, in body heights whatever the figure's scale.
        height: of the person when standing; 1 as posed, crop units once placed.
        head: upper neck to head top, same unit as ``points``.
        yaw: radians the body is turned about the vertical; 0 faces the viewer, pi shows the back.
        gaze: the same for the head.
    """

    points: Array
    depth: Array
    height: float
    head: float
    yaw: float
    gaze: float

    def moved(self, scale: float, shift: Array) -> _Figure:
        """This figure, scaled and then shifted by (2,)."""
        return _Figure(
            self.points * scale + shift, self.depth, self.height * scale, self.head * scale, self.yaw, self.gaze
        )


def _pick(rng: Generator, weights: tuple[float, ...]) -> int:
    """An index, drawn in proportion to ``weights``."""
    threshold = rng.random() * sum(weights)
    for i, weight in enumerate(weights):
        threshold -= weight
        if threshold < 0:
            return i
    return len(weights) - 1


def _within(rng: Generator, ranges: tuple[Range, ...]) -> Array:
    low, high = np.array(ranges).T
    return np.asarray(rng.uniform(low, high), np.float64)


def _swing(flex: float, spread: float, side: int) -> tuple[Array, Array, Array]:
    """The direction of a limb that hangs from a trunk, and how it moves as either angle grows.

    Args:
        flex: radians forward.
        spread: radians away from the body.
        side: -1 for right, +1 for left.

    Returns:
        Three orthogonal unit vectors (left, up, forward): along the limb, where more flex leads, where more spread
        leads.
    """
    cf, sf, cs, ss = math.cos(flex), math.sin(flex), math.cos(spread), math.sin(spread)
    return (
        np.array([side * ss, -cs * cf, cs * sf]),
        np.array([0.0, sf, cf]),
        np.array([side * cs, ss * cf, -ss * sf]),
    )


def _frame(lean: float, tilt: float, twist: float) -> Array:
    """Rows are the trunk's left, up and forward in the coordinates of the body; angles in radians."""
    ca, sa, cb, sb = math.cos(lean), math.sin(lean), math.cos(tilt), math.sin(tilt)
    up = np.array([sb, cb * ca, cb * sa])
    left, forward = np.array([cb, -sb * ca, -sb * sa]), np.array([0.0, -sa, ca])
    ct, st = math.cos(twist), math.sin(twist)
    return np.array([ct * left + st * forward, up, ct * forward - st * left])


def _angles(rng: Generator, freedom: float) -> tuple[Array, Array, Array]:
    """Draw a pose, in radians: trunk (3,) lean, tilt, twist; legs (2, 3) and arms (2, 4), right then left."""
    stance = _STANCES[_pick(rng, tuple(s.weight for s in _STANCES))]
    leading = int(rng.integers(2))
    legs = np.empty((2, 3))
    legs[leading], legs[1 - leading] = _within(rng, stance.lead), _within(rng, stance.trail)
    arms = np.stack([_within(rng, _ARMS[_pick(rng, tuple(weight for weight, _ in _ARMS))][1]) for _ in range(2)])
    swings, bend = rng.random() < stance.arms, rng.uniform(0.4, 1.1)
    if swings:
        for side in range(2):
            stride = legs[1 - side, 0]
            arms[side] = (stride * 0.9, rng.uniform(4, 20), 15 + abs(stride) * bend, rng.uniform(-40, 0))
    trunk = np.array([rng.uniform(*stance.lean), rng.normal(0, 6), rng.normal(0, 10)])
    rest_arms, rest_legs = np.array([0.0, 9, 8, -20]), np.array([0.0, 3, 2])
    return (
        np.radians(trunk * freedom),
        np.radians(rest_legs + freedom * (legs - rest_legs)),
        np.radians(rest_arms + freedom * (arms - rest_arms)),
    )


def _pose(rng: Generator, freedom: float) -> _Figure:
    """A figure of height 1 with the pelvis near the origin; ``freedom`` is :attr:`Figures.pose`."""
    trunk, legs, arms = _angles(rng, freedom)
    vary = rng.uniform(0.93, 1.07, 7)
    head = rng.uniform(1 / 7.5, 1 / 6.5)
    chest, pelvis = _frame(*trunk), _frame(0.35 * trunk[0], -0.5 * trunk[1], 0)

    at = np.zeros((22, 3))
    at[_THORAX] = (0.3 * pelvis[1] + 0.7 * chest[1]) * 0.29 * vary[0]
    for i, side in enumerate((-1, 1)):
        along, forward, outward = _swing(legs[i, 0], legs[i, 1], side)
        bend = legs[i, 2]
        shin = math.cos(bend) * along - math.sin(bend) * forward
        front = math.cos(bend) * forward + math.sin(bend) * along
        foot = 0.93 * front + 0.3 * shin + 0.3 * outward
        at[_HIP[i]] = (side * 0.064 * vary[1] * pelvis[0]) - 0.01 * pelvis[1]
        at[_KNEE[i]] = at[_HIP[i]] + 0.245 * vary[2] * along @ pelvis
        at[_ANKLE[i]] = at[_KNEE[i]] + 0.235 * vary[3] * shin @ pelvis
        at[_TOE + i] = at[_ANKLE[i]] + (0.1 * foot + 0.02 * shin) @ pelvis
        at[_HEEL + i] = at[_ANKLE[i]] + (0.026 * shin - 0.022 * front) @ pelvis

        along, forward, outward = _swing(arms[i, 0], arms[i, 1], side)
        plane, bend = arms[i, 3], arms[i, 2]
        aside = math.cos(plane) * forward + math.sin(plane) * outward
        fore = math.cos(bend) * along + math.sin(bend) * aside
        shrug = 0.03 * max(0.0, float(along[1]))
        at[_SHOULDER[i]] = at[_THORAX] + (side * 0.112 * vary[4] * chest[0]) + (shrug - 0.012) * chest[1]
        at[_ELBOW[i]] = at[_SHOULDER[i]] + 0.168 * vary[5] * along @ chest
        at[_WRIST[i]] = at[_ELBOW[i]] + 0.145 * vary[6] * fore @ chest
        at[_HAND + i] = at[_WRIST[i]] + 0.055 * fore @ chest

    nod = np.radians([rng.normal(0, 12), rng.normal(0, 9)]) * freedom
    neck = 0.7 * chest[1] + np.array([0, 0.3, 0.12])
    at[_NECK] = at[_THORAX] + 0.05 * neck / np.linalg.norm(neck)
    at[_TOP] = at[_NECK] + 0.45 * chest[1] + np.array([math.sin(nod[1]), 0.55, math.sin(nod[0])])

    side_on = (rng.normal(0, 28), 180 + rng.normal(0, 28), rng.choice((-90, 90)) + rng.normal(0, 15))
    yaw = math.radians(side_on[_pick(rng, (0.6, 0.27, 0.13))])
    gaze = yaw + math.radians(float(np.clip(rng.normal(0, 22), -50, 50)))
    roll = math.radians(float(np.clip(rng.normal(0, 9), -25, 25))) * freedom
    view = _view(yaw, math.radians(rng.uniform(-4, 18)), roll)
    seen = at @ view.T
    # A head is nearly as tall seen from the front as from above, unlike a stick.
    nape = seen[_TOP] - seen[_NECK]
    nape[2] *= 0.4
    seen[_TOP] = seen[_NECK] + nape * (head / np.linalg.norm(nape))
    return _Figure(seen[:, :2], seen[:, 2], 1.0, head, yaw, gaze)


def _view(yaw: float, pitch: float, roll: float) -> Array:
    """The matrix (3, 3) from (left, up, forward) of a body to (right, down, away) of its picture.

    Args:
        yaw: radians the body is turned; at 0 its left is the picture's right.
        pitch: radians the camera looks down.
        roll: radians of rotation in the picture, clockwise.
    """
    cy, sy, cp, sp, cr, sr = *_turn(yaw), *_turn(pitch), *_turn(roll)
    turned = np.array([[cy, 0, sy], [0, -1, 0], [sy, 0, -cy]])
    tipped = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    rolled = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(rolled @ tipped @ turned, np.float64)


def _turn(angle: float) -> tuple[float, float]:
    return math.cos(angle), math.sin(angle)


def _place(figure: _Figure, rng: Generator, truncation: float) -> _Figure:
    """Fit the figure to the box: its joints span 75 to 95 % of it, or more in a close-up."""
    joints = figure.points[:16]
    low, high = joints.min(axis=0), joints.max(axis=0)
    scale = rng.uniform(0.75, 0.95) / float(np.max(high - low))
    room = np.minimum(0.5 - scale * (high - low) / 2, 0.05)
    shift = rng.uniform(-0.8, 0.8, 2) * room - scale * (low + high) / 2
    close, zoom = rng.random() < truncation, rng.uniform(1.25, 1.8)
    if not close:
        return figure.moved(scale, shift)
    # The head's place is kept, so that a close-up loses whatever is far from the head.
    top = figure.points[_TOP] * scale + shift
    return figure.moved(scale * zoom, top * np.array([0.5, 1.0]) - figure.points[_TOP] * scale * zoom)


def _bystander(rng: Generator, freedom: float) -> _Figure:
    """Another figure, off the centre of the crop by at least half a box and mostly of like size."""
    figure = _pose(rng, freedom)
    joints = figure.points[:16]
    low, high = joints.min(axis=0), joints.max(axis=0)
    scale = rng.uniform(0.5, 1.0) / float(max(np.max(high - low), 0.6))
    centre = np.array([rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 0.85), rng.uniform(-0.1, 0.2)])
    return figure.moved(scale, centre - scale * (low + high) / 2)


# --- Clothes and colours ---------------------------------------------------------------------------------------------

_SKINS: tuple[Colour, ...] = (
    (250, 218, 196), (238, 190, 160), (222, 168, 132), (190, 132, 96), (150, 98, 66), (108, 68, 46), (72, 46, 34),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (24, 20, 20), (48, 32, 24), (92, 60, 36), (140, 92, 48), (206, 168, 98), (150, 62, 30), (168, 166, 164),
)  # fmt: skip


@dataclass(frozen=True)
class _Look:
    """What somebody wears; fractions run along a limb, from the trunk to the wrist or ankle."""

    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    accent: Colour
    build: float  # multiplies widths
    sleeve: float  # 0 none, 1 down to the wrist
    leg: float  # 0 none, 1 down to the ankle
    skirt: float  # the same for a skirt; 0 for none
    hairdo: int  # 0 bald, 1 short, 2 full, 3 long
    hat: int  # 0 none, 1 cap, 2 woollen
    pattern: int  # 0 plain, 1 bands, 2 stripes, 3 dots
    chest: int  # detail on the front: 0 none, 1 buttons, 2 print, 3 open jacket, 4 tie, 5 low neckline
    extra: int  # 0 none, 1 backpack, 2 beard, 3 glasses


def _shade(colour: Colour, factor: float) -> Colour:
    """Darker (below 1) or lighter (above 1); light colours approach white rather than lose their hue."""
    if factor <= 1:
        return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
    return _mix(colour, (255, 255, 255), min(1.0, factor - 1))


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """From ``a`` (share 0) to ``b`` (share 1)."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def _between(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    """A colour somewhere along the path through ``colours``."""
    place = rng.random() * (len(colours) - 1)
    return _mix(colours[int(place)], colours[int(place) + 1], place % 1)


def _cloth_colour(rng: Generator) -> Colour:
    hue, kind = rng.random(), rng.random()
    if kind < 0.35:
        saturation, value = rng.uniform(0, 0.2), rng.uniform(0.1, 0.97)
    elif kind < 0.75:
        saturation, value = rng.uniform(0.45, 0.95), rng.uniform(0.3, 0.95)
    else:
        saturation, value = rng.uniform(0.15, 0.45), rng.uniform(0.5, 0.97)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return (255 * red, 255 * green, 255 * blue)


def _wall_colour(rng: Generator) -> Colour:
    """Mostly muted, so that people are what is colourful."""
    return _mix(_cloth_colour(rng), _between(rng, ((40, 42, 46), (225, 222, 214))), rng.uniform(0.3, 0.9))


def _apart(rng: Generator, *others: Colour) -> Colour:
    """A colour of cloth that stands out from the others; now and then, as in life, it hardly does."""
    candidates = [_cloth_colour(rng) for _ in range(3)]
    return max(candidates, key=lambda colour: min(math.dist(colour, other) for other in others))


def _dress(rng: Generator, backdrop: Colour) -> _Look:
    """Draw a look that can be told from the backdrop."""
    skin = _between(rng, _SKINS)
    top = _apart(rng, backdrop, skin)
    return _Look(
        skin=skin,
        hair=_between(rng, _HAIRS),
        top=top,
        bottom=_apart(rng, backdrop, top),
        shoes=_cloth_colour(rng),
        accent=_apart(rng, top),
        build=rng.uniform(0.85, 1.2),
        sleeve=(0.0, rng.uniform(0.25, 0.45), 1.0)[_pick(rng, (0.12, 0.43, 0.45))],
        leg=(rng.uniform(0.3, 0.5), 1.0)[_pick(rng, (0.3, 0.7))],
        skirt=(0.0, rng.uniform(0.35, 0.7))[_pick(rng, (0.87, 0.13))],
        hairdo=_pick(rng, (0.05, 0.4, 0.25, 0.3)),
        hat=_pick(rng, (0.78, 0.14, 0.08)),
        pattern=_pick(rng, (0.62, 0.16, 0.12, 0.1)),
        chest=_pick(rng, (0.15, 0.2, 0.25, 0.2, 0.08, 0.12)),
        extra=_pick(rng, (0.62, 0.15, 0.13, 0.1)),
    )


# --- Drawing ---------------------------------------------------------------------------------------------------------

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 21)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 21)[:-1])], axis=1)
_FAR_END = np.stack([np.cos(np.linspace(-0.5, 0.5, 8) * np.pi), np.sin(np.linspace(-0.5, 0.5, 8) * np.pi)], axis=1)
_SUBPIXEL_BITS = 4


class _Canvas:
    """A square picture that is filled in crop units.

    Args:
        size: side in pixels of the finished picture.
        box: pixels to a crop unit.
        light: (2,), where light comes from in the picture.
    """

    def __init__(self, size: int, box: int, light: Array) -> None:
        self._size = size
        # Beyond this, antialiased edges alone are fine enough.
        self._zoom = 2 if box <= 128 else 1
        self._scale = float(box * self._zoom)
        self.side = size * self._zoom  # of the canvas, in pixels
        self.light = light / np.linalg.norm(light)
        self.pixels = np.zeros((self.side, self.side, 3), np.uint8)

    def fill(self, outline: Array, colour: Colour) -> None:
        """Fill the polygon (K, 2)."""
        # OpenCV's coordinate k is the centre of pixel k, hence our k + 0.5.
        scaled = (outline * self._scale + (self.side / 2 - 0.5)) * (1 << _SUBPIXEL_BITS)
        points = np.rint(scaled).astype(np.int32)
        cv2.fillPoly(self.pixels, [points], colour, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)

    def paint(self, picture: Array, top: float) -> None:
        """Stretch a picture (h, w, 3) over the whole canvas and show what of it lies below ``top``."""
        first = max(0, round(top * self._scale + self.side / 2))
        small = np.clip(picture, 0, 255).astype(np.uint8)
        stretched = cv2.resize(small, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        self.pixels[first:] = stretched[first:]

    def limb(self, a: Array, b: Array, a_radius: float, b_radius: float, colour: Colour) -> None:
        """Fill a tapered, rounded and shaded limb from ``a`` to ``b``, both (2,)."""
        dx, dy = float(b[0] - a[0]), float(b[1] - a[1])
        length = math.hypot(dx, dy)
        ux, uy = (dx / length, dy / length) if length > 1e-9 else (1.0, 0.0)
        end = _FAR_END @ np.array([[ux, uy], [-uy, ux]])
        spine, around = np.repeat([b, a], len(end), axis=0), np.concatenate([b_radius * end, -a_radius * end])
        off = self.light * min(a_radius, b_radius)
        self.fill(spine + around, _shade(colour, 0.68))
        self.fill(spine + 0.8 * around + 0.16 * off, colour)
        self.fill(spine + 0.36 * around + 0.35 * off, _shade(colour, 1.14))

    def solid(self, outline: Array, colour: Colour) -> None:
        """Fill a shaded convex shape (K, 2)."""
        centre = outline.mean(axis=0)
        self.fill(outline, _shade(colour, 0.68))
        for share, shift, factor in ((0.91, 0.03, 1.0), (0.5, 0.17, 1.06)):
            # Moved towards the light, in proportion to the shape's own extent that way.
            off = self.light * (shift * float(np.abs((outline - centre) @ self.light).max()))
            self.fill(centre + share * (outline - centre) + off, _shade(colour, factor))

    def downscaled(self) -> NDArray[np.uint8]:
        """The finished picture, uint8 (S, S, 3)."""
        if self._zoom == 1:
            return self.pixels
        small = cv2.resize(self.pixels, (self._size, self._size), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)


def _ellipse(centre: Array, along: Array, across: Array) -> Array:
    """The outline (20, 2) of an ellipse with these half axes."""
    return centre + _CIRCLE[:, :1] * along + _CIRCLE[:, 1:] * across


def _bar(a: Array, b: Array, half: float) -> Array:
    """The outline (4, 2) of a straight bar of width ``2 * half``."""
    along = b - a
    across = np.array([-along[1], along[0]]) * (half / max(float(np.hypot(*along)), 1e-9))
    return np.stack([a + across, b + across, b - across, a - across])


def _hull(*discs: tuple[Array, float]) -> Array:
    """The convex outline (K, 2) around discs of (centre, radius)."""
    points = np.concatenate([centre + radius * _CIRCLE for centre, radius in discs]).astype(np.float32)
    return np.asarray(cv2.convexHull(points), np.float64).reshape(-1, 2)


class _Drawing:
    """One figure as it is put on the canvas; ``unit`` turns widths given in body heights into crop units."""

    def __init__(self, canvas: _Canvas, figure: _Figure, look: _Look) -> None:
        self.canvas, self.figure, self.look = canvas, figure, look
        self.points = figure.points
        self.unit = figure.height * look.build
        spine = self.points[_THORAX] - self.points[_PELVIS]
        self.trunk_right = np.array([-spine[1], spine[0]]) / max(float(np.hypot(*spine)), 1e-9)
        self.front = math.cos(figure.yaw)  # 1 faces the viewer, -1 looks away

        nape, top = self.points[_NECK], self.points[_TOP]
        self.up: Array = (top - nape) / figure.head
        self.right = np.array([-self.up[1], self.up[0]])
        self.skull: Array = (nape + top) / 2
        self.tall, self.wide = figure.head / 2, figure.head * _HEAD_WIDTH / 2
        self.face, self.aside = math.cos(figure.gaze), math.sin(figure.gaze)

    def draw(self) -> None:
        """Draw all parts, far ones first."""
        depth = self.figure.depth
        trunk = float(depth[_PELVIS] + depth[_THORAX]) / 2
        head = min(trunk, float(depth[_NECK]))
        thighs = [float(depth[_HIP[i]] + depth[_KNEE[i]]) / 2 for i in range(2)]
        # Offsets say what wins at like depth: shirts over trousers over legs, arms over shirts, heads over necks.
        parts: list[tuple[float, Callable[[], None]]] = [
            (trunk + 0.2, self.mane),
            (min(trunk, *thighs) + 0.03, self.skirt) if self.look.skirt else (trunk + 0.03, self.hips),
            (trunk + 0.02, self.trunk),
            (head + 0.01, self.neck),
            (head - 0.01, self.head),
        ]
        for i in range(2):
            parts.append((thighs[i] + 0.09, partial(self.thigh, i)))
            parts.append((float(depth[_KNEE[i]] + depth[_ANKLE[i]]) / 2 + 0.1, partial(self.shin, i)))
            parts.append((float(depth[_SHOULDER[i]] + depth[_ELBOW[i]]) / 2 - 0.01, partial(self.upper_arm, i)))
            parts.append((float(depth[_ELBOW[i]] + depth[_WRIST[i]]) / 2 - 0.02, partial(self.forearm, i)))
        for _, part in sorted(parts, key=lambda part: -part[0]):
            part()

    def on_trunk(self, across: float, down: float) -> Array:
        """A point (2,) of the trunk: -1 right to 1 left of the person, 0 shoulders to 1 hips."""
        share = (across + 1) / 2
        shoulders = _lerp(self.points[_SHOULDER[0]], self.points[_SHOULDER[1]], share)
        return _lerp(shoulders, _lerp(self.points[_HIP[0]], self.points[_HIP[1]], share), down)

    def on_chest(self, down: float) -> Array:
        """A point (2,) of the middle line of the front, which is not the trunk's middle when seen at an angle."""
        return self.on_trunk(0, down) + self.trunk_right * (math.sin(self.figure.yaw) * 0.065 * self.unit)

    def clothed(self, a: Array, b: Array, radii: tuple[float, float], cloth: Colour, share: float) -> None:
        """A limb of skin from ``a`` to ``b``, its first ``share`` under cloth; radii in body heights."""
        start, end = radii[0] * self.unit, radii[1] * self.unit
        if share < 1:
            self.canvas.limb(a, b, 0.92 * start, 0.92 * end, self.look.skin)
        if share > 0:
            hem = min(share, 1.0)
            self.canvas.limb(a, _lerp(a, b, hem), start, start + (end - start) * hem, cloth)

    def hips(self) -> None:
        waist = [(self.on_trunk(u, 0.62), 0.045 * self.unit) for u in (-0.7, 0.7)]
        seat = [(self.points[hip], 0.062 * self.unit) for hip in _HIP]
        self.canvas.solid(_hull(*waist, *seat), self.look.bottom)

    def skirt(self) -> None:
        waist = [(self.on_trunk(u, 0.62), 0.045 * self.unit) for u in (-0.7, 0.7)]
        seat = [(self.points[hip], 0.066 * self.unit) for hip in _HIP]
        hem = [
            (_lerp(self.points[hip], self.points[knee], min(1.0, 2 * self.look.skirt)), 0.068 * self.unit)
            for hip, knee in zip(_HIP, _KNEE, strict=True)
        ]
        self.canvas.solid(_hull(*waist, *seat, *hem), self.look.bottom)

    def trunk(self) -> None:
        look, unit, fill = self.look, self.unit, self.canvas.fill
        discs = [(self.on_trunk(u, 0.02), 0.043 * unit) for u in (-0.98, 0.98)]
        discs += [(self.on_trunk(u, 0.6), 0.045 * unit) for u in (-0.7, 0.7)]
        discs += [(self.on_trunk(u, 0.93), 0.056 * unit) for u in (-0.85, 0.85)]
        discs += [(self.on_trunk(0, 0.25), 0.083 * unit)]
        self.canvas.solid(_hull(*discs), look.top if self.front > -0.25 else _shade(look.top, 0.9))

        edge = self.trunk_right * (0.025 * unit * (1 if self.front > 0 else -1))
        if look.pattern == 1:
            for down in (0.1, 0.3, 0.5, 0.7, 0.9):
                fill(_bar(self.on_trunk(-1, down) - edge, self.on_trunk(1, down) + edge, 0.013 * unit), look.accent)
        elif look.pattern == 2:
            for across in (-0.85, -0.5, 0.5, 0.85):
                fill(_bar(self.on_trunk(across, 0), self.on_trunk(across, 0.95), 0.007 * unit), look.accent)
        elif look.pattern == 3:
            for down in (0.1, 0.35, 0.6, 0.85):
                for across in (-0.75, -0.25, 0.25, 0.75):
                    fill(_disc(self.on_trunk(across, down), 0.014 * unit), look.accent)

        if self.front > 0.25:
            self.chest()
        elif self.front < -0.25 and look.extra == 1:
            pack = [(self.on_trunk(u, v), 0.045 * unit) for u in (-0.5, 0.5) for v in (0.12, 0.62)]
            self.canvas.solid(_hull(*pack), look.accent)

    def chest(self) -> None:
        """What tells a front from a back."""
        look, unit, fill = self.look, self.unit, self.canvas.fill
        if look.chest == 1:
            fill(_bar(self.on_chest(0.02), self.on_chest(0.95), 0.013 * unit), _shade(look.top, 1.4))
            for down in (0.2, 0.4, 0.6, 0.8):
                fill(_disc(self.on_chest(down), 0.007 * unit), _shade(look.top, 0.4))
        elif look.chest == 2:
            wide, tall = self.trunk_right * (0.06 * unit * self.front), self.on_chest(0.52) - self.on_chest(0.36)
            fill(_ellipse(self.on_chest(0.36), wide, tall), _shade(look.accent, 1.2))
        elif look.chest == 3:
            wide = self.trunk_right * (0.04 * unit * self.front)
            top, hem = self.on_chest(0), self.on_chest(0.97)
            fill(np.stack([top - wide, top + wide, hem + 1.3 * wide, hem - 1.3 * wide]), _mix(look.accent, _WHITE, 0.6))
        elif look.chest == 4:
            wide = self.trunk_right * (0.05 * unit * self.front)
            fill(np.stack([self.on_chest(0) - wide, self.on_chest(0) + wide, self.on_chest(0.3)]), (240, 240, 240))
            fill(_bar(self.on_chest(0.05), self.on_chest(0.7), 0.011 * unit), look.accent)
        elif look.chest == 5:
            wide, tall = self.trunk_right * (0.05 * unit * self.front), self.on_chest(0.2) - self.on_chest(0)
            fill(_ellipse(self.on_chest(0), wide, tall), _shade(look.skin, 0.92))
        if look.extra == 1:
            for across in (-0.62, 0.62):
                fill(_bar(self.on_trunk(across, -0.08), self.on_trunk(across, 0.5), 0.014 * unit), look.accent)

    def neck(self) -> None:
        collar = _lerp(self.points[_THORAX], self.points[_NECK], 0.05 if self.front > 0 else 0.35)
        nape = self.points[_NECK] + self.up * (0.3 * self.tall)
        self.canvas.limb(collar, nape, 0.036 * self.unit, 0.034 * self.unit, _shade(self.look.skin, 0.85))

    def thigh(self, i: int) -> None:
        cover = 0.0 if self.look.skirt else 2 * self.look.leg
        self.clothed(self.points[_HIP[i]], self.points[_KNEE[i]], (0.066, 0.048), self.look.bottom, cover)

    def shin(self, i: int) -> None:
        heel, toe = self.points[_HEEL + i], self.points[_TOE + i]
        self.canvas.limb(heel, toe, 0.028 * self.unit, 0.023 * self.unit, self.look.shoes)
        cover = 0.0 if self.look.skirt else 2 * self.look.leg - 1
        self.clothed(self.points[_KNEE[i]], self.points[_ANKLE[i]], (0.047, 0.031), self.look.bottom, cover)

    def upper_arm(self, i: int) -> None:
        shoulder, elbow = self.points[_SHOULDER[i]], self.points[_ELBOW[i]]
        self.clothed(shoulder, elbow, (0.043, 0.035), self.look.top, max(0.12, 2 * self.look.sleeve))
        if self.look.pattern == 1 and self.look.sleeve:
            for share in (0.25, 0.7):
                place = _lerp(shoulder, elbow, share * min(1.0, 2 * self.look.sleeve))
                self.canvas.fill(_bar(place, place + 0.1 * (elbow - shoulder), 0.033 * self.unit), self.look.accent)

    def forearm(self, i: int) -> None:
        elbow, wrist, hand = self.points[_ELBOW[i]], self.points[_WRIST[i]], self.points[_HAND + i]
        self.canvas.limb(wrist, hand, 0.022 * self.unit, 0.02 * self.unit, self.look.skin)
        self.clothed(elbow, wrist, (0.034, 0.025), self.look.top, 2 * self.look.sleeve - 1)

    def on_head(self, across: float, up: float) -> Array:
        """A point (2,) from the skull's centre, in half widths to the picture's right and half heights up."""
        return self.skull + self.right * (across * self.wide) + self.up * (up * self.tall)

    def oval(self, across: float, up: float, wide: float, tall: float) -> Array:
        """An ellipse (K, 2) on the head, all in half widths and half heights of the skull."""
        return _ellipse(self.on_head(across, up), self.right * (wide * self.wide), self.up * (tall * self.tall))

    def mane(self) -> None:
        """Long hair behind somebody whose face is seen."""
        if self.look.hairdo == 3 and self.face > -0.25:
            self.locks(0.9)

    def locks(self, shade: float) -> None:
        back = -0.35 * self.aside
        crown, tips = self.on_head(back * 0.4, 0.1), self.points[_NECK] - self.up * (0.5 * self.tall)
        tips = tips + self.right * (back * self.wide)
        self.canvas.solid(_hull((crown, 1.08 * self.wide), (tips, 0.9 * self.wide)), _shade(self.look.hair, shade))

    def head(self) -> None:
        look, fill = self.look, self.canvas.fill
        if self.face > -0.25:
            self.countenance()
        elif look.hairdo == 0:
            self.canvas.solid(self.oval(0, 0, 1, 1), _shade(look.skin, 0.92))
        else:
            for side in (-1, 1):
                fill(self.oval(0.97 * side, -0.1, 0.16, 0.2), _shade(look.skin, 0.85))
            self.canvas.solid(self.oval(0, 0.08, 1.05, 1.0), look.hair)
            if look.hairdo == 3:
                self.locks(1.0)
        if look.hat:
            crown = self.oval(-0.1 * self.aside, 0.15, 1.1, 0.95)
            # Only what lies above the brow.
            above = (crown - self.on_head(0, 0.38)) @ self.up
            self.canvas.solid(crown[above > 0], look.accent)
            if look.hat == 1 and self.face > -0.25:
                peak = self.on_head(1.15 * self.aside, 0.4 - 0.06 * self.face)
                root = self.on_head(0.2 * self.aside, 0.42)
                brim = _hull((root, 0.55 * self.wide * max(self.face, 0.3)), (peak, 0.28 * self.wide))
                fill(brim, _shade(look.accent, 0.7))

    def countenance(self) -> None:
        """A face, from full to profile, under hair."""
        look, fill = self.look, self.canvas.fill
        hair, full = look.hair, max(self.face, 0.0)
        dark = _mix(_shade(look.skin, 0.3), (20, 12, 10), 0.5)
        if look.hairdo == 0:
            self.canvas.solid(self.oval(0, 0, 1, 1), look.skin)
        else:
            self.canvas.solid(self.oval(0, 0.05, 1.04, 0.98), hair)
            width = 0.66 + 0.2 * full
            self.canvas.solid(self.oval((1 - width) * self.aside, -0.16, width, 0.84), look.skin)
            if look.hairdo >= 2:
                fill(self.oval(0.3 * self.aside - 0.15, 0.68, 0.75, 0.26), hair)
        if full < 0.8:
            # Profiles have a nose that sticks out and an ear in the middle.
            side = math.copysign(1.0, self.aside)
            fill(self.oval(side * 0.98, -0.1, 0.2, 0.13), look.skin)
            fill(self.oval(-side * (0.1 + 0.6 * full), -0.05, 0.15, 0.18), _shade(look.skin, 0.75))
        if look.extra == 2:
            fill(self.oval(0.4 * self.aside, -0.66, 0.5 + 0.1 * full, 0.32), _mix(hair, look.skin, 0.15))
        for eye in (-1, 1):
            across = 0.62 * self.aside + eye * 0.4 * self.face
            if abs(across) > 0.95 or (self.face < 0.2 and eye * self.aside < 0):
                continue
            fill(self.oval(across, 0.06, 0.2, 0.11), (244, 242, 238))
            fill(self.oval(across + 0.04 * self.aside, 0.05, 0.12, 0.11), dark)
            fill(self.oval(across, 0.25, 0.24, 0.05), _mix(hair, dark, 0.5))
            if look.extra == 3:
                fill(self.oval(across, 0.05, 0.3, 0.2), (30, 30, 36))
        fill(self.oval(0.72 * self.aside, -0.2, 0.1, 0.13), _shade(look.skin, 0.72))
        fill(self.oval(0.6 * self.aside, -0.56, 0.14 + 0.16 * full, 0.07), _mix(look.skin, (150, 30, 40), 0.6))


# --- The scene -------------------------------------------------------------------------------------------------------

_WHITE: Colour = (255, 255, 255)


def _lerp(a: Array, b: Array, share: float) -> Array:
    return a + (b - a) * share


def _disc(centre: Array, radius: float) -> Array:
    return centre + radius * _CIRCLE


_CORNERS = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


def _oblong(centre: Array, half: Array, angle: float) -> Array:
    """The outline (4, 2) of a turned rectangle with half sides (2,)."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(centre + (_CORNERS * half) @ turn, np.float64)


_GRAIN = 96  # walls and floors are made at this size and then stretched: the same at any size of crop


def _texture(rng: Generator, cells: int) -> Array:
    """Smooth noise of about unit variance, (_GRAIN, _GRAIN, 1), with ``cells`` waves to a side."""
    grid = rng.standard_normal((cells, cells))
    return np.asarray(cv2.resize(grid, (_GRAIN, _GRAIN), interpolation=cv2.INTER_CUBIC), np.float64)[..., None]


def _draw_background(canvas: _Canvas, rng: Generator, backdrop: Colour, reach: float, clutter: float) -> None:
    """Cover the canvas with a wall or landscape, a floor, and things that stand about.

    Args:
        canvas: what to draw on.
        rng: all that is random comes from here.
        backdrop: colour of the wall.
        reach: half the crop's side in crop units.
        clutter: :attr:`Figures.clutter`.
    """
    horizon = rng.uniform(0.05, 0.5)
    ground = _mix(backdrop, _wall_colour(rng), rng.uniform(0.3, 0.9))
    ramp = np.linspace(-1, 1, _GRAIN)[:, None, None] * rng.uniform(-30, 30)
    broad = _texture(rng, 4) * rng.uniform(4, 18) * (1 + 0.4 * rng.uniform(-1, 1, 3))
    fine = _texture(rng, int(rng.integers(14, 40))) * rng.uniform(0, 14) * clutter
    canvas.paint(backdrop + ramp + broad + fine, -2 * reach)
    if rng.random() < 0.75:
        canvas.paint(ground + ramp + broad + 1.5 * fine, horizon)
    for _ in range(rng.poisson(9 * clutter)):
        _draw_thing(canvas, rng, _mix(backdrop, _cloth_colour(rng), rng.uniform(0.25, 0.8)), reach, horizon)


def _draw_thing(canvas: _Canvas, rng: Generator, colour: Colour, reach: float, horizon: float) -> None:
    """Something in the background: a house or cupboard, a pole or branch, a bush or ball."""
    kind = rng.random()
    place = rng.uniform(-reach, reach, 2)
    if kind < 0.4:
        half = rng.uniform(0.06, 0.28, 2)
        place[1] = horizon - half[1] + rng.uniform(-0.1, 0.1)
        canvas.fill(_oblong(place, half, 0), colour)
        rows, columns = rng.integers(1, 5, 2)
        pane, factor = half / (columns, rows), rng.choice((0.7, 1.2))
        for row in range(rows):
            for column in range(columns):
                middle = place - half + pane * (2 * column + 1, 2 * row + 1)
                canvas.fill(_oblong(middle, 0.6 * pane, 0), _shade(colour, factor))
    elif kind < 0.75:
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.6)
        end = place + length * np.array([math.cos(angle), math.sin(angle)])
        thick = rng.uniform(0.008, 0.04)
        canvas.limb(place, end, thick, thick * rng.uniform(0.5, 1), colour)
    else:
        axes, angle = rng.uniform(0.03, 0.2, 2), rng.uniform(0, np.pi)
        turned = np.array([math.cos(angle), math.sin(angle)])
        canvas.solid(_ellipse(place, axes[0] * turned, axes[1] * np.array([-turned[1], turned[0]])), colour)


def _draw_occluder(canvas: _Canvas, rng: Generator, figure: _Figure) -> None:
    """Put something in front of a limb; it shrinks until it hides at most three joints and not the head."""
    target = figure.points[rng.choice((0, 1, 4, 5, 10, 11, 14, 15))]
    centre, angle = target + rng.normal(0, 0.05, 2), rng.normal(0, 0.35)
    shape = rng.random()
    half = np.array([rng.uniform(0.015, 0.035), 1.5]) if shape < 0.25 else rng.uniform(0.06, 0.2, 2)
    colour = _cloth_colour(rng)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    offsets = np.abs((figure.points[:16] - centre) @ turn)
    skull = np.abs(((figure.points[_NECK] + figure.points[_TOP]) / 2 - centre) @ turn)
    while np.all(offsets < half, axis=1).sum() > 3 or bool(np.all(skull < half + 0.6 * figure.head)):
        half = half * 0.85
        if half.min() < 0.005:
            return  # a hand raised to the face: nothing can hide it without hiding the head
    if shape < 0.25:
        end = half[1] * turn[:, 1]
        canvas.limb(centre - end, centre + end, half[0], half[0], colour)
    elif shape < 0.7:
        canvas.solid(_oblong(centre, half, angle), colour)
    else:
        canvas.solid(_ellipse(centre, half[0] * turn[:, 0], half[1] * turn[:, 1]), colour)


def _expose(crop: NDArray[np.uint8], rng: Generator, strength: float, box: int) -> NDArray[np.uint8]:
    """Photograph uint8 (S, S, 3) in random light with a random camera; ``strength`` is :attr:`Figures.light`."""
    contrast, brightness = 1 + strength * rng.uniform(-0.4, 0.3), strength * rng.uniform(-45, 45)
    cast = 1 + strength * rng.uniform(-0.18, 0.18, 3)
    angle, fall = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, 0.45)
    blur, noise = rng.random() < 0.6 * strength, strength * rng.uniform(0, 12)
    softness = rng.uniform(0.25, 0.65) * box / 64

    axis = np.linspace(-1, 1, crop.shape[0], dtype=np.float32)
    shadow = 1 - fall * (0.5 + 0.35 * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None]))
    gain = (contrast * cast).astype(np.float32) * shadow.astype(np.float32)[..., None]
    picture = (crop.astype(np.float32) - 128) * gain + np.float32(128 + brightness)
    if blur:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), softness), np.float32)
    # Last, since how much is drawn depends on the picture's size.
    picture += np.float32(noise) * rng.standard_normal(crop.shape, dtype=np.float32)
    return np.asarray(np.clip(picture + 0.5, 0, 255), np.uint8)
