"""Pack people and their pictures into one file that training loads: ``python -m nas.prepare``."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nas.console import (
    Quiet,
    console,
    default_workers,
    existing_directory,
    existing_file,
    print_tables,
    progress,
    run,
    stderr,
    writable_directory,
)
from nas.data.media_io import image_path
from nas.data.packed.format import crop_side
from nas.data.packed.options import PackOptions
from nas.data.packed.packing import broken_list, pack
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.packed.synthetic import pack_synthetic
from nas.data.packed.validation import ValidationReport, check_packed
from nas.data.people import SPLITS, Person
from nas.data.readers.coco import read_coco, read_skeleton
from nas.data.readers.flic import EITHER, read_flic
from nas.data.readers.lsp import read_leeds
from nas.data.readers.mpii import read_mpii
from nas.data.readers.splits import (
    TRAINING,
    UNDIVIDED,
    VALIDATION,
    Annotations,
    merge,
    read_names,
    remove_split_overlap,
    validate_people,
    validate_pictures,
)
from nas.data.skeletons import FLIC, LSP, MPII, Skeleton
from nas.data.synthetic.scene import SceneConfig
from nas.data.visualization.contact_sheet import contact_sheet, save_jpeg_or_png
from nas.errors import UserError
from nas.options import add_version

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Pack people and their pictures into one file that training loads.",
    epilog="Example: python -m nas.prepare lsp --images lspet/images --annotations lspet/joints.mat --out lspet.h5",
)
add_version(app)

Reader = Callable[[Path, Mapping[str, float]], Annotations]

_DIVIDED = "its pictures are divided into 80 % train, 10 % holdout, 10 % valid by a hash of their names"

Images = Annotated[Path, typer.Option(help="Folder with the pictures.")]
Out = Annotated[Path, typer.Option(help="The packed file; an existing one is replaced once the new one is complete.")]
Box = Annotated[int, typer.Option(min=16, max=1024, help="Side of a person's box in the packed crops, in pixels.")]
Workers = Annotated[int, typer.Option(min=0, max=256, help="Parallel workers; 0: one for each core.")]
AnnotationFiles = Annotated[list[Path] | None, typer.Option("--annotations", help="Annotations; may be repeated.")]
Train = Annotated[Path | None, typer.Option(help="Annotations of training people only.")]
Valid = Annotated[Path | None, typer.Option(help="Annotations of validation people only.")]
Jpeg = Annotated[int | None, typer.Option(min=1, max=100, help="Store crops as JPEG of this quality; else raw.")]
MaxBroken = Annotated[
    str, typer.Option(metavar="N|P%", help="So many pictures may be missing or broken; their people are left out.")
]


@app.command(
    epilog="Example: python -m nas.prepare lsp --images lsp/images --annotations lsp/joints.mat "
    "--extended-images lspet/images --extended-annotations lspet/joints.mat --out lsp.h5"
)
def lsp(
    images: Images,
    annotations: Annotated[Path, typer.Option(help="joints.mat of Leeds Sports Pose, or of its Extended set.")],
    out: Out,
    extended_images: Annotated[Path | None, typer.Option(help="Folder with the Extended set's pictures.")] = None,
    extended_annotations: Annotated[Path | None, typer.Option(help="The Extended set's joints.mat, to join.")] = None,
    box: Box = 256,
    workers: Workers = 0,
    jpeg: Jpeg = None,
    max_broken: MaxBroken = "0",
    quiet: Quiet = False,
) -> None:
    """Pack Leeds Sports Pose, its Extended set, or both.

    LSP: its 1,000 test pictures are valid. The Extended set: all are to train on when joined to LSP; alone, 10 % become
    valid. 10 % of the training pictures become holdout. Which set a file holds is told from its content.
    """
    existing_directory(images, "--images")
    joined = extended_annotations is not None
    if extended_images is not None:
        existing_directory(extended_images, "--extended-images")
        if not joined:
            raise UserError("--extended-images without --extended-annotations; give both")
    found = read_leeds(existing_file(annotations, "--annotations"))
    source = {"dataset": "lsp" if found.says_split else "lspet", **_record("annotations", annotations)}
    files = [(found, images)]
    if extended_annotations is not None:
        extended = read_leeds(existing_file(extended_annotations, "--extended-annotations"), TRAINING)
        for flag, path, given, wanted in (
            ("--annotations", annotations, found, True),
            ("--extended-annotations", extended_annotations, extended, False),
        ):
            if given.says_split != wanted:
                remedy = "give LSP's joints.mat as --annotations, the Extended set's as --extended-annotations"
                raise UserError(f"{flag} {path} is the joints.mat of {given.layout}; {remedy}")
        files.append((extended, extended_images or images))
        source = {**source, "dataset": "lsp and lspet", **_record("extended annotations", extended_annotations)}
    elif not found.says_split:
        _say(f"{found.layout} does not say who is validated: {_DIVIDED}")
    people, dropped, folder = _join(files)
    _pack(people, dropped, folder, out, LSP, box, source, workers, jpeg, max_broken)


@app.command(
    epilog="Example: python -m nas.prepare mpii --images images --annotations mpii_human_pose_v1_u12_1.mat "
    "--valid-list valid.h5 --out mpii.h5"
)
def mpii(
    images: Images,
    out: Out,
    annotations: AnnotationFiles = None,
    train: Train = None,
    valid: Valid = None,
    valid_list: Annotated[
        Path | None,
        typer.Option(help="Who is validated: a text with a picture's name a line, or annotations of these people."),
    ] = None,
    box: Box = 256,
    workers: Workers = 0,
    jpeg: Jpeg = None,
    max_broken: MaxBroken = "0",
    quiet: Quiet = False,
) -> None:
    """Pack MPII from its original .mat, the hourglass code's HDF5, HRNet's JSON or pytorch-pose's JSON.

    Files are recognised by their content. 10 % of the training pictures become holdout. Where neither a file nor a flag
    says who is validated, pictures are divided by a hash of their names: 80 % train, 10 % holdout, 10 % valid.
    """
    existing_directory(images, "--images")
    files, source = _read(read_mpii, annotations, train, valid, valid_list)
    people, dropped = merge([found.people for found in files])
    dropped = _summed([*(found.dropped for found in files), dropped])
    if valid_list is not None:
        people = _validate(people, valid_list)
    people, left = remove_split_overlap(people)
    source = {"dataset": "mpii", **source}
    _pack(people, _summed([dropped, left]), images, out, MPII, box, source, workers, jpeg, max_broken)


@app.command(epilog="Example: python -m nas.prepare flic --images images --annotations examples.mat --out flic.h5")
def flic(
    images: Images,
    out: Out,
    annotations: AnnotationFiles = None,
    train: Train = None,
    valid: Valid = None,
    box: Box = 256,
    workers: Workers = 0,
    jpeg: Jpeg = None,
    max_broken: MaxBroken = "0",
    quiet: Quiet = False,
) -> None:
    """Pack FLIC from its original examples.mat or the hourglass code's HDF5.

    10 % of the training pictures become holdout. Whether left and right are the person's or the observer's is told
    from the file, printed, and kept with the people.
    """
    existing_directory(images, "--images")
    whose: dict[Path, str] = {}

    def read(path: Path, splits: Mapping[str, float]) -> Annotations:
        found, whose[path] = read_flic(path, splits)
        return found

    files, source = _read(read, annotations, train, valid)
    kinds = {kind for kind in whose.values() if kind != EITHER} or {EITHER}
    if len(kinds) > 1:
        each = ", ".join(f"{path} is {kind}" for path, kind in whose.items())
        raise UserError(f"{each}: left and right would not mean the same; give files of one kind")
    left_and_right = kinds.pop()
    _say(f"left and right: {left_and_right}")
    people, dropped, folder = _join([(found, images) for found in files])
    source = {"dataset": "flic", "left and right": left_and_right, **source}
    _pack(people, dropped, folder, out, FLIC, box, source, workers, jpeg, max_broken)


@app.command(
    epilog="Example: python -m nas.prepare coco --images val2017 --annotations person_keypoints_val2017.json "
    "--skeleton skeleton.toml --out people.h5"
)
def coco(
    images: Images,
    skeleton: Annotated[Path, typer.Option(help="The joints, in TOML; nas/data/README.md has an example.")],
    out: Out,
    annotations: AnnotationFiles = None,
    train: Train = None,
    valid: Valid = None,
    valid_images: Annotated[
        Path | None, typer.Option(help="Folder with the pictures of --valid, if it is another.")
    ] = None,
    box: Box = 256,
    workers: Workers = 0,
    jpeg: Jpeg = None,
    max_broken: MaxBroken = "0",
    quiet: Quiet = False,
) -> None:
    """Pack anybody's people in COCO's keypoint layout, with a skeleton of one's own.

    With --train and --valid, 10 % of the training pictures become holdout; --annotations are divided by a hash of the
    pictures' names: 80 % train, 10 % holdout, 10 % valid.
    """
    existing_directory(images, "--images")
    if valid_images is not None:
        existing_directory(valid_images, "--valid-images")
    joints = read_skeleton(existing_file(skeleton, "--skeleton"))
    files, source = _read(lambda path, splits: read_coco(path, joints, splits), annotations, train, valid)
    folders = [images] * len(files)
    if valid is not None and valid_images is not None:
        folders[-1] = valid_images
    people, dropped, folder = _join(list(zip(files, folders, strict=True)))
    source = {"dataset": "coco", **source, **_record("skeleton", skeleton)}
    _pack(people, dropped, folder, out, joints, box, source, workers, jpeg, max_broken)


@app.command(epilog="Example: python -m nas.prepare synthetic --people 3000 --out synthetic.h5")
def synthetic(
    out: Out,
    people: Annotated[int, typer.Option(min=0, help="People to train on.")] = 3000,
    holdout: Annotated[int, typer.Option(min=0, help="People that search trials are scored on.")] = 400,
    valid: Annotated[int, typer.Option(min=0, help="People that retrained networks are scored on.")] = 500,
    box: Box = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other people.")] = 0,
    workers: Workers = 0,
    jpeg: Jpeg = None,
    quiet: Quiet = False,
) -> None:
    """Draw synthetic people with the 16 joints of MPII; the same flags always draw the same people."""
    counts = {"train": people, "holdout": holdout, "valid": valid}
    total = sum(counts.values())
    if not total:
        raise UserError("--people, --holdout and --valid are all 0; ask for somebody")
    _check_out(out)
    start = time.monotonic()
    with _kept(out), progress("drawing", total) as on_progress:
        resumed = pack_synthetic(
            out, counts, seed, SceneConfig(), PackOptions(box, workers or default_workers(), jpeg), on_progress
        )
    _report(out, time.monotonic() - start, resumed, {}, [])


@app.command(epilog="Example: python -m nas.prepare check people.h5 --sheet sheet.jpg")
def check(
    file: Annotated[Path, typer.Argument(help="The packed file.", metavar="PEOPLE.H5")],
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet here, a .jpg or .png.")] = None,
    people: Annotated[int, typer.Option(min=1, max=240, help="People on the sheet.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other people for the sheet.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a packed file, every byte of it, and draw some of its people.

    Exits with 1 and says what is wrong if training should not use the file. The sheet shows people as packed, and as
    training sees them: turned, scaled, shifted, recoloured, mirrored. A mirrored person's left is still their left.
    """
    if sheet is not None:
        if sheet.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            raise UserError(f"--sheet {sheet} is no name of a picture; give one that ends in .jpg or .png")
        if sheet.is_dir():
            raise UserError(f"--sheet {sheet} is a directory; give the name of a file")
        writable_directory(sheet.parent, "the folder of --sheet,")
    found = check_packed(existing_file(file, "PEOPLE.H5"))
    problems = list(found.problems)
    if sheet is not None:
        try:
            _write_sheet(file, sheet, people, seed)
        except UserError as error:
            if not problems:
                raise
            problems.append(f"no contact sheet: {error}")
            sheet = None
    _print_checked(file, found, problems, sheet, as_json)
    if problems:
        raise typer.Exit(1)


