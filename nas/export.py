"""Export a trained network for other programs: ``python -m nas.export checkpoint.pt --onnx pose.onnx``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from nas.architecture.cost import network_cost
from nas.architecture.hourglass import HourglassNetwork
from nas.architecture.latency import time_runs
from nas.console import Quiet, console, existing_file, progress, run, working, writable_directory
from nas.data.augmentation import fit_to_input
from nas.data.media_io import read_image
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.skeletons import Skeleton
from nas.data.synthetic.render import render_person
from nas.errors import UserError
from nas.inference.model_card import ModelFacts, model_card, read_result
from nas.inference.onnx_export import (
    TOLERANCE,
    Difference,
    ExportableNetwork,
    Session,
    compare,
    need_onnx,
    to_onnx,
)
from nas.inference.predictor import Box, crop_box
from nas.options import command, new_app
from nas.study.analysis.baselines import Limits
from nas.study.execution.full_training import choose, trained_in_full
from nas.study.experiment import load
from nas.training.checkpoint import load_network, write_atomically
from nas.training.devices import resolve_device, use_threads
from nas.training.evaluation import predict
from nas.training.metrics import head_normalizer, score_predictions
from nas.training.schedule import ScheduleConfig

app = new_app()

BATCHES = (1, 3)
"""Pictures at a time at which ONNX and PyTorch are compared."""


@command(app)
def main(
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="To write, and FILE.md, its model card.")],
    checkpoint: Annotated[
        Path | None, typer.Argument(help="What nas.retrain wrote: a checkpoint.pt. Or choose by --study:")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Of the network, retrained; with one of the next three.")] = None,
    pick: Annotated[str | None, typer.Option(help="knee, best or tradeoff.")] = None,
    trial: Annotated[int | None, typer.Option(help="The network of this trial.")] = None,
    published: Annotated[str | None, typer.Option(help="A published network, e.g. hg2.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Pick among networks of at most so many.")] = None,
    max_madds: Annotated[str | None, typer.Option(help="Pick among networks of at most so many.")] = None,
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Pick among those that take at most so long a picture here.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="Database URL; by default the study's own SQLite.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    uint8: Annotated[
        bool, typer.Option("--uint8", help="Take uint8 (N, H, W, 3) RGB, not normalised float32.")
    ] = False,
    joints: Annotated[bool, typer.Option("--joints", help="Give joints (N, J, 3): x, y, score; not heatmaps.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its people: the card tells origin and interval.")
    ] = None,
    picture: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="To compare on too; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="CPU threads.")] = 1,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a network as an ONNX file that needs nothing else, and a model card.

    Batch norms that directly follow a convolution are folded. The file is compared with PyTorch through onnxruntime
    on noise, drawn people and yours; where they differ by 0.001 or more, nothing is written. The card says what goes
    in and comes out.

    Example: python -m nas.export --study quickstart --pick knee --onnx pose.onnx
    """
    need_onnx()
    use_threads(threads)
    limits = Limits.of(max_params, max_madds, max_latency, resolve_device("auto"))
    chosen = [("--pick", pick), ("--trial", trial), ("--published", published), (str(limits), limits or None)]
    flags = [flag for flag, value in chosen if value is not None]
    if (checkpoint is None) == (study is None):
        raise UserError("say which network: give either a CHECKPOINT, or --study and --pick, --trial or --published")
    if study is not None:
        experiment, opened = load(study, runs, storage)
        (choice,) = choose(experiment, opened, trial, pick, False, published, limits)
        checkpoint = trained_in_full(experiment, opened, choice)
    elif flags:
        raise UserError(f"{flags[0]}: goes with --study; a CHECKPOINT is taken as it is")
    assert checkpoint is not None
    card = onnx.with_name(onnx.name + ".md")
    _check_place(onnx, card, [checkpoint, *([data] if data else []), *(picture or [])])
    network, content = load_network(existing_file(checkpoint, "CHECKPOINT"))
    schedule, skeleton = ScheduleConfig.from_dict(content["schedule"]), Skeleton.from_json(content["skeleton"])
    side = network.input_size[0]
    source, score = None, None
    pixels = _pictures(picture or [], side)
    if data is not None:
        source = dict(describe_packed(existing_file(data, "--data")).source)
        score, some = _score(network, content, schedule, skeleton, data)
        pixels = np.concatenate([pixels, some])

    began = time.monotonic()
    original = ExportableNetwork(network, schedule, uint8=uint8, joints=joints).eval()
    about = {
        "skeleton": skeleton.to_json(),
        "architecture": json.dumps(network.architecture.to_dict()),
        "input": "uint8 RGB (N, H, W, 3)" if uint8 else "float32 RGB (N, 3, H, W), (value - 127.5) / 64",
        "decoder": schedule.decoder,
    }
    with working("making the file: seconds, or minutes for many hourglasses"):
        made = to_onnx(original, side, about)
    session = Session(made, threads)
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    folded = norms - session.batch_norms
    with working("comparing it with PyTorch"):
        difference = compare(session, original, pixels, BATCHES)
    _check(difference, onnx, original.output)
    seconds = time.monotonic() - began

    one = original.preprocess(pixels[:1])
    tensor = torch.from_numpy(one)
    with torch.inference_mode():
        here = {
            "onnxruntime": time_runs(lambda: session(one), "cpu", 0.5),
            "torch": time_runs(lambda: original(tensor), "cpu", 0.5),
        }
    on = f"on {'one CPU thread' if threads == 1 else f'{threads} CPU threads'} where it was exported"
    cost = network_cost(network.architecture, len(skeleton.joints), network.input_size)
    facts = ModelFacts(
        file=onnx.name,
        size=len(made),
        checkpoint=checkpoint,
        network=network,
        schedule=schedule,
        skeleton=skeleton,
        cost=cost,
        uint8=uint8,
        joints=joints,
        folded=folded,
        norms=norms,
        opset=session.opset,
        agreement=_agreement(difference, original.output),
        latency=[f"{timing} {on}, {name}" for name, timing in here.items()],
        trained_on=content.get("people") or (),
        source=source,
        score=score,
        result=read_result(checkpoint, network),
    )
    _write(onnx, made)
    _write(card, model_card(facts).encode())
    if as_json:
        record: dict[str, Any] = {
            "onnx": str(onnx),
            "card": str(card),
            "bytes": len(made),
            "opset": session.opset,
            "folded": folded,
            "batch_norms": norms,
            "difference": asdict(difference),
            "latency": {name: asdict(timing) for name, timing in here.items()},
            "seconds": seconds,
        }
        print(json.dumps(record))
        return
    for line in (
        f"{onnx}: {len(made):,} bytes, {network.architecture}, {cost.params:,} params",
        f"  {folded} of {norms} batch norms folded into convolutions",
        f"  against PyTorch: {facts.agreement}; made and compared in {seconds:.1f} s",
        f"  one picture {on}: " + ", ".join(f"{name} {timing}" for name, timing in here.items()),
        f"{card}: its model card",
    ):
        console.print(line, soft_wrap=True, markup=False)


