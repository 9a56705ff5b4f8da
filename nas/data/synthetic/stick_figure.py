"""3-D stick figures: random poses, projected to the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from nas.data.synthetic.shapes import Array

Range = tuple[float, float]

HEAD_WIDTH = 0.78  # of the head's height
# Points 0 to 15 are MPII's joints. Of hands, toes and heels, this is the right one; the left one follows.
HAND, TOE, HEEL = 16, 18, 20
SHOULDER, ELBOW, WRIST = (12, 13), (11, 14), (10, 15)
HIP, KNEE, ANKLE = (2, 3), (1, 4), (0, 5)
PELVIS, THORAX, NECK, HEAD_TOP = 6, 7, 8, 9


@dataclass(frozen=True)
class _Stance:
    """Ranges of angles, in degrees, from which a pose is drawn; the leading leg is random."""

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
class StickFigure:
    """A posed stick figure, projected to the image.

    Attributes:
        points: (22, 2), image positions of the 16 joints, then hand tips, toes and heels, right before left.
        depth: (22,), distance from the viewer in body heights, at any scale of the figure.
        height: standing height, in the unit of ``points``.
        head: distance from upper neck to head top, in the unit of ``points``.
        yaw: rotation of the body about the vertical in radians; 0 faces the viewer, pi shows the back.
        gaze: the same for the head.
    """

    points: Array
    depth: Array
    height: float
    head: float
    yaw: float
    gaze: float

    def transformed(self, scale: float, shift: Array) -> StickFigure:
        """This figure scaled, then shifted by ``shift`` (2,)."""
        return StickFigure(
            self.points * scale + shift, self.depth, self.height * scale, self.head * scale, self.yaw, self.gaze
        )


def weighted_index(rng: Generator, weights: tuple[float, ...]) -> int:
    """A random index with probability proportional to ``weights``."""
    threshold = rng.random() * sum(weights)
    for i, weight in enumerate(weights):
        threshold -= weight
        if threshold < 0:
            return i
    return len(weights) - 1


def _uniform_in(rng: Generator, ranges: tuple[Range, ...]) -> Array:
    low, high = np.array(ranges).T
    return np.asarray(rng.uniform(low, high), np.float64)


def _limb_directions(flex: float, spread: float, side: int) -> tuple[Array, Array, Array]:
    """The direction of a limb relative to the trunk, and its derivatives by both angles.

    Args:
        flex: radians forward.
        spread: radians away from the body.
        side: -1 for right, +1 for left.

    Returns:
        Three orthogonal unit vectors in (left, up, forward) coordinates: along the limb, the direction of more flex,
        and the direction of more spread.
    """
    cf, sf, cs, ss = math.cos(flex), math.sin(flex), math.cos(spread), math.sin(spread)
    return (
        np.array([side * ss, -cs * cf, cs * sf]),
        np.array([0.0, sf, cf]),
        np.array([side * cs, ss * cf, -ss * sf]),
    )


def _trunk_axes(lean: float, tilt: float, twist: float) -> Array:
    """(3, 3), rows are the trunk's left, up and forward in body coordinates; angles in radians."""
    ca, sa, cb, sb = math.cos(lean), math.sin(lean), math.cos(tilt), math.sin(tilt)
    up = np.array([sb, cb * ca, cb * sa])
    left, forward = np.array([cb, -sb * ca, -sb * sa]), np.array([0.0, -sa, ca])
    ct, st = math.cos(twist), math.sin(twist)
    return np.array([ct * left + st * forward, up, ct * forward - st * left])


def _sample_angles(rng: Generator, freedom: float) -> tuple[Array, Array, Array]:
    """Draw the angles of a pose, in radians.

    Returns:
        trunk (3,): lean, tilt, twist; legs (2, 3) and arms (2, 4), right then left: see :class:`_Stance` and ``_ARMS``.
    """
    stance = _STANCES[weighted_index(rng, tuple(s.weight for s in _STANCES))]
    leading = int(rng.integers(2))
    legs = np.empty((2, 3))
    legs[leading], legs[1 - leading] = _uniform_in(rng, stance.lead), _uniform_in(rng, stance.trail)
    arms = np.stack(
        [_uniform_in(rng, _ARMS[weighted_index(rng, tuple(weight for weight, _ in _ARMS))][1]) for _ in range(2)]
    )
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


