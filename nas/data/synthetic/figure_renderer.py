"""Draws a stick figure with clothes, hair and face."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from nas.data.synthetic.appearance import Appearance
from nas.data.synthetic.canvas import Canvas
from nas.data.synthetic.colours import WHITE, Colour, mix, shade
from nas.data.synthetic.shapes import Array, bar, disc, ellipse, hull, lerp
from nas.data.synthetic.stick_figure import (
    ANKLE,
    ELBOW,
    HAND,
    HEAD_TOP,
    HEAD_WIDTH,
    HEEL,
    HIP,
    KNEE,
    NECK,
    PELVIS,
    SHOULDER,
    THORAX,
    TOE,
    WRIST,
    StickFigure,
)


class FigureRenderer:
    """Draws one figure on a canvas, back to front; ``unit`` converts widths from body heights to crop units."""

    def __init__(self, canvas: Canvas, figure: StickFigure, look: Appearance) -> None:
        self.canvas, self.figure, self.look = canvas, figure, look
        self.points = figure.points
        self.unit = figure.height * look.build
        spine = self.points[THORAX] - self.points[PELVIS]
        self.trunk_right = np.array([-spine[1], spine[0]]) / max(float(np.hypot(*spine)), 1e-9)
        self.front = math.cos(figure.yaw)  # 1 faces the viewer, -1 faces away

        nape, top = self.points[NECK], self.points[HEAD_TOP]
        self.up: Array = (top - nape) / figure.head
        self.right = np.array([-self.up[1], self.up[0]])
        self.skull: Array = (nape + top) / 2
        self.tall, self.wide = figure.head / 2, figure.head * HEAD_WIDTH / 2
        self.face, self.aside = math.cos(figure.gaze), math.sin(figure.gaze)

    def draw(self) -> None:
        """Draw all parts, the farthest first."""
        depth = self.figure.depth
        trunk = float(depth[PELVIS] + depth[THORAX]) / 2
        head = min(trunk, float(depth[NECK]))
        thighs = [float(depth[HIP[i]] + depth[KNEE[i]]) / 2 for i in range(2)]
        # Offsets order parts of similar depth: shirts over trousers over legs, arms over shirts, heads over necks.
        parts: list[tuple[float, Callable[[], None]]] = [
            (trunk + 0.2, self._draw_hair_behind),
            (min(trunk, *thighs) + 0.03, self._draw_skirt) if self.look.skirt else (trunk + 0.03, self._draw_hips),
            (trunk + 0.02, self._draw_trunk),
            (head + 0.01, self._draw_neck),
            (head - 0.01, self._draw_head),
        ]
        for i in range(2):
            parts.append((thighs[i] + 0.09, partial(self._draw_thigh, i)))
            parts.append((float(depth[KNEE[i]] + depth[ANKLE[i]]) / 2 + 0.1, partial(self._draw_shin, i)))
            parts.append((float(depth[SHOULDER[i]] + depth[ELBOW[i]]) / 2 - 0.01, partial(self._draw_upper_arm, i)))
            parts.append((float(depth[ELBOW[i]] + depth[WRIST[i]]) / 2 - 0.02, partial(self._draw_forearm, i)))
        for _, part in sorted(parts, key=lambda part: -part[0]):
            part()

    def _on_trunk(self, across: float, down: float) -> Array:
        """A point (2,) of the trunk: ``across`` -1 (person's right) to 1 (left), ``down`` 0 (shoulders) to 1 (hips)."""
        share = (across + 1) / 2
        shoulders = lerp(self.points[SHOULDER[0]], self.points[SHOULDER[1]], share)
        return lerp(shoulders, lerp(self.points[HIP[0]], self.points[HIP[1]], share), down)

    def _on_chest(self, down: float) -> Array:
        """A point (2,) of the chest's midline, which shifts sideways when the trunk is turned."""
        return self._on_trunk(0, down) + self.trunk_right * (math.sin(self.figure.yaw) * 0.065 * self.unit)

    def _draw_clothed_limb(self, a: Array, b: Array, radii: tuple[float, float], cloth: Colour, share: float) -> None:
        """Draw a limb from ``a`` to ``b`` whose first ``share`` is covered by cloth; radii in body heights."""
        start, end = radii[0] * self.unit, radii[1] * self.unit
        if share < 1:
            self.canvas.draw_limb(a, b, 0.92 * start, 0.92 * end, self.look.skin)
        if share > 0:
            hem = min(share, 1.0)
            self.canvas.draw_limb(a, lerp(a, b, hem), start, start + (end - start) * hem, cloth)

    def _draw_hips(self) -> None:
        waist = [(self._on_trunk(u, 0.62), 0.045 * self.unit) for u in (-0.7, 0.7)]
        seat = [(self.points[hip], 0.062 * self.unit) for hip in HIP]
        self.canvas.draw_shaded(hull(*waist, *seat), self.look.bottom)

    def _draw_skirt(self) -> None:
        waist = [(self._on_trunk(u, 0.62), 0.045 * self.unit) for u in (-0.7, 0.7)]
        seat = [(self.points[hip], 0.066 * self.unit) for hip in HIP]
        hem = [
            (lerp(self.points[hip], self.points[knee], min(1.0, 2 * self.look.skirt)), 0.068 * self.unit)
            for hip, knee in zip(HIP, KNEE, strict=True)
        ]
        self.canvas.draw_shaded(hull(*waist, *seat, *hem), self.look.bottom)

    def _draw_trunk(self) -> None:
        look, unit, fill = self.look, self.unit, self.canvas.fill_polygon
        discs = [(self._on_trunk(u, 0.02), 0.043 * unit) for u in (-0.98, 0.98)]
        discs += [(self._on_trunk(u, 0.6), 0.045 * unit) for u in (-0.7, 0.7)]
        discs += [(self._on_trunk(u, 0.93), 0.056 * unit) for u in (-0.85, 0.85)]
        discs += [(self._on_trunk(0, 0.25), 0.083 * unit)]
        self.canvas.draw_shaded(hull(*discs), look.top if self.front > -0.25 else shade(look.top, 0.9))

        edge = self.trunk_right * (0.025 * unit * (1 if self.front > 0 else -1))
        if look.pattern == 1:
            for down in (0.1, 0.3, 0.5, 0.7, 0.9):
                fill(bar(self._on_trunk(-1, down) - edge, self._on_trunk(1, down) + edge, 0.013 * unit), look.accent)
        elif look.pattern == 2:
            for across in (-0.85, -0.5, 0.5, 0.85):
                fill(bar(self._on_trunk(across, 0), self._on_trunk(across, 0.95), 0.007 * unit), look.accent)
        elif look.pattern == 3:
            for down in (0.1, 0.35, 0.6, 0.85):
                for across in (-0.75, -0.25, 0.25, 0.75):
                    fill(disc(self._on_trunk(across, down), 0.014 * unit), look.accent)

        if self.front > 0.25:
            self._draw_chest()
        elif self.front < -0.25 and look.extra == 1:
            pack = [(self._on_trunk(u, v), 0.045 * unit) for u in (-0.5, 0.5) for v in (0.12, 0.62)]
            self.canvas.draw_shaded(hull(*pack), look.accent)

    def _draw_chest(self) -> None:
        """Draw the details that distinguish the front from the back."""
        look, unit, fill = self.look, self.unit, self.canvas.fill_polygon
        if look.chest == 1:
            fill(bar(self._on_chest(0.02), self._on_chest(0.95), 0.013 * unit), shade(look.top, 1.4))
            for down in (0.2, 0.4, 0.6, 0.8):
                fill(disc(self._on_chest(down), 0.007 * unit), shade(look.top, 0.4))
        elif look.chest == 2:
            wide, tall = self.trunk_right * (0.06 * unit * self.front), self._on_chest(0.52) - self._on_chest(0.36)
            fill(ellipse(self._on_chest(0.36), wide, tall), shade(look.accent, 1.2))
        elif look.chest == 3:
            wide = self.trunk_right * (0.04 * unit * self.front)
            top, hem = self._on_chest(0), self._on_chest(0.97)
            fill(np.stack([top - wide, top + wide, hem + 1.3 * wide, hem - 1.3 * wide]), mix(look.accent, WHITE, 0.6))
        elif look.chest == 4:
            wide = self.trunk_right * (0.05 * unit * self.front)
            fill(np.stack([self._on_chest(0) - wide, self._on_chest(0) + wide, self._on_chest(0.3)]), (240, 240, 240))
            fill(bar(self._on_chest(0.05), self._on_chest(0.7), 0.011 * unit), look.accent)
        elif look.chest == 5:
            wide, tall = self.trunk_right * (0.05 * unit * self.front), self._on_chest(0.2) - self._on_chest(0)
            fill(ellipse(self._on_chest(0), wide, tall), shade(look.skin, 0.92))
        if look.extra == 1:
            for across in (-0.62, 0.62):
                fill(bar(self._on_trunk(across, -0.08), self._on_trunk(across, 0.5), 0.014 * unit), look.accent)

    def _draw_neck(self) -> None:
        collar = lerp(self.points[THORAX], self.points[NECK], 0.05 if self.front > 0 else 0.35)
        nape = self.points[NECK] + self.up * (0.3 * self.tall)
        self.canvas.draw_limb(collar, nape, 0.036 * self.unit, 0.034 * self.unit, shade(self.look.skin, 0.85))

    def _draw_thigh(self, i: int) -> None:
        cover = 0.0 if self.look.skirt else 2 * self.look.leg
        self._draw_clothed_limb(self.points[HIP[i]], self.points[KNEE[i]], (0.066, 0.048), self.look.bottom, cover)

    def _draw_shin(self, i: int) -> None:
        heel, toe = self.points[HEEL + i], self.points[TOE + i]
        self.canvas.draw_limb(heel, toe, 0.028 * self.unit, 0.023 * self.unit, self.look.shoes)
        cover = 0.0 if self.look.skirt else 2 * self.look.leg - 1
        self._draw_clothed_limb(self.points[KNEE[i]], self.points[ANKLE[i]], (0.047, 0.031), self.look.bottom, cover)

    def _draw_upper_arm(self, i: int) -> None:
        shoulder, elbow = self.points[SHOULDER[i]], self.points[ELBOW[i]]
        self._draw_clothed_limb(shoulder, elbow, (0.043, 0.035), self.look.top, max(0.12, 2 * self.look.sleeve))
        if self.look.pattern == 1 and self.look.sleeve:
            for share in (0.25, 0.7):
                place = lerp(shoulder, elbow, share * min(1.0, 2 * self.look.sleeve))
                self.canvas.fill_polygon(
                    bar(place, place + 0.1 * (elbow - shoulder), 0.033 * self.unit), self.look.accent
                )

    def _draw_forearm(self, i: int) -> None:
        elbow, wrist, hand = self.points[ELBOW[i]], self.points[WRIST[i]], self.points[HAND + i]
        self.canvas.draw_limb(wrist, hand, 0.022 * self.unit, 0.02 * self.unit, self.look.skin)
        self._draw_clothed_limb(elbow, wrist, (0.034, 0.025), self.look.top, 2 * self.look.sleeve - 1)

    def _on_head(self, across: float, up: float) -> Array:
        """A point (2,) relative to the skull's centre, in half widths to the image's right and half heights up."""
        return self.skull + self.right * (across * self.wide) + self.up * (up * self.tall)

    def _head_ellipse(self, across: float, up: float, wide: float, tall: float) -> Array:
        """An ellipse (K, 2) on the head, in half widths and half heights of the skull."""
        return ellipse(self._on_head(across, up), self.right * (wide * self.wide), self.up * (tall * self.tall))

    def _draw_hair_behind(self) -> None:
        """Draw long hair behind a visible face."""
        if self.look.hairdo == 3 and self.face > -0.25:
            self._draw_long_hair(0.9)

    def _draw_long_hair(self, factor: float) -> None:
        back = -0.35 * self.aside
        crown, tips = self._on_head(back * 0.4, 0.1), self.points[NECK] - self.up * (0.5 * self.tall)
        tips = tips + self.right * (back * self.wide)
        self.canvas.draw_shaded(hull((crown, 1.08 * self.wide), (tips, 0.9 * self.wide)), shade(self.look.hair, factor))

    def _draw_head(self) -> None:
        look, fill = self.look, self.canvas.fill_polygon
        if self.face > -0.25:
            self._draw_face()
        elif look.hairdo == 0:
            self.canvas.draw_shaded(self._head_ellipse(0, 0, 1, 1), shade(look.skin, 0.92))
        else:
            for side in (-1, 1):
                fill(self._head_ellipse(0.97 * side, -0.1, 0.16, 0.2), shade(look.skin, 0.85))
            self.canvas.draw_shaded(self._head_ellipse(0, 0.08, 1.05, 1.0), look.hair)
            if look.hairdo == 3:
                self._draw_long_hair(1.0)
        if look.hat:
            crown = self._head_ellipse(-0.1 * self.aside, 0.15, 1.1, 0.95)
            # Only the part above the brow.
            above = (crown - self._on_head(0, 0.38)) @ self.up
            self.canvas.draw_shaded(crown[above > 0], look.accent)
            if look.hat == 1 and self.face > -0.25:
                peak = self._on_head(1.15 * self.aside, 0.4 - 0.06 * self.face)
                root = self._on_head(0.2 * self.aside, 0.42)
                brim = hull((root, 0.55 * self.wide * max(self.face, 0.3)), (peak, 0.28 * self.wide))
                fill(brim, shade(look.accent, 0.7))

    def _draw_face(self) -> None:
        """Draw a face, from frontal to profile, with hair."""
        look, fill = self.look, self.canvas.fill_polygon
        hair, full = look.hair, max(self.face, 0.0)
        dark = mix(shade(look.skin, 0.3), (20, 12, 10), 0.5)
        if look.hairdo == 0:
            self.canvas.draw_shaded(self._head_ellipse(0, 0, 1, 1), look.skin)
        else:
            self.canvas.draw_shaded(self._head_ellipse(0, 0.05, 1.04, 0.98), hair)
            width = 0.66 + 0.2 * full
            self.canvas.draw_shaded(self._head_ellipse((1 - width) * self.aside, -0.16, width, 0.84), look.skin)
            if look.hairdo >= 2:
                fill(self._head_ellipse(0.3 * self.aside - 0.15, 0.68, 0.75, 0.26), hair)
        if full < 0.8:
            # Profiles have a protruding nose and a central ear.
            side = math.copysign(1.0, self.aside)
            fill(self._head_ellipse(side * 0.98, -0.1, 0.2, 0.13), look.skin)
            fill(self._head_ellipse(-side * (0.1 + 0.6 * full), -0.05, 0.15, 0.18), shade(look.skin, 0.75))
        if look.extra == 2:
            fill(self._head_ellipse(0.4 * self.aside, -0.66, 0.5 + 0.1 * full, 0.32), mix(hair, look.skin, 0.15))
        for eye in (-1, 1):
            across = 0.62 * self.aside + eye * 0.4 * self.face
            if abs(across) > 0.95 or (self.face < 0.2 and eye * self.aside < 0):
                continue
            fill(self._head_ellipse(across, 0.06, 0.2, 0.11), (244, 242, 238))
            fill(self._head_ellipse(across + 0.04 * self.aside, 0.05, 0.12, 0.11), dark)
            fill(self._head_ellipse(across, 0.25, 0.24, 0.05), mix(hair, dark, 0.5))
            if look.extra == 3:
                fill(self._head_ellipse(across, 0.05, 0.3, 0.2), (30, 30, 36))
        fill(self._head_ellipse(0.72 * self.aside, -0.2, 0.1, 0.13), shade(look.skin, 0.72))
        fill(self._head_ellipse(0.6 * self.aside, -0.56, 0.14 + 0.16 * full, 0.07), mix(look.skin, (150, 30, 40), 0.6))
