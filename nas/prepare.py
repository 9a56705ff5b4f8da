"""Pack people and their images into one file that training loads: ``python -m nas.prepare``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from nas.console import (
    Quiet,
    console,
    default_workers,
    existing_directory,
    existing_file,
    parse_count,
    print_json,
    print_tables,
    progress,
    run,
    stderr,
    writable_file,
)
from nas.errors import UserError
from nas.options import MAX_PIXELS_TEXT, MaxPixels, add_version, command, new_app
from nas.study.files import write_file

if TYPE_CHECKING:
    from nas.data.packed.options import PackOptions
    from nas.data.packed.packing import PackReport
    from nas.data.packed.validation import ValidationReport
    from nas.data.readers.dataset import AnnotationFiles, Dataset

app = new_app(
    help="Pack people and their images into one file that training loads.",
    epilog="Example: python -m nas.prepare lsp --images lspet/images --annotations lspet/joints.mat --out lspet.h5",
)
add_version(app)

Out = Annotated[Path, typer.Option(help="The packed file; an existing one is replaced once the new one is complete.")]
Box = Annotated[int, typer.Option(min=16, max=1024, help="Side of a person's box in the packed crops, in pixels.")]
Workers = Annotated[int, typer.Option(min=0, max=256, help="Parallel workers; 0: one per core.")]
Jpeg = Annotated[int | None, typer.Option(min=1, max=100, help="Store crops as JPEG of this quality; default: raw.")]


@dataclass(frozen=True)
class PackFlags:
    """Where the images of a dataset are, and how they are packed."""

    images: Annotated[Path, typer.Option(help="Folder of the images.")]
    out: Out
    box: Box = 256
    workers: Workers = 0
    jpeg: Jpeg = None
    max_broken: Annotated[
        str, typer.Option(metavar="N|P%", help="Missing or broken images to allow; their people are left out.")
    ] = "0"
    max_pixels: MaxPixels = MAX_PIXELS_TEXT
    quiet: Quiet = False

    def __post_init__(self) -> None:
        existing_directory(self.images, "--images")
        self.options()  # raises if --max-broken or --max-pixels is wrong

    def options(self) -> PackOptions:
        """The options of packing."""
        from nas.data.packed.options import PackOptions

        return PackOptions(
            self.box,
            self.workers or default_workers(),
            self.jpeg,
            self.max_broken,
            parse_count(self.max_pixels, "--max-pixels"),
        )


@dataclass(frozen=True)
class AnnotationFlags:
    """The annotation files of a dataset."""

    annotations: Annotated[list[Path] | None, typer.Option("--annotations", help="Annotations; may be repeated.")] = (
        None
    )
    train: Annotated[Path | None, typer.Option(help="Annotations of training people only.")] = None
    valid: Annotated[Path | None, typer.Option(help="Annotations of validation people only.")] = None

    def files(self, valid_list: Path | None = None) -> AnnotationFiles:
        """The files, all of which exist."""
        if not self.annotations and self.train is None and self.valid is None:
            raise UserError("none of --annotations, --train and --valid is given; give the annotations of at least one")
        for path in self.annotations or ():
            existing_file(path, "--annotations")
        for flag, optional in (("--train", self.train), ("--valid", self.valid), ("--valid-list", valid_list)):
            if optional is not None:
                existing_file(optional, flag)

        from nas.data.readers.dataset import AnnotationFiles

        return AnnotationFiles(self.annotations or (), self.train, self.valid, valid_list)


@command(
    app,
    epilog="Example: python -m nas.prepare lsp --images lsp/images --annotations lsp/joints.mat "
    "--extended-images lspet/images --extended-annotations lspet/joints.mat --out lsp.h5",
)
def lsp(
    packing: PackFlags,
    annotations: Annotated[Path, typer.Option(help="joints.mat of Leeds Sports Pose, or of its Extended set.")],
    extended_images: Annotated[Path | None, typer.Option(help="Folder of the Extended set's images.")] = None,
    extended_annotations: Annotated[
        Path | None, typer.Option(help="The Extended set's joints.mat, to add to LSP.")
    ] = None,
) -> None:
    """Pack Leeds Sports Pose, its Extended set, or both.

    LSP's 1,000 test images become valid. The Extended set is used for training only together with LSP; alone, 10 % of
    its images become valid. 10 % of the training images become holdout. The set is recognised from the file's content.
    """
    if extended_images is not None:
        existing_directory(extended_images, "--extended-images")
        if extended_annotations is None:
            raise UserError("--extended-images without --extended-annotations; give both")
    existing_file(annotations, "--annotations")
    if extended_annotations is not None:
        existing_file(extended_annotations, "--extended-annotations")

    from nas.data.datasets import leeds_dataset

    _pack(leeds_dataset(packing.images, annotations, extended_images, extended_annotations, _say), packing)


@command(
    app,
    epilog="Example: python -m nas.prepare mpii --images images --annotations mpii_human_pose_v1_u12_1.mat "
    "--valid-list valid.h5 --out mpii.h5",
)
def mpii(
    packing: PackFlags,
    files: AnnotationFlags,
    valid_list: Annotated[
        Path | None,
        typer.Option(help="Validation people: a text file with one image name per line, or their annotations."),
    ] = None,
) -> None:
    """Pack MPII from its original .mat, the hourglass code's HDF5, HRNet's JSON or pytorch-pose's JSON.

    Formats are recognised from the content. 10 % of the training images become holdout. If neither a file nor a flag
    defines the validation people, images are divided by a hash of their names: 80 % train, 10 % holdout, 10 % valid.
    """
    annotations = files.files(valid_list)

    from nas.data.datasets import mpii_dataset

    _pack(mpii_dataset(packing.images, annotations, _say), packing)


@command(app, epilog="Example: python -m nas.prepare flic --images images --annotations examples.mat --out flic.h5")
def flic(packing: PackFlags, files: AnnotationFlags) -> None:
    """Pack FLIC from its original examples.mat or the hourglass code's HDF5.

    10 % of the training images become holdout. Whether left and right are the person's or the observer's is detected,
    printed, and stored in the packed file.
    """
    annotations = files.files()

    from nas.data.datasets import flic_dataset

    _pack(flic_dataset(packing.images, annotations, _say), packing)


@command(
    app,
    epilog="Example: python -m nas.prepare coco --images val2017 --annotations person_keypoints_val2017.json "
    "--skeleton skeleton.toml --out people.h5",
)
def coco(
    packing: PackFlags,
    skeleton: Annotated[Path, typer.Option(help="The joints, in TOML; nas/data/README.md has an example.")],
    files: AnnotationFlags,
    valid_images: Annotated[Path | None, typer.Option(help="Folder of the images of --valid, if different.")] = None,
) -> None:
    """Pack your own people from COCO keypoint annotations, with your own skeleton.

    With --train and --valid, 10 % of the training images become holdout; images of --annotations are divided by a hash
    of their names: 80 % train, 10 % holdout, 10 % valid.
    """
    if valid_images is not None:
        existing_directory(valid_images, "--valid-images")
    annotations = files.files()
    existing_file(skeleton, "--skeleton")

    from nas.data.datasets import coco_dataset

    _pack(coco_dataset(packing.images, annotations, skeleton, valid_images, _say), packing)


@dataclass(frozen=True)
class SceneFlags:
    """How many people are rendered."""

    people: Annotated[int, typer.Option(min=0, help="Training people.")] = 3000
    holdout: Annotated[int, typer.Option(min=0, help="People that search trials are scored on.")] = 400
    valid: Annotated[int, typer.Option(min=0, help="People that retrained networks are scored on.")] = 500
    seed: Annotated[int, typer.Option(min=0, help="Seed of the rendered people.")] = 0

    def counts(self) -> dict[str, int]:
        """Number of people in each split."""
        counts = {"train": self.people, "holdout": self.holdout, "valid": self.valid}
        if not sum(counts.values()):
            raise UserError("--people, --holdout and --valid are all 0; set at least one of them")
        return counts


@command(app, epilog="Example: python -m nas.prepare synthetic --people 3000 --out synthetic.h5")
def synthetic(
    out: Out,
    scenes: SceneFlags,
    box: Box = 64,
    workers: Workers = 0,
    jpeg: Jpeg = None,
    quiet: Quiet = False,
) -> None:
    """Render synthetic people with the 16 joints of MPII; the same flags always give the same people."""
    counts = scenes.counts()
    writable_file(out, "--out")

    from nas.data.packed.options import PackOptions
    from nas.data.packed.synthetic import pack_synthetic
    from nas.data.synthetic.scene import SceneConfig

    start = time.monotonic()
    options = PackOptions(box, workers or default_workers(), jpeg)
    with _announce_resume(out), progress("rendering", sum(counts.values())) as on_progress:
        resumed = pack_synthetic(out, counts, scenes.seed, SceneConfig(), options, on_progress)
    _report(out, time.monotonic() - start, resumed, {}, [])


@command(app, epilog="Example: python -m nas.prepare check people.h5 --sheet sheet.jpg")
def check(
    file: Annotated[Path, typer.Argument(help="The packed file.", metavar="PEOPLE.H5")],
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet here, a .jpg or .png.")] = None,
    people: Annotated[int, typer.Option(min=1, max=240, help="People on the sheet.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample on the sheet.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every byte of a packed file, and draw some of its people.

    Exits with 1 and lists the problems if training should not use the file. The sheet shows people as packed, and as
    augmented: rotated, scaled, shifted, recoloured, mirrored. A mirrored person's left is still their left.
    """
    if sheet is not None:
        if sheet.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            raise UserError(f"--sheet {sheet} is not an image file name; give one that ends in .jpg or .png")
        writable_file(sheet, "--sheet")
    existing_file(file, "PEOPLE.H5")

    from nas.data.packed.validation import check_packed

    report = check_packed(file)
    problems = list(report.problems)
    if sheet is not None:
        try:
            _write_sheet(file, sheet, people, seed)
        except UserError as error:
            if not problems:
                raise
            problems.append(f"no contact sheet: {error}")
            sheet = None
    if as_json:
        print_json(_validation_record(file, report, problems, sheet), allow_nan=False)
    else:
        _print_validation(file, report, problems, sheet)
    if problems:
        raise typer.Exit(1)


