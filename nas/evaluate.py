"""Score a trained network, or anybody's predictions: ``python -m nas.evaluate``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from nas.console import Quiet, console, existing_file, print_tables, progress, run, stderr, writable_directory
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.readers.mpii_evaluation import predictions_mat, read_ground_truth, read_predictions
from nas.data.skeletons import MPII, Skeleton
from nas.errors import UserError
from nas.options import command, new_app
from nas.training.checkpoint import load_network, write_atomically
from nas.training.devices import resolve_device, use_threads
from nas.training.evaluation import predict
from nas.training.metrics import RESAMPLES, PCKNormalizer, Score, head_normalizer, score_predictions, torso_normalizer
from nas.training.schedule import ScheduleConfig

app = new_app()

HEADS: tuple[float, ...] = (0.5, 0.1)
"""Thresholds of PCKh, the first being the headline."""
TORSOS: tuple[float, ...] = (0.2,)
"""Thresholds of PCK."""


@command(app)
def main(
    checkpoint: Annotated[Path | None, typer.Argument(help="What nas.retrain wrote: a checkpoint.pt.")] = None,
    data: Annotated[Path | None, typer.Option(help="Packed people of nas.prepare to score it on.")] = None,
    split: Annotated[str, typer.Option(help="valid, holdout or train.")] = "valid",
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="With, or without, the flipped copy; else both.")
    ] = None,
    metric: Annotated[str, typer.Option(help="pckh, pck, or auto: pck if there is a torso.")] = "auto",
    save_predictions: Annotated[
        Path | None, typer.Option(help="Write the positions to this MATLAB file: preds (N, J, 2), 1-based pixels.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 64,
    predictions: Annotated[
        Path | None, typer.Option(help="MATLAB file of MPII predictions, (N, 16, 2) or (16, 2, N), 1-based pixels.")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="MATLAB file with pos_gt_src, jnt_missing, headboxes_src to score them on.")
    ] = None,
    variable: Annotated[str | None, typer.Option(help="The array of --predictions, if there are several.")] = None,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the accuracy of every hourglass, with and without flip averaging, by joint group and by joint.

    PCKh@0.5 and @0.1; PCK@0.2 for skeletons with a torso. Intervals are 95 %, from a bootstrap over people.
    --json prints one object: the last hourglass at the first threshold, flip-averaged unless --no-flip; its
    "scores" lists all of them with the same keys (nas/inference/README.md).

    Example: python -m nas.evaluate runs/quickstart/full/trial-48/checkpoint.pt --data people.h5

    Example: python -m nas.evaluate --predictions preds.mat --ground-truth valid_head_boxes.mat --json
    """
    of_network = {"CHECKPOINT": checkpoint, "--data": data}
    of_predictions = {"--predictions": predictions, "--ground-truth": ground_truth}
    given = [name for name, value in {**of_network, **of_predictions}.items() if value is not None]
    use_threads(threads)
    if checkpoint is not None and data is not None and len(given) == 2:
        if variable is not None:
            raise UserError(f"--variable {variable} belongs to --predictions; leave it out")
        network_scores(checkpoint, data, split, flip, metric, save_predictions, device, batch, as_json)
    elif predictions is not None and ground_truth is not None and len(given) == 2:
        # Flags of the other use are refused, not ignored.
        for flag, useless in (
            ("--save-predictions", save_predictions is not None),
            ("--flip/--no-flip", flip is not None),
            (f"--metric {metric}", metric != "auto"),
            (f"--split {split}", split != "valid"),
        ):
            if useless:
                raise UserError(f"{flag} belongs to a CHECKPOINT, not to --predictions; leave it out")
        prediction_scores(predictions, ground_truth, variable, as_json)
    else:
        raise UserError(
            f"give a CHECKPOINT and --data, or --predictions and --ground-truth; given: {', '.join(given) or 'neither'}"
        )


