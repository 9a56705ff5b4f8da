"""The export of a trained network: an ONNX file, compared with PyTorch, timed and described by a model card."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nas.architecture.cost import Cost, network_cost
from nas.architecture.hourglass import HourglassNetwork
from nas.architecture.latency import Timing, time_runs
from nas.data.augmentation import fit_to_input
from nas.data.image_header import MAX_PIXELS
from nas.data.media_io import read_image
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.skeletons import Skeleton
from nas.data.synthetic.render import render_person
from nas.errors import UserError
from nas.inference.model_card import ModelFacts, model_card, read_result
from nas.inference.onnx_export import TOLERANCE, Difference, ExportableNetwork, Session, compare, to_onnx
from nas.inference.predictor import Box, crop_box
from nas.training.checkpoint import load_network
from nas.training.evaluation import predict
from nas.training.metrics import head_normalizer, score_predictions
from nas.training.schedule import ScheduleConfig

BATCH_SIZES = (1, 3)
"""Batch sizes at which ONNX and PyTorch are compared."""

NOISE, RENDERED, PEOPLE = 2, 4, 6
"""Numbers of noise images, rendered people and validation people among the images that are compared."""

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class TrainedNetwork:
    """A checkpoint, loaded.

    Attributes:
        path: of the checkpoint.
        network: in evaluation mode, with the averaged weights.
        schedule: that it was trained under.
        skeleton: its joints.
        people: checksum and number of the people that it was trained on; empty if unknown.
    """

    path: Path
    network: HourglassNetwork
    schedule: ScheduleConfig
    skeleton: Skeleton
    people: Sequence[Any]

    @classmethod
    def load(cls, path: Path) -> TrainedNetwork:
        """Load a checkpoint. Raises UserError where it is none."""
        network, content = load_network(path)
        schedule, skeleton = ScheduleConfig.from_dict(content["schedule"]), Skeleton.from_json(content["skeleton"])
        return cls(path, network, schedule, skeleton, content.get("people") or ())

    @property
    def side(self) -> int:
        """H = W of the input."""
        return self.network.input_size[0]


@dataclass(frozen=True)
class ExportSettings:
    """The interface of the exported file, and how it is tested.

    Attributes:
        uint8: take uint8 (N, H, W, 3) RGB, not normalized float32.
        joints: give joints (N, J, 3), not heatmaps.
        threads: CPU threads of onnxruntime.
        status: given a text, a context that shows it while work goes on.
    """

    uint8: bool
    joints: bool
    threads: int = 1
    status: Callable[[str], AbstractContextManager[None]] = lambda text: nullcontext()


@dataclass(frozen=True)
class KnownPeople:
    """What packed people that a network was trained with say about it.

    Attributes:
        source: their origin.
        score: accuracy on the validation people, as text; None where there are none.
        images: a few of those people, uint8 (N, side, side, 3).
    """

    source: Mapping[str, str]
    score: str | None
    images: Images


@dataclass(frozen=True)
class ExportedNetwork:
    """An ONNX file that agrees with PyTorch.

    Attributes:
        content: of the file.
        opset: version of the ONNX operators.
        folded: number of batch norms folded into convolutions.
        batch_norms: number of batch norms in the network.
        difference: from PyTorch.
        agreement: the same in words.
        seconds: that export and comparison took.
        latency: of one image, by runtime.
        where: the latency was measured, in words.
        cost: of the network.
    """

    content: bytes
    opset: int
    folded: int
    batch_norms: int
    difference: Difference
    agreement: str
    seconds: float
    latency: Mapping[str, Timing]
    where: str
    cost: Cost


def comparison_images(
    paths: Sequence[Path], side: int, max_pixels: int = MAX_PIXELS, notes: Callable[[str], None] = lambda text: None
) -> list[Images]:
    """Noise, rendered people and images from files, uint8 (side, side, 3) each; see :func:`read_image`.

    Raises:
        UserError: a file is not an image.
    """
    images = list(np.random.default_rng(0).integers(0, 256, (NOISE, side, side, 3), np.uint8))
    images += [render_person(0, number, side, 1.0).crop for number in range(RENDERED)]
    for path in paths:
        image = read_image(path, upright=True, max_pixels=max_pixels, notes=notes)
        images.append(crop_box(image, Box.around(0, 0, image.shape[1], image.shape[0]), side))
    return images


def score_known_people(
    trained: TrainedNetwork, data: Path, progress: Callable[[int], AbstractContextManager[Callable[[int], None]]]
) -> KnownPeople:
    """Score a network on the validation people of the file that it was trained with.

    Args:
        trained: the network.
        data: packed people.
        progress: given their number, a context with a function that takes the number done.

    Raises:
        UserError: the network was trained with other people.
    """
    packed, side = describe_packed(data), trained.side
    if packed.checksum not in trained.people:
        raise UserError(f"--data {data}: the network was not trained with these people; give the file that it was")
    if not packed.counts["valid"]:
        return KnownPeople(dict(packed.source), None, np.zeros((0, side, side, 3), np.uint8))
    people = fit_to_input(PackedPeople.load(data, "valid"), side)
    with progress(len(people)) as advance:
        (prediction,) = predict(trained.network, people, trained.schedule, side, batch=64, after_batch=advance)
    normalizer = head_normalizer(people.head_size, people.labelled)
    [[score]] = score_predictions(
        prediction.positions[-1:], people.original_joints(), normalizer, trained.skeleton, (0.5,)
    )
    low, high = score.interval.mean
    text = (
        f"PCKh@0.5 {score.accuracy.mean:.2f} (95 %: {low:.2f} to {high:.2f}, bootstrap over people) on the "
        f"{len(people):,} validation people of {data.name}, without the mirrored copy"
    )
    count = PEOPLE if people.box >= side else 0  # enlarged crops have no margin to cut from
    begin = (people.crops.shape[-1] - side) // 2
    images = people.crops[:count, :, begin : begin + side, begin : begin + side].permute(0, 2, 3, 1).numpy()
    return KnownPeople(dict(packed.source), text, images)


def export_network(
    trained: TrainedNetwork, images: Sequence[Images], file: Path, settings: ExportSettings
) -> ExportedNetwork:
    """Make an ONNX file, compare it with PyTorch, and time both.

    Args:
        trained: the network.
        images: uint8 (side, side, 3) each, on which the two are compared.
        file: where it will be written; named in errors.
        settings: of the file.

    Raises:
        UserError: the file does not agree with PyTorch.
    """
    start = time.monotonic()
    pixels = np.stack(images)
    network, skeleton = trained.network, trained.skeleton
    module = ExportableNetwork(network, trained.schedule, uint8=settings.uint8, joints=settings.joints).eval()
    metadata = {
        "skeleton": skeleton.to_json(),
        "architecture": json.dumps(network.architecture.to_dict()),
        "input": "uint8 RGB (N, H, W, 3)" if settings.uint8 else "float32 RGB (N, 3, H, W), (value - 127.5) / 64",
        "decoder": trained.schedule.decoder,
    }
    with settings.status("exporting: seconds, or minutes for many hourglasses"):
        content = to_onnx(module, trained.side, metadata)
    session = Session(content, settings.threads)
    with settings.status("comparing with PyTorch"):
        difference = compare(session, module, pixels, BATCH_SIZES)
    _check_difference(difference, file, module.output)
    seconds = time.monotonic() - start
    batch_norms = sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())
    threads = "one CPU thread" if settings.threads == 1 else f"{settings.threads} CPU threads"
    return ExportedNetwork(
        content=content,
        opset=session.opset,
        folded=batch_norms - session.batch_norms,
        batch_norms=batch_norms,
        difference=difference,
        agreement=_agreement(difference, module.output),
        seconds=seconds,
        latency=_latency(session, module, pixels[:1]),
        where=f"on {threads} where it was exported",
        cost=network_cost(network.architecture, len(skeleton.joints), network.input_size),
    )


def write_card(
    trained: TrainedNetwork, exported: ExportedNetwork, file: Path, settings: ExportSettings, people: KnownPeople | None
) -> str:
    """The model card of an exported network, in Markdown."""
    facts = ModelFacts(
        file=file.name,
        size=len(exported.content),
        checkpoint=trained.path,
        network=trained.network,
        schedule=trained.schedule,
        skeleton=trained.skeleton,
        cost=exported.cost,
        uint8=settings.uint8,
        joints=settings.joints,
        folded=exported.folded,
        norms=exported.batch_norms,
        opset=exported.opset,
        agreement=exported.agreement,
        latency=[f"{timing} {exported.where}, {runtime}" for runtime, timing in exported.latency.items()],
        trained_on=trained.people,
        source=people.source if people else None,
        score=people.score if people else None,
        result=read_result(trained.path, trained.network),
    )
    return model_card(facts)


def _latency(session: Session, module: ExportableNetwork, image: Images) -> dict[str, Timing]:
    """The latency of one image, by runtime."""
    array = module.preprocess(image)
    tensor = torch.from_numpy(array)
    with torch.inference_mode():
        return {
            "onnxruntime": time_runs(lambda: session(array), "cpu", 0.5),
            "torch": time_runs(lambda: module(tensor), "cpu", 0.5),
        }


def _check_difference(difference: Difference, file: Path, output: str) -> None:
    if not difference.compared:
        raise UserError(
            f"--onnx {file} is not written: PyTorch itself places no joint alike in single and double precision, so "
            "nothing can be compared; train the network, or export heatmaps (without --joints)"
        )
    if not difference.largest < TOLERANCE:
        raise UserError(
            f"--onnx {file} is not written: its {output} differ from PyTorch's by up to {difference.largest:.3g}, "
            f"allowed is {TOLERANCE:g}; try other versions of torch and onnxruntime"
        )


def _agreement(difference: Difference, output: str) -> str:
    unit = "pixels, or in scores" if output == "joints" else "map values"
    text = f"at most {difference.largest:.1e} apart, in {unit}, on {difference.pictures} images, in batches of 1 and 3"
    if difference.unstable:
        text += f" ({difference.compared:,} joints; {difference.unstable:,} excluded: rounding alone moves them)"
    return text