def _write_sheet(file: Path, sheet: Path, count: int, seed: int) -> None:
    people, rows, splits = PackedPeople.load_sample(file, count, seed)
    labels = [f"{row}  {split}  {name}" for row, split, name in zip(rows, splits, people.images, strict=True)]
    total = describe_packed(file).people
    title = f"{file.name}: {len(people):,} of {total:,} people, {people.skeleton.name}, box {people.box}, seed {seed}"
    content = save_jpeg_or_png(contact_sheet(people, labels, title, seed), sheet.name)
    try:
        sheet.write_bytes(content)
    except OSError as error:
        raise UserError(f"--sheet {sheet}: cannot write ({error.strerror}); choose another place") from error


def _print_checked(
    file: Path, found: ValidationReport, problems: Sequence[str], sheet: Path | None, as_json: bool
) -> None:
    packed = found.summary
    if as_json:
        record = {
            "file": str(file), "fine": not problems, "problems": list(problems), "notes": list(found.notes),
            "people": packed.people, "splits": dict(packed.counts), "skeleton": packed.skeleton.name,
            "box": packed.box, "side": crop_side(packed.box), "jpeg": packed.jpeg, "bytes": file.stat().st_size,
            "joints": packed.people * len(packed.skeleton.joints), "labelled": found.joints,
            "outside_box": found.outside_box, "outside_crop": found.outside_crop,
            "head_sizes": dict(zip(("smallest", "median", "largest"), found.head_sizes, strict=True)),
            "odd_heads": found.odd_heads, "unlabelled": found.unlabelled, "doubles": found.duplicates,
            "doubles_across": found.duplicates_across, "source": dict(packed.source), "checksum": packed.checksum,
            "sheet": str(sheet) if sheet else None,
        }  # fmt: skip
        print(json.dumps(record, ensure_ascii=False, allow_nan=False))
        return
    joints = packed.people * len(packed.skeleton.joints)
    stored = "raw" if packed.jpeg is None else f"JPEG {packed.jpeg}"
    side = crop_side(packed.box)
    low, middle, high = found.head_sizes
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in (
        ("people", f"{packed.people:,} ({', '.join(f'{split} {packed.counts[split]:,}' for split in SPLITS)})"),
        ("crops", f"{side}×{side} (box {packed.box}), {stored}, {file.stat().st_size / 2**20:,.1f} MiB"),
        ("skeleton", f"{packed.skeleton.name}, {len(packed.skeleton.joints)} joints"),
        ("joints labelled", f"{found.joints:,} of {joints:,} ({found.joints / max(joints, 1):.1%})"),
        ("outside the box", f"{found.outside_box:,} ({found.outside_box / max(found.joints, 1):.2%})"),
        ("outside the crop", f"{found.outside_crop:,} ({found.outside_crop / max(found.joints, 1):.2%})"),
        ("head size", f"{low:.1%} to {high:.1%} of the box, median {middle:.1%}"),
        ("equal crops", f"{found.duplicates:,} groups, {found.duplicates_across:,} in more than one split"),
        ("source", ", ".join(f"{key} {text}" for key, text in packed.source.items() if "sha256" not in key)),
        ("checksum", packed.checksum),
        *(("sheet", str(path)) for path in [sheet] if path),
    ):
        table.add_row(name, Text(value))
    print_tables(table)
    for note in found.notes:
        _say(f"note: {note}")
    for problem in problems:
        _say(f"wrong: {problem}")
    _say(f"{file}: {f'{len(problems)} problems' if len(problems) > 1 else '1 problem' if problems else 'fine'}")