def _write_sheet(file: Path, sheet: Path, count: int, seed: int) -> None:
    from nas.data.media_io import encode_image
    from nas.data.packed.reader import PackedPeople
    from nas.data.packed.summary import describe_packed
    from nas.data.visualization.contact_sheet import contact_sheet

    people, rows, splits = PackedPeople.load_sample(file, count, seed)
    labels = [f"{row}  {split}  {name}" for row, split, name in zip(rows, splits, people.images, strict=True)]
    total = describe_packed(file).people
    title = f"{file.name}: {len(people):,} of {total:,} people, {people.skeleton.name}, box {people.box}, seed {seed}"
    content = encode_image(contact_sheet(people, labels, title, seed), sheet.name)
    write_file(sheet, content, "--sheet")


def _validation_record(
    file: Path, report: ValidationReport, problems: Sequence[str], sheet: Path | None
) -> dict[str, Any]:
    """What ``check --json`` prints."""
    from nas.data.packed.format import crop_side

    packed = report.summary
    return {
        "file": str(file), "fine": not problems, "problems": list(problems), "notes": list(report.notes),
        "people": packed.people, "splits": dict(packed.counts), "skeleton": packed.skeleton.name,
        "box": packed.box, "side": crop_side(packed.box), "jpeg": packed.jpeg, "bytes": file.stat().st_size,
        "joints": packed.people * len(packed.skeleton.joints), "labelled": report.joints,
        "outside_box": report.outside_box, "outside_crop": report.outside_crop,
        "head_sizes": dict(zip(("smallest", "median", "largest"), report.head_sizes, strict=True)),
        "odd_heads": report.odd_heads, "unlabelled": report.unlabelled, "doubles": report.duplicates,
        "doubles_across": report.duplicates_across, "source": dict(packed.source), "checksum": packed.checksum,
        "sheet": str(sheet) if sheet else None,
    }  # fmt: skip


