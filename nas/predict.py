"""Predict and draw poses on any picture, video or camera: ``python -m nas.predict``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.console import console, existing_file, progress, run, stderr, writable_directory
from nas.data.media_io import Clip, Picture, VideoWriter, files_in, is_video, opened_video, read_image
from nas.data.visualization.contact_sheet import save_jpeg_or_png
from nas.data.visualization.pose_overlay import draw_pose
from nas.errors import UserError
from nas.inference.predictor import Box, Pose, Predictor
from nas.options import command, new_app
from nas.training.checkpoint import write_atomically
from nas.training.devices import resolve_device, use_threads

app = new_app()

AT_ONCE = 16
"""Frames of a video that are predicted together."""

COORDINATES = (
    "x, y in pixels of the original picture, 0-based and continuous: distances from its left and top edge, the first "
    "pixel's centre being (0.5, 0.5); boxes are left, top, width, height"
)
UPRIGHT = "; of the picture as it is shown, turned by its EXIF tag"
SCORES = "0 to 1: the peak of the joint's map over that of the map that the network was trained to give"

Boxes = Callable[[Picture], list[Box]]


@command(app)
def main(
    checkpoint: Annotated[Path, typer.Argument(help="What nas.retrain wrote: a checkpoint.pt.")],
    pictures: Annotated[list[Path] | None, typer.Argument(help="Pictures, videos, or folders of them.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the drawings and JSON files.")] = Path("poses"),
    box: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,W,H", help="Around a person, in pixels; one for each person.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="The whole picture is the box: the default.")] = False,
    center_scale: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,SCALE", help="MPII's objpos and scale instead of a box.")
    ] = None,
    webcam: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Record camera N until Ctrl-C; 0: the first.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored copy: better, slower.")] = False,
    sure: Annotated[float, typer.Option(metavar="S", min=0, max=1, help="Lower scores are drawn hollow.")] = 0.25,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="CPU threads.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON of all as one list.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors alone.")] = False,
) -> None:
    """Draw the poses that a network sees, and write its joints as JSON.

    NAME.jpg gives NAME.pose.jpg (a video .mp4) and NAME.pose.json, with scores and joints in pixels of the original
    picture. The network sees a square about the box, which the person should nearly fill. Exit code 1: some could
    not be read.

    Example: python -m nas.predict checkpoint.pt photo.jpg --box 120,40,300,420
    """
    given = [name for name, on in (("--box", box), ("--whole", whole), ("--center-scale", center_scale)) if on]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} say where the person is in different ways; give one of them")
    if (webcam is None) == (not pictures):
        raise UserError("give pictures, videos or folders, or --webcam 0" + (", not both" if pictures else ""))
    boxes = _boxes(box, center_scale)
    place = resolve_device(device)
    use_threads(threads)
    inputs = _inputs(pictures or [])
    writable_directory(out, "--out")
    existing_file(checkpoint, "CHECKPOINT")
    if webcam is not None:
        names = [f"webcam-{webcam}"]
    else:
        names = _names(inputs)
        _refuse_overwriting(out, [checkpoint, *inputs], inputs, names)
    predictor = Predictor.load(checkpoint, place)
    artist = _Artist(predictor, checkpoint, out, boxes, flip, sure, upright=not center_scale)

    records: list[dict[str, Any]] = []
    written: list[str] = []  # said at the end: lines on standard output would run into the bar
    failed = 0
    jobs: Sequence[Path | int] = inputs if webcam is None else [webcam]
    with progress("predicting", len(jobs)) if not quiet and len(jobs) > 1 else _silent() as advance:
        for done, (source, name) in enumerate(zip(jobs, names, strict=True), 1):
            try:
                if isinstance(source, int) or is_video(source):
                    record = artist.video(source, name, quiet or len(jobs) > 1)
                else:
                    record = artist.picture(source, name)
            except UserError as error:
                if webcam is not None:
                    raise
                failed += 1
                stderr.print(f"error: {' '.join(str(error).split())}", soft_wrap=True, markup=False)
            else:
                written.append(f"{record['picture']}: {out / record['drawing']}")
                if as_json:
                    records.append(record)
            advance(done)
    if as_json:
        print(json.dumps(records, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        for line in written:
            console.print(line, soft_wrap=True, markup=False)
    if failed:
        if not quiet:
            stderr.print(f"{failed:,} of {len(jobs):,} could not be done", soft_wrap=True)
        raise typer.Exit(1)


class _Artist:
    """Predicts, draws and writes what lies at one place after the other."""

    def __init__(
        self, predictor: Predictor, checkpoint: Path, out: Path, boxes: Boxes, flip: bool, sure: float, upright: bool
    ) -> None:
        self._predictor, self._out, self._boxes = predictor, out, boxes
        self._flip, self._sure, self._upright = flip, sure, upright
        skeleton = predictor.skeleton
        self._about = {
            "coordinates": COORDINATES + (UPRIGHT if upright else "; of the picture as it is stored"),
            "scores": SCORES,
            "checkpoint": str(checkpoint),
            "network": str(getattr(predictor.network, "architecture", "")),
            "input_size": predictor.input_size,
            "decoder": predictor.schedule.decoder,
            "flip": flip,
            "skeleton": {"name": skeleton.name, "joints": skeleton.joints, "limbs": skeleton.limbs},
        }

    def picture(self, path: Path, name: str) -> dict[str, Any]:
        """Do one picture; returns its record."""
        picture = read_image(path, self._upright)
        poses = self._poses(path, [picture])[0]
        drawing = f"{name}.pose{_ending(path)}"
        record = {
            "picture": str(path),
            "drawing": drawing,
            "width": picture.shape[1],
            "height": picture.shape[0],
            **self._about,
            "people": [pose.to_dict(self._predictor.skeleton) for pose in poses],
        }
        self._write(drawing, save_jpeg_or_png(self._drawn(picture, poses), drawing))
        self._write_json(name, record)
        return record

    def video(self, source: Path | int, name: str, quiet: bool) -> dict[str, Any]:
        """Do a video, or a camera until Ctrl-C; returns its record."""
        path = Path(f"camera {source}") if isinstance(source, int) else source
        drawing = f"{name}.pose.mp4"
        frames: list[dict[str, Any]] = []
        # Ctrl-C is how a person ends a camera's film; a file's is left undone, as if it had not been begun.
        ends = [KeyboardInterrupt] if isinstance(source, int) else []
        with opened_video(source) as (clip, pictures), VideoWriter(self._out / drawing, clip) as writer:
            shown = progress("frames", clip.frames) if clip.frames and not quiet else _silent()
            with shown as advance, suppress(*ends):
                for some in _batches(pictures, 1 if isinstance(source, int) else AT_ONCE):
                    for picture, poses in zip(some, self._poses(path, some), strict=True):
                        writer.put(self._drawn(picture, poses))
                        frames.append(self._frame(len(frames), clip, poses))
                    advance(min(len(frames), clip.frames))
        if clip.frames > len(frames) + 1 and not quiet:
            stderr.print(
                f"note: {path} says it has {clip.frames:,} frames; {len(frames):,} could be read",
                soft_wrap=True,
                markup=False,
            )
        record = {
            "picture": str(path),
            "drawing": drawing,
            "width": clip.width,
            "height": clip.height,
            "frames_per_second": clip.rate,
            **self._about,
            "frames": frames,
        }
        self._write_json(name, record)
        return record

    def _frame(self, number: int, clip: Clip, poses: Sequence[Pose]) -> dict[str, Any]:
        people = [pose.to_dict(self._predictor.skeleton) for pose in poses]
        return {"frame": number, "seconds": round(number / clip.rate, 4), "people": people}

    def _poses(self, path: Path, pictures: Sequence[Picture]) -> list[list[Pose]]:
        """The people of each picture."""
        boxes = [self._boxes(picture) for picture in pictures]
        height, width = pictures[0].shape[:2]
        for box in boxes[0]:
            if not box.overlaps(width, height):
                x, y, side, _ = box.to_list()
                raise UserError(
                    f"{path}: the box from {x:g},{y:g} of side {side:g} lies outside the {width}×{height} picture; "
                    "give one that shows the person"
                )
        shown = [picture for picture, some in zip(pictures, boxes, strict=True) for _ in some]
        poses = iter(self._predictor.poses(shown, [box for some in boxes for box in some], flip=self._flip))
        return [list(islice(poses, len(some))) for some in boxes]

    def _drawn(self, picture: Picture, poses: Sequence[Pose]) -> Picture:
        for pose in poses:
            picture = draw_pose(picture, pose.joints, pose.scores, self._predictor.skeleton, self._sure)
        return picture

    def _write_json(self, name: str, record: dict[str, Any]) -> None:
        self._write(f"{name}.pose.json", json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1).encode())

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_atomically(self._out / name, data)
        except OSError as error:
            raise UserError(f"{self._out / name} cannot be written ({error.strerror}); choose another --out") from error


def _silent() -> _Silence:
    return _Silence()


class _Silence:
    """Takes the place of :func:`nas.console.progress` where nothing is to be shown."""

    def __enter__(self) -> Callable[[int], None]:
        return lambda done: None

    def __exit__(self, *_: object) -> None:
        pass


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    pictures = iter(pictures)
    while some := list(islice(pictures, size)):
        yield some


def _numbers(flag: str, text: str, names: str) -> list[float]:
    """The numbers of a flag's value, as many as it has names."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(names.split(",")) or not all(map(math.isfinite, values)):
        raise UserError(f"{flag} {text}: must be {names}, numbers with commas between them")
    return values