def _body(chest: Array, pelvis: Array, legs: Array, arms: Array, proportions: Array) -> Array:
    """Points (22, 3) of thorax and limbs in (left, up, forward) coordinates; neck and head are still zero.

    Args:
        chest: (3, 3), axes of the chest.
        pelvis: (3, 3), axes of the pelvis.
        legs: (2, 3), angles, right then left.
        arms: (2, 4), angles, right then left.
        proportions: (7,), factors on the lengths of the parts.
    """
    at = np.zeros((22, 3))
    at[THORAX] = (0.3 * pelvis[1] + 0.7 * chest[1]) * 0.29 * proportions[0]
    for i, side in enumerate((-1, 1)):
        along, forward, outward = _limb_directions(legs[i, 0], legs[i, 1], side)
        bend = legs[i, 2]
        shin = math.cos(bend) * along - math.sin(bend) * forward
        front = math.cos(bend) * forward + math.sin(bend) * along
        foot = 0.93 * front + 0.3 * shin + 0.3 * outward
        at[HIP[i]] = (side * 0.064 * proportions[1] * pelvis[0]) - 0.01 * pelvis[1]
        at[KNEE[i]] = at[HIP[i]] + 0.245 * proportions[2] * along @ pelvis
        at[ANKLE[i]] = at[KNEE[i]] + 0.235 * proportions[3] * shin @ pelvis
        at[TOE + i] = at[ANKLE[i]] + (0.1 * foot + 0.02 * shin) @ pelvis
        at[HEEL + i] = at[ANKLE[i]] + (0.026 * shin - 0.022 * front) @ pelvis

        along, forward, outward = _limb_directions(arms[i, 0], arms[i, 1], side)
        plane, bend = arms[i, 3], arms[i, 2]
        aside = math.cos(plane) * forward + math.sin(plane) * outward
        fore = math.cos(bend) * along + math.sin(bend) * aside
        shrug = 0.03 * max(0.0, float(along[1]))
        at[SHOULDER[i]] = at[THORAX] + (side * 0.112 * proportions[4] * chest[0]) + (shrug - 0.012) * chest[1]
        at[ELBOW[i]] = at[SHOULDER[i]] + 0.168 * proportions[5] * along @ chest
        at[WRIST[i]] = at[ELBOW[i]] + 0.145 * proportions[6] * fore @ chest
        at[HAND + i] = at[WRIST[i]] + 0.055 * fore @ chest
    return at


def sample_figure(rng: Generator, freedom: float) -> StickFigure:
    """A random figure of height 1 with the pelvis near the origin; ``freedom`` is :attr:`SceneConfig.pose`."""
    trunk, legs, arms = _sample_angles(rng, freedom)
    proportions = rng.uniform(0.93, 1.07, 7)
    head = rng.uniform(1 / 7.5, 1 / 6.5)
    chest, pelvis = _trunk_axes(*trunk), _trunk_axes(0.35 * trunk[0], -0.5 * trunk[1], 0)
    at = _body(chest, pelvis, legs, arms, proportions)
    nod = np.radians([rng.normal(0, 12), rng.normal(0, 9)]) * freedom
    neck = 0.7 * chest[1] + np.array([0, 0.3, 0.12])
    at[NECK] = at[THORAX] + 0.05 * neck / np.linalg.norm(neck)
    at[HEAD_TOP] = at[NECK] + 0.45 * chest[1] + np.array([math.sin(nod[1]), 0.55, math.sin(nod[0])])

    yaws = (rng.normal(0, 28), 180 + rng.normal(0, 28), rng.choice((-90, 90)) + rng.normal(0, 15))
    yaw = math.radians(yaws[weighted_index(rng, (0.6, 0.27, 0.13))])
    gaze = yaw + math.radians(float(np.clip(rng.normal(0, 22), -50, 50)))
    roll = math.radians(float(np.clip(rng.normal(0, 9), -25, 25))) * freedom
    view = _view_matrix(yaw, math.radians(rng.uniform(-4, 18)), roll)
    projected = at @ view.T
    # Unlike a stick, a head looks nearly as tall from above as from the front.
    nape = projected[HEAD_TOP] - projected[NECK]
    nape[2] *= 0.4
    projected[HEAD_TOP] = projected[NECK] + nape * (head / np.linalg.norm(nape))
    return StickFigure(projected[:, :2], projected[:, 2], 1.0, head, yaw, gaze)


def _view_matrix(yaw: float, pitch: float, roll: float) -> Array:
    """The rotation (3, 3) from body coordinates (left, up, forward) to image coordinates (right, down, away).

    Args:
        yaw: rotation of the body about the vertical in radians; at 0 its left is at the image's right.
        pitch: downward angle of the camera in radians.
        roll: clockwise rotation in the image plane in radians.
    """
    cy, sy, cp, sp, cr, sr = *_cos_sin(yaw), *_cos_sin(pitch), *_cos_sin(roll)
    turned = np.array([[cy, 0, sy], [0, -1, 0], [sy, 0, -cy]])
    tipped = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    rolled = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(rolled @ tipped @ turned, np.float64)


def _cos_sin(angle: float) -> tuple[float, float]:
    return math.cos(angle), math.sin(angle)


def fit_to_box(figure: StickFigure, rng: Generator, truncation: float) -> StickFigure:
    """Scale and shift the figure so that its joints span 75 to 95 % of the box, or more in a close-up."""
    joints = figure.points[:16]
    low, high = joints.min(axis=0), joints.max(axis=0)
    scale = rng.uniform(0.75, 0.95) / float(np.max(high - low))
    room = np.minimum(0.5 - scale * (high - low) / 2, 0.05)
    shift = rng.uniform(-0.8, 0.8, 2) * room - scale * (low + high) / 2
    close, zoom = rng.random() < truncation, rng.uniform(1.25, 1.8)
    if not close:
        return figure.transformed(scale, shift)
    # The head stays in view; a close-up loses whatever is far from the head.
    head_top = figure.points[HEAD_TOP] * scale + shift
    return figure.transformed(scale * zoom, head_top * np.array([0.5, 1.0]) - figure.points[HEAD_TOP] * scale * zoom)


def sample_bystander(rng: Generator, freedom: float) -> StickFigure:
    """A random figure at least half a box off the crop's centre, mostly of similar size."""
    figure = sample_figure(rng, freedom)
    joints = figure.points[:16]
    low, high = joints.min(axis=0), joints.max(axis=0)
    scale = rng.uniform(0.5, 1.0) / float(max(np.max(high - low), 0.6))
    centre = np.array([rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 0.85), rng.uniform(-0.1, 0.2)])
    return figure.transformed(scale, centre - scale * (low + high) / 2)
