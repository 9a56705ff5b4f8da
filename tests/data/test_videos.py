"""Videos of any rate, name and orientation: frames with their own time stamps, and drawings that can be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from films import film

from nas.data.media_io import Clip, VideoWriter, opened_video
from nas.errors import UserError

PAUSE = [*range(20), *range(80, 100)]
"""20 frames, a pause of two seconds at 30/s, and 20 more."""


@pytest.mark.parametrize(
    ("times", "scale", "rate"),
    [
        (PAUSE, 30, 40 / (100 / 30)),
        (range(0, 6, 2), 1, 0.5),
        (range(0, 48_000, 1000), 209_434, 209.434),
        (range(0, 20_020, 1001), 30_000, 29.97),
        (range(0, 20_020, 1001), 120_000, 119.88),
        (range(20), 2000, 2000),
        (range(0, 20_000, 1000), 90_001, 90.001),
        (range(0, 500, 100), 1, 0.01),
        (range(0, 20_000, 1000), 65_535_000, 65535),
    ],
)
def test_frames_have_their_own_times_and_every_rate_can_be_drawn(
    tmp_path: Path, times: Sequence[int], scale: int, rate: float
) -> None:
    with opened_video(film(tmp_path / "a.mp4", times, scale)) as (clip, frames):
        shown = list(frames)
    assert clip.rate == pytest.approx(rate, rel=1e-3)
    assert [frame.seconds for frame in shown] == pytest.approx([time / scale for time in times], abs=1e-4)
    with VideoWriter(tmp_path / "drawn.mp4", clip) as writer:
        for frame in shown:
            writer.put(frame.image)
    with opened_video(tmp_path / "drawn.mp4") as (drawn, frames):
        assert len(list(frames)) == len(shown)
    assert drawn.rate == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_videos_are_turned_as_said(tmp_path: Path, turn: int) -> None:
    path = film(tmp_path / "a.mp4", range(3), 10, turn)
    seen = []
    for upright in (False, True):
        with opened_video(path, upright) as (clip, frames):
            image = next(frames).image
        assert image.shape == (clip.height, clip.width, 3)
        seen.append(image)
    assert seen[0].shape == (48, 64, 3)
    assert seen[0][:, :4].mean() > 200
    assert np.abs(np.rot90(seen[0], -turn).astype(int) - seen[1]).mean() < 2


@pytest.mark.parametrize("name", [b"12:30.mp4", b"100%d.mp4", b"%03d.mp4", b"caf\xe9.mp4", b"-i.mp4", b"concat:a.mp4"])
def test_videos_of_any_name_are_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "a.mp4", range(3), 10)
    Path("a.mp4").rename(os.fsdecode(name))
    with opened_video(Path(os.fsdecode(name))) as (clip, frames):
        shown = list(frames)
    out = Path(os.fsdecode(b"drawn " + name))
    with VideoWriter(out, clip) as writer:
        for frame in shown:
            writer.put(frame.image)
    with opened_video(out) as (_, frames):
        assert len(list(frames)) == 3
    assert sorted(os.listdir(b".")) == sorted([name, b"drawn " + name])


def test_frames_larger_than_allowed_are_not_decoded(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(3), 10)
    too_large = pytest.raises(UserError, match=r"frames of 64×48 are more than 3,071 pixels.*--max-pixels")
    with too_large, opened_video(path, max_pixels=64 * 48 - 1):
        pass


def test_a_drawing_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write this video"):
        VideoWriter(tmp_path / "a.mp4", Clip(200_000, 200_000, 25, 0))
    assert os.listdir(tmp_path) == []