def network_scores(
    checkpoint: Path,
    data: Path,
    split: str,
    flip: bool | None,
    metric: str,
    save_predictions: Path | None,
    device: str,
    batch: int,
    as_json: bool,
) -> None:
    """Score a network's checkpoint on packed people, and print it; arguments as the command's.

    Raises:
        UserError: a file or flag is wrong, or the people are not such that the network knows.
    """
    place = resolve_device(device)
    if save_predictions is not None:
        if save_predictions.is_dir():
            raise UserError(f"--save-predictions {save_predictions} is a directory; give the name of a file")
        writable_directory(save_predictions.parent, "the folder of --save-predictions,")
    network, content = load_network(existing_file(checkpoint, "CHECKPOINT"), place)
    schedule, size = ScheduleConfig.from_dict(content["schedule"]), network.input_size[0]
    packed = describe_packed(existing_file(data, "--data"))
    _check_joints(checkpoint, Skeleton.from_json(content["skeleton"]), data, packed.skeleton)
    skeleton = packed.skeleton
    torso = _torso(skeleton, metric, data)
    people = fit_to_input(PackedPeople.load(data, split, place), size)
    if people.box < size:
        _note(f"{data} was packed at {people.box} pixels; enlarged to the network's {size}")
    known = content.get("people")  # checksum and number
    if split != "valid" and isinstance(known, list) and people.checksum in known:
        _note(f"the network was trained with this file; it may know its {split} people")

    flips = (False, True) if flip is None else (flip,)
    with progress("predicting", len(people), every=30.0) as advance:
        said = predict(network, people, schedule, size, flips=flips, batch=batch, after_batch=advance)
    truth = people.original_joints()
    if torso is None:
        normalizer, thresholds = head_normalizer(people.head_size, people.labelled), HEADS
    else:
        normalizer, thresholds = torso_normalizer(truth, people.labelled, torso), TORSOS
    stages = len(said[0].positions)
    rows = [(stage + 1, flipped) for flipped in flips for stage in range(stages)]
    positions = [answer.positions[stage] for answer in said for stage in range(stages)]
    scored = score_predictions(positions, truth, normalizer, skeleton, thresholds)
    names = [f"hourglass {stage} of {stages}" + (", flipped copy" if flipped else "") for stage, flipped in rows]

    if save_predictions is not None:
        try:
            file = predictions_mat(positions[-1].cpu().numpy(), people.images, skeleton.joints)
            write_atomically(save_predictions, file)
        except OSError as error:
            raise UserError(
                f"--save-predictions {save_predictions} cannot be written ({error.strerror}); choose another place"
            ) from error
    if as_json:
        about = {
            "network": str(network.architecture),
            "checkpoint": str(checkpoint),
            "data": str(data),
            "split": split,
            "input_size": size,
            "decoder": schedule.decoder,
        }
        places = [{"name": n, "stage": stage, "flip": f} for n, (stage, f) in zip(names, rows, strict=True)]
        _print_json(scored, places, about)
        return
    console.print(
        f"{checkpoint}: {network.architecture}, input {size}×{size}, decoder {schedule.decoder}\n"
        f"{data}: {len(people):,} {split} people of skeleton {skeleton.name}",
        soft_wrap=True,
        markup=False,
    )
    _print_scores(scored, names, normalizer, skeleton)
    if save_predictions is not None:
        console.print(f"predictions of {names[-1]}: {save_predictions}", soft_wrap=True, markup=False)


def prediction_scores(predictions: Path, ground_truth: Path, variable: str | None, as_json: bool) -> None:
    """Score anybody's predictions of MPII people on a ground truth in the official layout, and print it.

    Args:
        predictions: MATLAB file.
        ground_truth: MATLAB file, the same people in the same order.
        variable: the predictions' array, or None to find it.
        as_json: print JSON.

    Raises:
        UserError: a file is wrong, or they are not about equally many people.
    """
    official = read_ground_truth(existing_file(ground_truth, "--ground-truth"))
    positions = torch.from_numpy(read_predictions(existing_file(predictions, "--predictions"), variable))
    truth, labelled = torch.from_numpy(official.joints), torch.from_numpy(official.labelled)
    if len(positions) != len(truth):
        raise UserError(
            f"--predictions {predictions} has {len(positions):,} people, --ground-truth {ground_truth} "
            f"{len(truth):,}; predict everybody, in the ground truth's order (nan where there is no answer)"
        )
    normalizer = head_normalizer(torch.from_numpy(official.head_size), labelled)
    scored = score_predictions([positions], truth, normalizer, MPII, HEADS)
    unknown = ~torch.isfinite(positions).all(dim=-1)
    missing = {
        "missing_people": int(unknown.all(dim=1).sum()),
        "missing_joints": int((unknown & labelled).sum()),
    }
    if as_json:
        about = {"predictions": str(predictions), "ground_truth": str(ground_truth), **missing}
        _print_json(scored, [{"name": predictions.name, "stage": None, "flip": None}], about)
        return
    console.print(
        f"{predictions}: {len(positions):,} people; without any prediction: {missing['missing_people']:,} people, "
        f"{missing['missing_joints']:,} labelled joints in all, which count as not found",
        soft_wrap=True,
        markup=False,
    )
    _print_scores(scored, [predictions.name], normalizer, MPII)