def _read(
    read: Reader,
    annotations: list[Path] | None,
    train: Path | None,
    valid: Path | None,
    valid_list: Path | None = None,
) -> tuple[list[Annotations], dict[str, str]]:
    """What all files hold, that of --valid last, and a record of the files; says on which split it came down."""
    if not annotations and train is None and valid is None:
        raise UserError("none of --annotations, --train and --valid is given; give the annotations of at least one")
    files: list[Annotations] = []
    source: dict[str, str] = {}
    validated = valid is not None or valid_list is not None

    def add(flag: str, path: Path, splits: Mapping[str, float], number: int = 1) -> None:
        found = read(existing_file(path, flag), splits)
        files.append(found)
        _say(f"{path}: {len(found.people):,} people, {found.layout}")
        if splits is UNDIVIDED and not found.says_split:
            _say(f"{path.name} does not say who is validated: {_DIVIDED}")
        source.update(_record(flag.lstrip("-") if number == 1 else f"{flag.lstrip('-')} {number}", path))

    for number, path in enumerate(annotations or [], 1):
        add("--annotations", path, TRAINING if validated else UNDIVIDED, number)
    validated = validated or any(found.says_split for found in files)
    if train is not None:
        add("--train", train, TRAINING if validated else UNDIVIDED)
    if valid is not None:
        add("--valid", valid, VALIDATION if files or valid_list else UNDIVIDED)
    if valid_list is not None:
        source.update(_record("valid list", existing_file(valid_list, "--valid-list")))
    return files, source