def _print_validation(file: Path, report: ValidationReport, problems: Sequence[str], sheet: Path | None) -> None:
    from nas.data.packed.format import crop_side
    from nas.data.people import SPLITS

    packed = report.summary
    joints = packed.people * len(packed.skeleton.joints)
    encoding = "raw" if packed.jpeg is None else f"JPEG {packed.jpeg}"
    side = crop_side(packed.box)
    smallest, median, largest = report.head_sizes
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in (
        ("people", f"{packed.people:,} ({', '.join(f'{split} {packed.counts[split]:,}' for split in SPLITS)})"),
        ("crops", f"{side}×{side} (box {packed.box}), {encoding}, {file.stat().st_size / 2**20:,.1f} MiB"),
        ("skeleton", f"{packed.skeleton.name}, {len(packed.skeleton.joints)} joints"),
        ("joints labelled", f"{report.joints:,} of {joints:,} ({report.joints / max(joints, 1):.1%})"),
        ("outside the box", f"{report.outside_box:,} ({report.outside_box / max(report.joints, 1):.2%})"),
        ("outside the crop", f"{report.outside_crop:,} ({report.outside_crop / max(report.joints, 1):.2%})"),
        ("head size", f"{smallest:.1%} to {largest:.1%} of the box, median {median:.1%}"),
        ("equal crops", f"{report.duplicates:,} groups, {report.duplicates_across:,} in more than one split"),
        ("source", ", ".join(f"{key} {text}" for key, text in packed.source.items() if "sha256" not in key)),
        ("checksum", packed.checksum),
        *(("sheet", str(path)) for path in [sheet] if path),
    ):
        table.add_row(name, Text(value))
    print_tables(table)
    for note in report.notes:
        _say(f"note: {note}")
    for problem in problems:
        _say(f"wrong: {problem}")
    _say(f"{file}: {f'{len(problems)} problems' if len(problems) > 1 else '1 problem' if problems else 'fine'}")


