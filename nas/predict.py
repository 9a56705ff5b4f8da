"""Predict and draw poses on any image, video or camera: ``python -m nas.predict``."""

from __future__ import annotations

import math
import stat
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.console import (
    console,
    existing_file,
    parse_count,
    print_json,
    print_note,
    progress,
    run,
    set_quiet,
    stderr,
    writable_directory,
)
from nas.errors import UserError
from nas.options import MAX_PIXELS_TEXT, CodeOptions, MaxPixels, command, new_app

if TYPE_CHECKING:
    from nas.inference.pose_writer import Boxes, PoseWriter

app = new_app()


@dataclass(frozen=True)
class BoxOptions:
    """Where the people are."""

    box: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,W,H", help="Around a person, in pixels; one for each person.")
    ] = None
    whole: Annotated[bool, typer.Option("--whole", help="The whole image is the box: the default.")] = False
    center_scale: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,SCALE", help="MPII's objpos and scale instead of a box.")
    ] = None

    def __post_init__(self) -> None:
        ways = (("--box", self.box), ("--whole", self.whole), ("--center-scale", self.center_scale))
        given = [flag for flag, value in ways if value]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} say where the person is in different ways; give one of them")

    def boxes(self) -> Boxes:
        """A function of an image that returns the boxes of its people.

        Raises:
            UserError: a flag's numbers are wrong.
        """
        from nas.inference.predictor import Box

        fixed = []
        for text in self.box or []:
            x, y, width, height = _numbers("--box", text, "X,Y,W,H")
            if min(width, height) < 1:
                raise UserError(f"--box {text}: width and height must be at least 1 pixel")
            fixed.append(Box.around(x, y, width, height))
        for text in self.center_scale or []:
            x, y, scale = _numbers("--center-scale", text, "X,Y,SCALE")
            if scale < 0.01:
                raise UserError(
                    f"--center-scale {text}: the scale, the person's height over 200 pixels, must be at least 0.01"
                )
            fixed.append(Box.mpii(x, y, scale))
        if fixed:
            return lambda image: fixed
        return lambda image: [Box.around(0, 0, image.shape[1], image.shape[0])]


@dataclass(frozen=True)
class PredictionOptions:
    """How poses are predicted and drawn."""

    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored image: better, slower.")] = False
    sure: Annotated[float, typer.Option(metavar="S", min=0, max=1, help="Lower scores are drawn hollow.")] = 0.25
    max_pixels: MaxPixels = MAX_PIXELS_TEXT
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto"
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="CPU threads.")] = 1


@dataclass(frozen=True)
class ListingOptions:
    """What is printed; unlike elsewhere, ``--quiet`` hides the list of written files too."""

    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON of all as one list.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.", callback=set_quiet)] = False


@command(app)
def main(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint.pt written by nas.retrain.")],
    people: BoxOptions,
    prediction: PredictionOptions,
    listing: ListingOptions,
    code: CodeOptions,
    images: Annotated[list[Path] | None, typer.Argument(help="Images, videos, or folders of them.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the annotated images and JSON files.")] = Path("poses"),
    webcam: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Record camera N until Ctrl-C; 0: the first.")
    ] = None,
) -> None:
    """Draw the poses that a network predicts, and write its joints as JSON.

    NAME.jpg gives NAME.pose.jpg (a video .mp4) and NAME.pose.json, with scores and joints in pixels of the original
    image. The network sees a square around the box, which the person should nearly fill. Exit code 1: some files
    could not be read or drawn.

    Example: python -m nas.predict checkpoint.pt photo.jpg --box 120,40,300,420
    """
    if (webcam is None) == (not images):
        raise UserError("give images, videos or folders, or --webcam 0" + (", not both" if images else ""))
    existing_file(checkpoint, "CHECKPOINT")

    from nas.inference.pose_writer import Drawing, PoseWriter
    from nas.inference.predictor import Predictor
    from nas.training.devices import resolve_device, use_threads

    max_pixels = parse_count(prediction.max_pixels, "--max-pixels")
    boxes, device = people.boxes(), resolve_device(prediction.device)
    sources: Sequence[Path | int] = _find_files(images or []) if webcam is None else [webcam]
    writable_directory(out, "--out")
    names = _output_names(sources)
    _refuse_overwriting(out, checkpoint, sources, names)
    use_threads(prediction.threads)
    drawing = Drawing(boxes, prediction.flip, prediction.sure, not people.center_scale, max_pixels)
    notes = (lambda text: None) if listing.quiet else print_note
    writer = PoseWriter(Predictor.load(checkpoint, device), checkpoint, out, drawing, notes, _print_error)
    records = _write_all(writer, sources, names, listing.quiet)
    if listing.as_json:
        print_json(records, allow_nan=False)
    elif not listing.quiet:
        for record in records:  # not before: lines on standard output would run into the progress bar
            drawn = record["drawing"]
            written = out / drawn if drawn else "its JSON file only, not drawn"
            console.print(f"{record['picture']}: {written}", soft_wrap=True)
    failed = len(sources) - sum(record["drawing"] is not None for record in records)
    if failed:
        if not listing.quiet:
            stderr.print(f"{failed:,} of {len(sources):,} could not be done", soft_wrap=True)
        raise typer.Exit(1)