def _check_joints(checkpoint: Path, known: Skeleton, data: Path, given: Skeleton) -> None:
    if len(known.joints) != len(given.joints):
        raise UserError(
            f"--data {data} has {len(given.joints)} joints ({given.name}), but {checkpoint} was trained on "
            f"{len(known.joints)} ({known.name}); give people of its own skeleton"
        )
    for mine, theirs in zip(known.joints, given.joints, strict=True):
        if mine != theirs:
            raise UserError(
                f"--data {data} ({given.name}) has {theirs!r} where {checkpoint} ({known.name}) has {mine!r}; give "
                "people of its own skeleton"
            )


def _torso(skeleton: Skeleton, metric: str, data: Path) -> tuple[int, int] | None:
    """The joints that PCK measures by; None for PCKh."""
    if metric not in ("auto", "pckh", "pck"):
        raise UserError(f"--metric {metric}: must be auto, pckh or pck")
    if metric == "pck" and skeleton.torso is None:
        raise UserError(f"--metric pck: skeleton {skeleton.name} of --data {data} has no torso; use --metric pckh")
    return None if metric == "pckh" else skeleton.torso


def _print_scores(
    scored: Sequence[Sequence[Score]], names: Sequence[str], normalizer: PCKNormalizer, skeleton: Skeleton
) -> None:
    for row in scored:
        first = row[0].accuracy
        title = f"{first.metric}@{first.threshold:g}, {first.people:,} people"
        table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
        table.add_column("")
        for column in (*first.groups, "mean of joints", "95 %", "by count", "95 %"):
            table.add_column(column, justify="right")
        for name, one in zip(names, row, strict=True):
            right, sure = one.accuracy, one.interval
            groups = [_percent(value, 1) for value in right.groups.values()]
            means = (_percent(right.mean), _range(sure.mean), _percent(right.by_count), _range(sure.by_count))
            table.add_row(name, *groups, *means)
        console.print()
        print_tables(table)
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"joints, {names[-1]}", title_justify="left")
    table.add_column("joint")
    last = [row[-1].accuracy for row in scored]
    for column in ("labelled", *(f"{one.metric}@{one.threshold:g}" for one in last)):
        table.add_column(column, justify="right")
    for j, count in enumerate(normalizer.labelled.sum(dim=0).tolist()):
        name = skeleton.joints[j] + ("" if j in skeleton.scored else " (in no mean)")
        table.add_row(name, f"{count:,}", *(_percent(one.joints[skeleton.joints[j]]) for one in last))
    console.print()
    print_tables(table)
    console.print(f"95 %: bootstrap over people, {RESAMPLES:,} draws", soft_wrap=True)
    if normalizer.left_out:
        console.print(f"left out: {normalizer.left_out:,} people whose torso is not labelled", soft_wrap=True)


def _note(text: str) -> None:
    stderr.print(f"note: {text}", soft_wrap=True, markup=False)


def _percent(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _range(ends: tuple[float, float]) -> str:
    return "–" if math.isnan(ends[0]) else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _print_json(scored: Sequence[Sequence[Score]], places: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    records = [{**place, **_record(one)} for row in scored for place, one in zip(places, row, strict=True)]
    print(json.dumps({**records[len(places) - 1], **about, "scores": records}, ensure_ascii=False, allow_nan=False))


def _record(score: Score) -> dict[str, Any]:
    right, sure = score.accuracy, score.interval

    def plain(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "metric": right.metric,
        "threshold": right.threshold,
        "mean": plain(right.mean),
        "interval": [plain(end) for end in sure.mean],
        "by_count": plain(right.by_count),
        "by_count_interval": [plain(end) for end in sure.by_count],
        "groups": {name: plain(value) for name, value in right.groups.items()},
        "joints": {name: plain(value) for name, value in right.joints.items()},
        "people": right.people,
        "left_out": right.left_out,
    }


if __name__ == "__main__":
    run(app)