def _validate(people: list[Person], valid_list: Path) -> list[Person]:
    """The same people, those on --valid-list validated and nobody else."""
    with open(valid_list, "rb") as file:
        start = file.read(4096)
    if b"\0" in start or start.lstrip()[:1] in (b"[", b"{"):
        found = read_mpii(valid_list, VALIDATION)
        people = validate_people(people, [person for person in found.people if person.split == "valid"])
    else:
        people = validate_pictures(people, read_names(valid_list))
    count = sum(person.split == "valid" for person in people)
    if not count:
        raise UserError(f"--valid-list {valid_list} has nobody of the annotations; give a list of their pictures")
    _say(f"{valid_list}: {count:,} of these people are validated")
    return people


def _join(files: Sequence[tuple[Annotations, Path]]) -> tuple[list[Person], dict[str, int], Path]:
    """The people of files whose pictures are in several folders, how many were left out, and one folder for all.

    The names of their pictures are made to begin in that folder, the deepest that holds the others.
    """
    folders = [Path(os.path.abspath(folder)) for _, folder in files]
    folder = Path(os.path.commonpath(folders)) if len(set(folders)) > 1 else files[0][1]
    people: list[Person] = []
    for (found, _), own in zip(files, folders, strict=True):
        below = PurePosixPath("" if len(set(folders)) == 1 else own.relative_to(folder).as_posix())
        people += [replace(person, image=f"{below / person.image}") for person in found.people]
    people, left = remove_split_overlap(people)
    return people, _summed([*(found.dropped for found, _ in files), left]), folder


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _record(name: str, path: Path) -> dict[str, str]:
    return {name: path.name, f"{name} sha256": _sha256(path)}


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)