def _boxes(box: list[str] | None, center_scale: list[str] | None) -> Boxes:
    """The people's boxes in a picture, as the flags say."""
    fixed = []
    for text in box or []:
        x, y, width, height = _numbers("--box", text, "X,Y,W,H")
        if min(width, height) < 1:
            raise UserError(f"--box {text}: width and height must be at least 1 pixel")
        fixed.append(Box.around(x, y, width, height))
    for text in center_scale or []:
        x, y, scale = _numbers("--center-scale", text, "X,Y,SCALE")
        if scale < 0.01:
            raise UserError(
                f"--center-scale {text}: the scale, the person's height over 200 pixels, must be at least 0.01"
            )
        fixed.append(Box.mpii(x, y, scale))
    if fixed:
        return lambda picture: fixed
    return lambda picture: [Box.around(0, 0, picture.shape[1], picture.shape[0])]


def _inputs(given: Sequence[Path]) -> list[Path]:
    """The files to read, each once; what earlier runs wrote is passed over in folders."""
    found: dict[Path, Path] = {}
    for path in given:
        if not path.exists():
            raise UserError(f"PICTURE {path} does not exist; give pictures, videos or folders of them")
        inside = [file for file in files_in(path) if not file.stem.endswith(".pose")] if path.is_dir() else [path]
        if not inside:
            raise UserError(f"PICTURE {path}: no pictures or videos lie in this folder; give another, or files")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _names(inputs: Sequence[Path]) -> list[str]:
    """What each file's outputs are called, before ``.pose``: its own name, with a number where two would be alike."""
    taken: set[str] = set()
    names = []
    for path in inputs:
        name, number = path.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{path.stem}-{number}"
        if number > 1:
            stderr.print(
                f"note: {path} is not the only {path.stem}; see {name}.pose.json", soft_wrap=True, markup=False
            )
        taken.add(name.casefold())
        names.append(name)
    return names


def _refuse_overwriting(out: Path, kept: Sequence[Path], inputs: Sequence[Path], names: Sequence[str]) -> None:
    known = {path.resolve() for path in kept}
    for path, name in zip(inputs, names, strict=True):
        for ending in (".json", _ending(path)):
            file = out / f"{name}.pose{ending}"
            if file.resolve() in known:
                raise UserError(f"--out {out}: {file} is one of the files to read; choose another folder")


def _ending(path: Path) -> str:
    """Of the drawing: JPEGs stay so, other pictures are drawn without loss."""
    return ".mp4" if is_video(path) else ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"


if __name__ == "__main__":
    run(app)
