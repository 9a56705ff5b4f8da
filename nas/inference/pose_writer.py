"""Poses in images and videos, predicted, drawn and written beside a JSON file with the joints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nas.data.image_header import MAX_PIXELS
from nas.data.media_io import Clip, Frame, Image, VideoWriter, encode_image, is_video, opened_video, read_image
from nas.data.visualization.pose_overlay import draw_pose
from nas.errors import UserError
from nas.inference.predictor import Box, Pose, Predictor
from nas.names import printable
from nas.training.checkpoint import write_atomically

FRAME_BATCH = 16
"""Frames of a video that are predicted in one forward pass."""

COORDINATES = (
    "x, y in pixels of the original image, 0-based and continuous: distances from its left and top edge, the first "
    "pixel's centre being (0.5, 0.5); boxes are left, top, width, height"
)
UPRIGHT = "; of the image as it is shown, turned by its orientation tag"
AS_STORED = "; of the image as it is stored"
SCORES = "0 to 1: the peak of the joint's map over that of the map that the network was trained to give"

Boxes = Callable[[Image], list[Box]]
"""The boxes of the people in an image."""

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""As :func:`nas.console.progress`: given a title and a total, a context with a function that takes the number done."""


@dataclass(frozen=True)
class Drawing:
    """How people are found in images and drawn.

    Attributes:
        boxes: of the people in an image.
        flip: whether heatmaps are averaged with those of the mirrored image.
        threshold: joints with lower scores are drawn hollow.
        upright: whether images and videos are turned by their orientation tag.
        max_pixels: larger images are not decoded.
    """

    boxes: Boxes
    flip: bool = False
    threshold: float = 0.25
    upright: bool = True
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class PoseWriter:
    """Predicts the poses in images and videos, and writes drawings and JSON files into a folder.

    Attributes:
        predictor: the network.
        checkpoint: its file, named in the JSON files.
        out: the folder.
        drawing: how people are found and drawn.
        notes: takes remarks about the files that were read.
        problems: takes reasons why a drawing could not be written.
    """

    predictor: Predictor
    checkpoint: Path
    out: Path
    drawing: Drawing
    notes: Callable[[str], None] = lambda text: None
    problems: Callable[[str], None] = lambda text: None

    def write_image(self, path: Path, name: str) -> dict[str, Any]:
        """Predict and draw one image.

        Args:
            path: of the image.
            name: of the files to write, before ``.pose``.

        Returns:
            What the JSON file holds.

        Raises:
            UserError: the image cannot be read, a box lies outside it, or a file cannot be written.
        """
        image = read_image(path, self.drawing.upright, self.drawing.max_pixels, self.notes)
        poses = self._predict(path, [image])[0]
        drawn = f"{name}.pose{drawing_suffix(path)}"
        is_drawn = True
        try:
            self._write(drawn, encode_image(self._draw(image, poses), drawn))
        except UserError as error:
            self.problems(f"{error}; the JSON file is written without it")
            is_drawn = False
        record = {
            "picture": printable(path),
            "drawing": printable(Path(drawn)) if is_drawn else None,
            "width": image.shape[1],
            "height": image.shape[0],
            **self._metadata(),
            "people": [pose.to_dict(self.predictor.skeleton) for pose in poses],
        }
        self._write_json(name, record)
        return record

    def write_video(self, source: Path | int, name: str, progress: ProgressBar | None) -> dict[str, Any]:
        """Predict and draw a video, or a camera's images until Ctrl-C.

        Args:
            source: path of the video, or number of the camera.
            name: of the files to write, before ``.pose``.
            progress: shows the frames done; None: neither progress nor notes.

        Returns:
            What the JSON file holds.

        Raises:
            UserError: as :meth:`write_image`.
        """
        camera = isinstance(source, int)
        path = Path(f"camera {source}" if isinstance(source, int) else source)
        drawn = f"{name}.pose.mp4"
        frames: list[dict[str, Any]] = []
        # Ctrl-C is how a recording ends; a file that is interrupted is not written at all.
        ends = [KeyboardInterrupt] if camera else []
        with (
            opened_video(source, self.drawing.upright, self.drawing.max_pixels) as (clip, images),
            self._film(drawn, clip) as film,
        ):
            bar = progress("frames", clip.frames) if clip.frames and progress else nullcontext(lambda done: None)
            with bar as advance, suppress(*ends):
                for batch in _batches(images, 1 if camera else FRAME_BATCH):
                    poses_of = self._predict(path, [frame.image for frame in batch])
                    for frame, poses in zip(batch, poses_of, strict=True):
                        film.put(self._draw(frame.image, poses))
                        people = [pose.to_dict(self.predictor.skeleton) for pose in poses]
                        frames.append({"frame": len(frames), "seconds": round(frame.seconds, 4), "people": people})
                    advance(min(len(frames), clip.frames))
        if clip.frames > len(frames) + 1 and progress:
            self.notes(f"{path} declares {clip.frames:,} frames; {len(frames):,} could be read")
        starts = [frame["seconds"] - frames[0]["seconds"] for frame in frames]
        if progress and any(abs(start * clip.rate - number) > 1.5 for number, start in enumerate(starts)):
            self.notes(
                f"the frames of {path} are not evenly spaced, those of the drawing are: {clip.rate:.4g} a second; "
                "the JSON file has their times"
            )
        record = {
            "picture": printable(path),
            "drawing": None if film.problem else printable(Path(drawn)),
            "width": clip.width,
            "height": clip.height,
            "frames_per_second": clip.rate,
            **self._metadata(),
            "frames": frames,
        }
        self._write_json(name, record)
        return record

    @contextmanager
    def _film(self, name: str, clip: Clip) -> Iterator[_Film]:
        """A drawn video to put frames into; what prevents it is told, and does not prevent the JSON file."""
        film = _Film()
        try:
            with VideoWriter(self.out / name, clip) as film.writer:
                try:
                    yield film
                except BaseException as error:
                    film.interrupted = error
                    raise
        except UserError as error:
            if film.interrupted:
                raise
            self.problems(f"{error}; the JSON file is written without it")
            film.problem = str(error)
            if film.writer is None:
                yield film

    def _metadata(self) -> dict[str, Any]:
        """The keys that every JSON file has in common."""
        predictor, skeleton = self.predictor, self.predictor.skeleton
        return {
            "coordinates": COORDINATES + (UPRIGHT if self.drawing.upright else AS_STORED),
            "scores": SCORES,
            "checkpoint": printable(self.checkpoint),
            "network": str(getattr(predictor.network, "architecture", "")),
            "input_size": predictor.input_size,
            "decoder": predictor.schedule.decoder,
            "flip": self.drawing.flip,
            "skeleton": {"name": skeleton.name, "joints": skeleton.joints, "limbs": skeleton.limbs},
        }

    def _predict(self, path: Path, images: Sequence[Image]) -> list[list[Pose]]:
        """The people of each image."""
        boxes = [self.drawing.boxes(image) for image in images]
        height, width = images[0].shape[:2]
        for box in boxes[0]:
            if not box.overlaps(width, height):
                x, y, side, _ = box.to_list()
                raise UserError(
                    f"{path}: the box from {x:g},{y:g} of side {side:g} lies outside the {width}×{height} image; "
                    "give one that shows the person"
                )
        repeated = [image for image, its_boxes in zip(images, boxes, strict=True) for _ in its_boxes]
        flat = [box for its_boxes in boxes for box in its_boxes]
        poses = iter(self.predictor.poses(repeated, flat, flip=self.drawing.flip))
        return [list(islice(poses, len(its_boxes))) for its_boxes in boxes]

    def _draw(self, image: Image, poses: Sequence[Pose]) -> Image:
        for pose in poses:
            image = draw_pose(image, pose.joints, pose.scores, self.predictor.skeleton, self.drawing.threshold)
        return image

    def _write_json(self, name: str, record: dict[str, Any]) -> None:
        self._write(f"{name}.pose.json", json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1).encode())

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_atomically(self.out / name, data)
        except OSError as error:
            raise UserError(f"{self.out / name} cannot be written ({error.strerror}); choose another --out") from error


@dataclass
class _Film:
    """A drawn video: its writer, what prevented it, and what interrupted the prediction."""

    writer: VideoWriter | None = None
    problem: str = ""
    interrupted: BaseException | None = None

    def put(self, frame: Image) -> None:
        if self.writer is not None:
            self.writer.put(frame)


def drawing_suffix(path: Path) -> str:
    """The ending of a drawing: JPEGs stay JPEGs, other images are drawn without loss."""
    return ".mp4" if is_video(path) else ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    frames = iter(frames)
    while batch := list(islice(frames, size)):
        yield batch