def _pack(
    people: list[Person],
    dropped: dict[str, int],
    images: Path,
    out: Path,
    skeleton: Skeleton,
    box: int,
    source: Mapping[str, str],
    workers: int,
    jpeg: int | None,
    max_broken: str,
) -> None:
    options = PackOptions(box, workers or default_workers(), jpeg, max_broken)
    for person in people:
        image_path(images, person.image)  # what leads out of the folder is refused before anything is written
    _check_out(out)
    start = time.monotonic()
    with _kept(out), progress("packing", len(people)) as on_progress:
        report = pack(people, images, out, skeleton, source, options, on_progress)
    seconds = time.monotonic() - start
    if report.left_out:
        dropped = {**dropped, "image missing or broken": report.left_out}
    more = []
    if report.broken:
        few = ", ".join(f"{image} ({reason})" for image, reason in list(report.broken.items())[:3])
        rest = f" and {len(report.broken) - 3:,} more" if len(report.broken) > 3 else ""
        more.append(f"missing or broken images: {len(report.broken):,}, listed in {broken_list(out)}: {few}{rest}")
    if report.images:
        rate = f"{report.images / seconds:,.0f} images/s"
        more.append(f"{report.images:,} images read, {rate}; {report.decoding:.0%} of the work was decoding them")
    _report(out, seconds, report.resumed, dropped, more)


@contextmanager
def _kept(out: Path) -> Iterator[None]:
    """Say on Ctrl-C that the work is not lost."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(f"{out}: what is done so far is kept; the same command goes on from there", soft_wrap=True)
        raise


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"--out {out} is a directory; give the name of a file")
    writable_directory(out.parent, "the folder of --out,")


def _report(out: Path, seconds: float, resumed: int, dropped: Mapping[str, int], more: Sequence[str]) -> None:
    packed = describe_packed(out)
    size = out.stat().st_size / 2**20
    side = crop_side(packed.box)
    splits = ", ".join(f"{split} {packed.counts[split]:,}" for split in SPLITS)
    joints = packed.people * len(packed.skeleton.joints)
    stored = "raw" if packed.jpeg is None else f"JPEG {packed.jpeg}"
    now = packed.people - resumed
    lines = [
        f"{out}: {packed.people:,} people ({splits})",
        *([f"of these, {resumed:,} were packed before it was interrupted"] if resumed else []),
        f"joints labelled: {packed.labelled:,} of {joints:,} ({packed.labelled / joints:.1%})",
        *(f"left out: {count:,}, {reason}" for reason, count in dropped.items()),
        *more,
        f"crops {side}×{side} (box {packed.box}), {stored}, {size:,.1f} MiB, {seconds:.1f} s, {now / seconds:,.0f}/s",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    run(app)