def _say(line: str) -> None:
    console.print(line, soft_wrap=True)


def _pack(dataset: Dataset, packing: PackFlags) -> None:
    """Pack a dataset, with progress, and report the result."""
    from nas.data.media_io import image_path
    from nas.data.packed.packing import pack

    for person in dataset.people:  # names that lead out of the folder are refused before anything is written
        image_path(dataset.folder, person.image)
    out, options = writable_file(packing.out, "--out"), packing.options()
    start = time.monotonic()
    with _announce_resume(out), progress("packing", len(dataset.people)) as on_progress:
        report = pack(dataset.people, dataset.folder, out, dataset.skeleton, dataset.source, options, on_progress)
    seconds = time.monotonic() - start
    dropped = dict(dataset.dropped)
    if report.left_out:
        dropped["image missing or broken"] = report.left_out
    _report(out, seconds, report.resumed, dropped, _image_lines(out, report, seconds))


def _image_lines(out: Path, report: PackReport, seconds: float) -> list[str]:
    """What to tell about the images read: those that are missing or broken, and the speed."""
    from nas.data.packed.packing import broken_list

    lines = []
    if report.broken:
        few = ", ".join(f"{image} ({reason})" for image, reason in list(report.broken.items())[:3])
        rest = f" and {len(report.broken) - 3:,} more" if len(report.broken) > 3 else ""
        lines.append(f"missing or broken images: {len(report.broken):,}, listed in {broken_list(out)}: {few}{rest}")
    if report.several_frames:
        few = ", ".join(report.several_frames[:3])
        rest = f" and {len(report.several_frames) - 3:,} more" if len(report.several_frames) > 3 else ""
        lines.append(f"several frames or pages, of which only the first was used: {few}{rest}")
    if report.images:
        rate = f"{report.images / seconds:,.0f} images/s"
        lines.append(f"{report.images:,} images read, {rate}; {report.decoding:.0%} of the CPU time was decoding them")
    return lines


@contextmanager
def _announce_resume(out: Path) -> Iterator[None]:
    """On Ctrl-C, say that the work is not lost."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(f"{out}: what is done so far is kept; the same command continues from there", soft_wrap=True)
        raise


def _report(out: Path, seconds: float, resumed: int, dropped: Mapping[str, int], more: Sequence[str]) -> None:
    from nas.data.packed.format import crop_side
    from nas.data.packed.summary import describe_packed
    from nas.data.people import SPLITS

    packed = describe_packed(out)
    size = out.stat().st_size / 2**20
    side = crop_side(packed.box)
    splits = ", ".join(f"{split} {packed.counts[split]:,}" for split in SPLITS)
    joints = packed.people * len(packed.skeleton.joints)
    encoding = "raw" if packed.jpeg is None else f"JPEG {packed.jpeg}"
    rate = (packed.people - resumed) / seconds
    lines = [
        f"{out}: {packed.people:,} people ({splits})",
        *([f"of these, {resumed:,} were packed before the interruption"] if resumed else []),
        f"joints labelled: {packed.labelled:,} of {joints:,} ({packed.labelled / joints:.1%})",
        *(f"left out: {count:,}, {reason}" for reason, count in dropped.items()),
        *more,
        f"crops {side}×{side} (box {packed.box}), {encoding}, {size:,.1f} MiB, {seconds:.1f} s, {rate:,.0f}/s",
    ]
    console.print("\n".join(lines), soft_wrap=True)


if __name__ == "__main__":
    run(app)
