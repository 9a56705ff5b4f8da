"""The datasets that ``nas.prepare`` packs: one function each, from annotation files to a :class:`Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas.data.readers.coco import read_coco, read_skeleton
from nas.data.readers.dataset import (
    HASHED_SPLITS,
    AnnotationFiles,
    Dataset,
    Report,
    apply_validation_list,
    file_record,
    join_folders,
    sum_counts,
)
from nas.data.readers.flic import EITHER, read_flic
from nas.data.readers.lsp import read_leeds
from nas.data.readers.mpii import read_mpii
from nas.data.readers.splits import TRAINING, Annotations, merge, remove_split_overlap
from nas.data.skeletons import FLIC, LSP, MPII
from nas.errors import UserError


def leeds_dataset(
    images: Path, annotations: Path, extended_images: Path | None, extended_annotations: Path | None, report: Report
) -> Dataset:
    """Leeds Sports Pose, its Extended set, or both.

    Args:
        images: folder of the images.
        annotations: ``joints.mat`` of either set; which one it is shows in its content.
        extended_images: folder of the Extended set's images, if another one.
        extended_annotations: ``joints.mat`` of the Extended set, to add to LSP.
        report: takes lines about what was found.

    Raises:
        UserError: a file is wrong, or the two files are of the same set.
    """
    content = read_leeds(annotations)
    source = {"dataset": "lsp" if content.defines_validation else "lspet", **file_record("annotations", annotations)}
    contents = [(content, images)]
    if extended_annotations is not None:
        extended = read_leeds(extended_annotations, TRAINING)
        for flag, path, given, is_lsp in (
            ("--annotations", annotations, content, True),
            ("--extended-annotations", extended_annotations, extended, False),
        ):
            if given.defines_validation != is_lsp:
                remedy = "give LSP's joints.mat as --annotations, the Extended set's as --extended-annotations"
                raise UserError(f"{flag} {path} is the joints.mat of {given.format_name}; {remedy}")
        contents.append((extended, extended_images or images))
        source = {**source, "dataset": "lsp and lspet", **file_record("extended annotations", extended_annotations)}
    elif not content.defines_validation:
        report(f"{content.format_name} does not define the validation people: {HASHED_SPLITS}")
    people, dropped, folder = join_folders(contents)
    return Dataset(people, dropped, folder, LSP, source)


def mpii_dataset(images: Path, files: AnnotationFiles, report: Report) -> Dataset:
    """MPII, from files in any of its formats; a validation list among them is applied.

    Raises:
        UserError: a file is wrong.
    """
    contents, source = files.read(read_mpii, report)
    people, duplicates = merge([content.people for content in contents])
    if files.valid_list is not None:
        people = apply_validation_list(people, files.valid_list, report)
    people, overlap = remove_split_overlap(people)
    dropped = sum_counts([*(content.dropped for content in contents), duplicates, overlap])
    return Dataset(people, dropped, images, MPII, {"dataset": "mpii", **source})


def flic_dataset(images: Path, files: AnnotationFiles, report: Report) -> Dataset:
    """FLIC; whether left and right are the person's or the observer's is detected.

    Raises:
        UserError: a file is wrong, or the files differ in what left and right mean.
    """
    conventions: dict[Path, str] = {}

    def read(path: Path, splits: Mapping[str, float]) -> Annotations:
        content, conventions[path] = read_flic(path, splits)
        return content

    contents, source = files.read(read, report)
    distinct = {convention for convention in conventions.values() if convention != EITHER} or {EITHER}
    if len(distinct) > 1:
        each = ", ".join(f"{path} is {convention}" for path, convention in conventions.items())
        raise UserError(f"{each}: left and right would not mean the same; give files of one convention")
    left_and_right = distinct.pop()
    report(f"left and right: {left_and_right}")
    people, dropped, folder = join_folders([(content, images) for content in contents])
    return Dataset(people, dropped, folder, FLIC, {"dataset": "flic", "left and right": left_and_right, **source})


def coco_dataset(
    images: Path, files: AnnotationFiles, skeleton: Path, valid_images: Path | None, report: Report
) -> Dataset:
    """People annotated in COCO's keypoint format, with a skeleton of their own.

    Args:
        images: folder of the images.
        files: annotation files.
        skeleton: TOML file of the joints.
        valid_images: folder of the validation people's images, if another one.
        report: takes lines about what was found.

    Raises:
        UserError: a file is wrong.
    """
    joints = read_skeleton(skeleton)
    contents, source = files.read(lambda path, splits: read_coco(path, joints, splits), report)
    folders = [images] * len(contents)
    if files.valid is not None and valid_images is not None:
        folders[-1] = valid_images
    people, dropped, folder = join_folders(list(zip(contents, folders, strict=True)))
    source = {"dataset": "coco", **source, **file_record("skeleton", skeleton)}
    return Dataset(people, dropped, folder, joints, source)
