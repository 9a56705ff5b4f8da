"""Score a trained network, or predictions made elsewhere: ``python -m nas.evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.console import console, existing_file, print_json, print_note, print_tables, progress, run, writable_file
from nas.errors import UserError
from nas.options import CodeOptions, OutputOptions, command, new_app
from nas.study.files import write_file

if TYPE_CHECKING:
    from nas.inference.scoring import ScoreReport

app = new_app()


@dataclass(frozen=True)
class NetworkOptions:
    """A network, and the people that it is scored on."""

    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint.pt written by nas.retrain.")] = None
    data: Annotated[Path | None, typer.Option(help="Packed people of nas.prepare to score it on.")] = None
    split: Annotated[str, typer.Option(help="valid, holdout or train.")] = "valid"
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="With, or without, flip averaging; else both.")
    ] = None
    metric: Annotated[str, typer.Option(help="pckh; pck, of the torso; auto: pck if it has one.")] = "pckh"
    save_predictions: Annotated[
        Path | None, typer.Option(help="Write the positions to this MATLAB file: preds (N, J, 2), 1-based pixels.")
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 64


@dataclass(frozen=True)
class PredictionOptions:
    """Predictions made elsewhere, and the ground truth that they are scored on."""

    predictions: Annotated[
        Path | None, typer.Option(help="MATLAB file of MPII predictions, (N, 16, 2) or (16, 2, N), 1-based pixels.")
    ] = None
    ground_truth: Annotated[
        Path | None, typer.Option(help="MATLAB file with pos_gt_src, jnt_missing, headboxes_src to score them on.")
    ] = None
    variable: Annotated[str | None, typer.Option(help="The array of --predictions, if there are several.")] = None


@command(app)
def main(network: NetworkOptions, others: PredictionOptions, code: CodeOptions, output: OutputOptions) -> None:
    """Print the accuracy of every hourglass, with and without flip averaging, by joint group and by joint.

    PCKh@0.5 and @0.1; with --metric pck, PCK@0.2 of the torso. Intervals are 95 %, from a bootstrap over people.
    --json prints one object: the last hourglass at the first threshold, flip-averaged unless --no-flip; its
    "scores" lists all of them with the same keys (nas/inference/README.md).

    Example: python -m nas.evaluate runs/quickstart/full/trial-48/checkpoint.pt --data people.h5

    Example: python -m nas.evaluate --predictions preds.mat --ground-truth valid_head_boxes.mat --json
    """
    inputs = {
        "CHECKPOINT": network.checkpoint,
        "--data": network.data,
        "--predictions": others.predictions,
        "--ground-truth": others.ground_truth,
    }
    given = [name for name, value in inputs.items() if value is not None]
    if given == ["CHECKPOINT", "--data"]:
        if others.variable is not None:
            raise UserError(f"--variable {others.variable} belongs to --predictions; leave it out")
        _score_network(network, output.as_json)
    elif given == ["--predictions", "--ground-truth"]:
        _refuse_network_flags(network)
        _score_predictions(others, output.as_json)
    else:
        raise UserError(
            f"give a CHECKPOINT and --data, or --predictions and --ground-truth; given: {', '.join(given) or 'neither'}"
        )


def _refuse_network_flags(network: NetworkOptions) -> None:
    """Refuse flags that would have no effect on predictions made elsewhere."""
    for flag, given in (
        ("--save-predictions", network.save_predictions is not None),
        ("--flip/--no-flip", network.flip is not None),
        (f"--metric {network.metric}", network.metric != "pckh"),
        (f"--split {network.split}", network.split != "valid"),
    ):
        if given:
            raise UserError(f"{flag} belongs to a CHECKPOINT, not to --predictions; leave it out")


def _score_network(options: NetworkOptions, as_json: bool) -> None:
    """Score a checkpoint on packed people, print the scores and save the predictions."""
    assert options.checkpoint is not None
    assert options.data is not None
    checkpoint, data = existing_file(options.checkpoint, "CHECKPOINT"), existing_file(options.data, "--data")
    if options.save_predictions is not None:
        writable_file(options.save_predictions, "--save-predictions")

    from nas.inference.score_tables import score_record
    from nas.inference.scoring import NetworkScorer
    from nas.training.devices import resolve_device, use_threads

    use_threads(options.threads)
    scorer = NetworkScorer(checkpoint, data, options.split, options.metric, resolve_device(options.device))
    for note in scorer.notes:
        print_note(note)
    flips = (False, True) if options.flip is None else (options.flip,)
    with progress("predicting", len(scorer.people), every=30.0) as advance:
        report, positions = scorer.score(flips, options.batch, advance)
    if options.save_predictions is not None:
        write_file(options.save_predictions, scorer.predictions_file(positions), "--save-predictions")
    architecture, size, decoder = scorer.network.architecture, scorer.input_size, scorer.schedule.decoder
    if as_json:
        about = {
            "network": str(architecture),
            "checkpoint": str(checkpoint),
            "data": str(data),
            "split": options.split,
            "input_size": size,
            "decoder": decoder,
        }
        print_json(score_record(report, about), allow_nan=False)
        return
    _print_line(f"{checkpoint}: {architecture}, input {size}×{size}, decoder {decoder}")
    _print_line(f"{data}: {len(scorer.people):,} {options.split} people of skeleton {scorer.skeleton.name}")
    _print_report(report)
    if options.save_predictions is not None:
        _print_line(f"predictions of {report.variants[-1].name}: {options.save_predictions}")


def _score_predictions(options: PredictionOptions, as_json: bool) -> None:
    """Score predictions made elsewhere, and print the scores."""
    assert options.predictions is not None
    assert options.ground_truth is not None
    ground_truth = existing_file(options.ground_truth, "--ground-truth")
    predictions = existing_file(options.predictions, "--predictions")

    from nas.inference.score_tables import score_record
    from nas.inference.scoring import score_mpii_predictions

    report = score_mpii_predictions(predictions, ground_truth, options.variable)
    if as_json:
        about = {
            "predictions": str(predictions),
            "ground_truth": str(ground_truth),
            "missing_people": report.missing_people,
            "missing_joints": report.missing_joints,
        }
        print_json(score_record(report, about), allow_nan=False)
        return
    _print_line(
        f"{predictions}: {report.people:,} people; without any prediction: {report.missing_people:,} people, "
        f"{report.missing_joints:,} labelled joints in all, which count as wrong"
    )
    _print_report(report)


def _print_report(report: ScoreReport) -> None:
    from nas.inference.score_tables import footnotes, score_tables

    for table in score_tables(report):
        console.print()
        print_tables(table)
    for line in footnotes(report):
        _print_line(line)


def _print_line(line: str) -> None:
    console.print(line, soft_wrap=True)


if __name__ == "__main__":
    run(app)