def _check_place(onnx: Path, card: Path, kept: list[Path]) -> None:
    for file in (onnx, card):
        if file.is_dir():
            raise UserError(f"--onnx {file} is a directory; give the name of a file")
        if any(file.resolve() == path.resolve() for path in kept):
            raise UserError(f"--onnx {onnx}: {file} is one of the files to read; choose another name")
    writable_directory(onnx.parent, "the folder of --onnx,")


def _pictures(given: list[Path], side: int) -> NDArray[np.uint8]:
    """Noise, drawn people and a person's own pictures, uint8 (N, side, side, 3)."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (2, side, side, 3), np.uint8)
    drawn = [render_person(0, number, side, 1.0).crop for number in range(4)]
    real = []
    for path in given:
        whole = read_image(existing_file(path, "--picture"), upright=True)
        real.append(crop_box(whole, Box.around(0, 0, whole.shape[1], whole.shape[0]), side))
    return np.concatenate([noise, np.stack([*drawn, *real])])


def _score(
    network: HourglassNetwork, content: dict[str, Any], schedule: ScheduleConfig, skeleton: Skeleton, data: Path
) -> tuple[str | None, NDArray[np.uint8]]:
    """Accuracy on the validation people in words, None where there are none; and a few people as pictures."""
    packed, side = describe_packed(data), network.input_size[0]
    known = content.get("people")
    if not isinstance(known, list) or packed.checksum not in known:
        raise UserError(f"--data {data}: the network was not trained with these people; give the file that it was")
    if not packed.counts["valid"]:
        return None, np.zeros((0, side, side, 3), np.uint8)
    people = fit_to_input(PackedPeople.load(data, "valid"), side)
    begin = (people.crops.shape[-1] - side) // 2
    some = people.crops[:6, :, begin : begin + side, begin : begin + side].permute(0, 2, 3, 1).numpy()
    if people.box < side:
        some = some[:0]
    with progress("scoring", len(people), every=30.0) as advance:
        (said,) = predict(network, people, schedule, side, batch=64, after_batch=advance)
    normalizer = head_normalizer(people.head_size, people.labelled)
    [[right]] = score_predictions(said.positions[-1:], people.original_joints(), normalizer, skeleton, (0.5,))
    low, high = right.interval.mean
    text = f"PCKh@0.5 {right.accuracy.mean:.2f} (95 %: {low:.2f} to {high:.2f}, bootstrap over people) on the "
    return text + f"{len(people):,} validation people of {data.name}, without the mirrored copy", some


def _check(difference: Difference, onnx: Path, output: str) -> None:
    if not difference.compared:
        raise UserError(
            f"--onnx {onnx} is not written: not one joint is placed alike by PyTorch itself in single and double "
            "precision, so nothing can be compared; train the network, or export heatmaps (without --joints)"
        )
    if not difference.largest < TOLERANCE:
        raise UserError(
            f"--onnx {onnx} is not written: its {output} differ from PyTorch's by up to {difference.largest:.3g}, "
            f"allowed is {TOLERANCE:g}; try other versions of torch and onnxruntime"
        )


def _agreement(difference: Difference, output: str) -> str:
    unit = "pixels, or in scores" if output == "joints" else "map values"
    text = f"at most {difference.largest:.1e} apart, in {unit}, on {difference.pictures} pictures, 1 and 3 at a time"
    if difference.unstable:
        text += f" ({difference.compared:,} joints; {difference.unstable:,} left out that rounding alone moves)"
    return text


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"--onnx {path} cannot be written ({error.strerror}); choose another place") from error


if __name__ == "__main__":
    run(app)