def _write_all(
    writer: PoseWriter, sources: Sequence[Path | int], names: Sequence[str], quiet: bool
) -> list[dict[str, Any]]:
    """Predict every source; those that fail are reported on standard error and left out.

    Raises:
        UserError: a camera fails.
    """
    from nas.data.media_io import is_video

    several = len(sources) > 1
    records = []
    with progress("predicting", len(sources)) if several else nullcontext(lambda done: None) as advance:
        for done, (source, name) in enumerate(zip(sources, names, strict=True), 1):
            try:
                if isinstance(source, int) or is_video(source):
                    record = writer.write_video(source, name, None if quiet or several else progress)
                else:
                    record = writer.write_image(source, name)
            except UserError as error:
                if isinstance(source, int):
                    raise
                _print_error(str(error))
            else:
                records.append(record)
            advance(done)
    return records


def _print_error(text: str) -> None:
    """Print an error of one file: the others are done."""
    stderr.print(f"error: {' '.join(text.split())}", soft_wrap=True)


def _numbers(flag: str, text: str, names: str) -> list[float]:
    """The numbers of a flag's value, as many as it has names."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(names.split(",")) or not all(map(math.isfinite, values)):
        raise UserError(f"{flag} {text}: must be {names}, numbers with commas between them")
    return values


def _find_files(paths: Sequence[Path]) -> list[Path]:
    """The files to read, each once; what earlier runs wrote into a folder is left out.

    Raises:
        UserError: a path does not exist or is a FIFO or device, or a folder holds no images or videos.
    """
    from nas.data.media_io import files_in

    files: dict[Path, Path] = {}
    for path in paths:
        try:
            kind = path.stat().st_mode
            inside = [path]
            if stat.S_ISDIR(kind):
                inside = [file for file in files_in(path) if not file.stem.endswith(".pose")]
        except FileNotFoundError as error:
            raise UserError(f"IMAGE {path} does not exist; give images, videos or folders of them") from error
        except OSError as error:
            raise UserError(f"IMAGE {path} cannot be read ({error.strerror}); give another") from error
        if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
            what = "a FIFO" if stat.S_ISFIFO(kind) else "a socket" if stat.S_ISSOCK(kind) else "a device"
            raise UserError(f"IMAGE {path} is {what}, not a file; write the content to a file, and give that")
        if not inside:
            raise UserError(f"IMAGE {path}: this folder has no images or videos; give another, or files")
        for file in inside:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _output_names(sources: Sequence[Path | int]) -> list[str]:
    """The name of each source's outputs, before ``.pose``: its own, with a number where two would be equal."""
    taken: set[str] = set()
    names = []
    for source in sources:
        stem = f"webcam-{source}" if isinstance(source, int) else source.stem
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        if number > 1:
            print_note(f"{source} is not the only {stem}; see {name}.pose.json")
        taken.add(name.casefold())
        names.append(name)
    return names


def _refuse_overwriting(out: Path, checkpoint: Path, sources: Sequence[Path | int], names: Sequence[str]) -> None:
    """Refuse to write over a file that is read."""
    from nas.inference.pose_writer import drawing_suffix

    files = [source for source in sources if isinstance(source, Path)]
    read = {path.resolve() for path in (checkpoint, *files)}
    for path, name in zip(files, names, strict=False):
        for suffix in (".json", drawing_suffix(path)):
            file = out / f"{name}.pose{suffix}"
            if file.resolve() in read:
                raise UserError(f"--out {out}: {file} is one of the files to read; choose another folder")


if __name__ == "__main__":
    run(app)
