"""Pack people and their pictures into one file that training loads: ``python -m nas.prepare``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from nas.console import (
    console,
    default_workers,
    existing_directory,
    existing_file,
    progress,
    run,
    writable_directory,
)
from nas.data.lsp import read_lspet
from nas.data.mpii import read_mpii_hourglass_h5
from nas.data.packed import crop_side, describe_packed
from nas.data.packing import missing_pictures, pack, pack_synthetic
from nas.data.people import LSP, MPII, SPLITS, Person, Skeleton
from nas.data.synthetic import Figures
from nas.errors import UserError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Pack people and their pictures into one file that training loads.",
    epilog="Example: python -m nas.prepare lsp --images lspet/images --annotations lspet/joints.mat --out lspet.h5",
)

Images = Annotated[Path, typer.Option(help="Folder with the pictures.")]
Out = Annotated[Path, typer.Option(help="The packed file; an existing one is replaced once the new one is complete.")]
Box = Annotated[int, typer.Option(min=16, max=1024, help="Side of a person's box in the packed crops, in pixels.")]
Workers = Annotated[int, typer.Option(min=0, max=256, help="Parallel workers; 0: one for each core.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out people whose picture is not there.")]


@app.command(epilog="Example: python -m nas.prepare lsp --images images --annotations joints.mat --out lspet.h5")
def lsp(
    images: Images,
    annotations: Annotated[Path, typer.Option(help="joints.mat of Leeds Sports Pose Extended.")],
    out: Out,
    box: Box = 256,
    workers: Workers = 0,
    skip_missing: SkipMissing = False,
) -> None:
    """Pack Leeds Sports Pose Extended; 10 % of the pictures become holdout, 10 % valid, by a hash of their names."""
    existing_directory(images, "--images")
    people, dropped = read_lspet(existing_file(annotations, "--annotations"))
    source = {"dataset": "lspet", "annotations": annotations.name, "annotations sha256": _sha256(annotations)}
    _pack(people, dropped, images, out, LSP, box, source, workers, skip_missing)


@app.command(
    epilog="Example: python -m nas.prepare mpii --images mpii/images --train train.h5 --valid valid.h5 --out mpii.h5"
)
def mpii(
    images: Images,
    out: Out,
    train: Annotated[Path | None, typer.Option(help="Training people, HDF5 in the hourglass layout.")] = None,
    valid: Annotated[Path | None, typer.Option(help="Validation people, the same layout.")] = None,
    box: Box = 256,
    workers: Workers = 0,
    skip_missing: SkipMissing = False,
) -> None:
    """Pack MPII from the HDF5 files of the hourglass code; 10 % of the training pictures become holdout.

    Given only one of --train and --valid, its pictures are divided: 80 % train, 10 % holdout, 10 % valid.
    """
    existing_directory(images, "--images")
    if train is None and valid is None:
        raise UserError("neither --train nor --valid is given; give the annotations of at least one")
    shares: dict[str, Mapping[str, float]] = {
        "--train": {"holdout": 0.1, "train": 0.9},
        "--valid": {"valid": 1.0},
    }
    if train is None or valid is None:
        given, other = ("--valid", "--train") if train is None else ("--train", "--valid")
        shares[given] = {"holdout": 0.1, "valid": 0.1, "train": 0.8}
        note = f"no {other}: the pictures of {given} are divided into 80 % train, 10 % holdout, 10 % valid"
        console.print(note, soft_wrap=True)
    people: list[Person] = []
    dropped: dict[str, int] = {}
    source = {"dataset": "mpii"}
    for flag, path in (("--train", train), ("--valid", valid)):
        if path is not None:
            more, left_out = read_mpii_hourglass_h5(existing_file(path, flag), shares[flag])
            people += more
            dropped = {why: dropped.get(why, 0) + left_out.get(why, 0) for why in {**dropped, **left_out}}
            source[flag.lstrip("-")] = path.name
            source[f"{flag.lstrip('-')} sha256"] = _sha256(path)
    _pack(people, dropped, images, out, MPII, box, source, workers, skip_missing)


@app.command(epilog="Example: python -m nas.prepare synthetic --people 3000 --out synthetic.h5")
def synthetic(
    out: Out,
    people: Annotated[int, typer.Option(min=0, help="People to train on.")] = 3000,
    holdout: Annotated[int, typer.Option(min=0, help="People that search trials are scored on.")] = 400,
    valid: Annotated[int, typer.Option(min=0, help="People that retrained networks are scored on.")] = 500,
    box: Box = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other people.")] = 0,
    workers: Workers = 0,
) -> None:
    """Draw synthetic people with the 16 joints of MPII; the same flags always draw the same people."""
    counts = {"train": people, "holdout": holdout, "valid": valid}
    total = sum(counts.values())
    if not total:
        raise UserError("--people, --holdout and --valid are all 0; ask for somebody")
    _check_out(out)
    start = time.monotonic()
    with progress("drawing", total) as on_progress:
        pack_synthetic(out, counts, box, seed, Figures(), workers or default_workers(), on_progress)
    _report(out, time.monotonic() - start, {})


def _pack(
    people: list[Person],
    dropped: dict[str, int],
    images: Path,
    out: Path,
    skeleton: Skeleton,
    box: int,
    source: Mapping[str, str],
    workers: int,
    skip_missing: bool,
) -> None:
    if skip_missing:
        missing = set(missing_pictures((person.image for person in people), images))
        before = len(people)
        people = [person for person in people if person.image not in missing]
        if not people:
            raise UserError(f"--images {images} has none of the {len(missing)} pictures; give their folder")
        if before > len(people):
            dropped = {**dropped, "picture missing": before - len(people)}
    _check_out(out)
    start = time.monotonic()
    with progress("packing", len(people)) as on_progress:
        pack(people, images, out, skeleton, box, source, workers or default_workers(), on_progress)
    _report(out, time.monotonic() - start, dropped)


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"--out {out} is a directory; give the name of a file")
    writable_directory(out.parent, "the folder of --out,")


def _report(out: Path, seconds: float, dropped: Mapping[str, int]) -> None:
    packed = describe_packed(out)
    size = out.stat().st_size / 2**20
    side = crop_side(packed.box)
    splits = ", ".join(f"{split} {packed.counts[split]:,}" for split in SPLITS)
    joints = packed.people * len(packed.skeleton.joints)
    lines = [
        f"{out}: {packed.people:,} people ({splits})",
        f"joints labelled: {packed.labelled:,} of {joints:,} ({packed.labelled / joints:.1%})",
        *(f"left out: {count:,}, {reason}" for reason, count in dropped.items()),
        f"crops {side}×{side} (box {packed.box}), {size:,.1f} MiB, {seconds:.1f} s, {packed.people / seconds:,.0f}/s",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    run(app)
