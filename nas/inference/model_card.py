"""The model card of an exported network: accuracy, origin, data, interface, example and limits, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.architecture.cost import Cost
from nas.architecture.hourglass import STRIDE, HourglassNetwork
from nas.architecture.summary import structure
from nas.data.augmentation import PIXEL_MEAN, PIXEL_SCALE
from nas.data.skeletons import Skeleton
from nas.training.schedule import ScheduleConfig

LICENCES: Mapping[str, str] = {
    "synthetic": "rendered by this project's own code; no photograph, no real person, no third-party licence",
    "mpii": "MPII Human Pose (Andriluka et al. 2014): for non-commercial research; see http://human-pose.mpi-inf.mpg.de",
    "lsp": "Leeds Sports Pose (Johnson & Everingham 2010): photographs from Flickr, for research; see its site",
    "lspet": "Leeds Sports Pose Extended (Johnson & Everingham 2011): photographs from Flickr, for research; "
    "see its site",
    "lsp and lspet": "Leeds Sports Pose and its extension (Johnson & Everingham 2010, 2011): photographs from Flickr, "
    "for research; see their sites",
    "flic": "FLIC (Sapp & Taskar 2013): film frames; see its site",
    "coco": "packed from keypoints in COCO format; the licence is that of their source",
}
"""Licences of the data, by the ``dataset`` that a packed file records."""


@dataclass(frozen=True)
class ModelFacts:
    """The content of a card.

    Attributes:
        file: name of the ONNX file.
        size: of the file, in bytes.
        checkpoint: that was exported.
        network: its architecture and input size.
        schedule: that the network was trained with.
        skeleton: its joints.
        cost: of one image.
        uint8: whether the input is uint8.
        joints: whether the output is joints instead of heatmaps.
        folded: number of batch norms folded into convolutions.
        norms: number of batch norms in the network.
        opset: of ONNX.
        agreement: between ONNX and PyTorch, as text.
        latency: prediction times, as lines of text.
        trained_on: checksum and number of the people, from the checkpoint; empty if unknown.
        source: origin of the people, from their packed file; None if unknown.
        score: accuracy with its interval, as text; None if not measured.
        result: content of nas.retrain's ``result.json``, see :func:`read_result`.
    """

    file: str
    size: int
    checkpoint: Path
    network: HourglassNetwork
    schedule: ScheduleConfig
    skeleton: Skeleton
    cost: Cost
    uint8: bool
    joints: bool
    folded: int
    norms: int
    opset: int
    agreement: str
    latency: Sequence[str]
    trained_on: Sequence[Any] = ()
    source: Mapping[str, str] | None = None
    score: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)


def read_result(checkpoint: Path, network: HourglassNetwork) -> dict[str, Any]:
    """Read the ``result.json`` that nas.retrain wrote next to a checkpoint.

    Returns:
        Its content; empty if there is none, or if it belongs to another network.
    """
    try:
        raw = json.loads(checkpoint.with_name("result.json").read_text(encoding="utf-8"))
        matches = raw["candidate"]["architecture"] == network.architecture.to_dict()
        valid = matches and isinstance(raw["result"]["pckh"], float) and isinstance(raw["record"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return raw if valid else {}


def model_card(facts: ModelFacts) -> str:
    """Format the card as Markdown."""
    side = facts.network.input_size[0]
    parts = [
        f"# {facts.file}: human pose, {len(facts.skeleton.joints)} joints ({facts.skeleton.name})",
        f"A stacked hourglass network ({facts.network.architecture}) that locates the joints of one person in a square "
        f"image of {side}×{side} pixels. Exported by hourglass-nas from `{facts.checkpoint}`.",
        _table(
            ("file", f"{facts.size:,} bytes, ONNX opset {facts.opset}"),
            ("parameters", f"{facts.cost.params:,}"),
            ("multiply-adds", f"{facts.cost.madds:,} per image of {side}×{side}"),
            ("layers", f"{facts.cost.layers:,}"),
            ("batch norms", f"{facts.norms}, of which {facts.folded} are folded into convolutions"),
            ("against PyTorch", facts.agreement),
            *(("time per image", line) for line in facts.latency),
        ),
        "## Accuracy\n\n" + _accuracy(facts),
        "## Origin\n\n" + _origin(facts),
        "## Data\n\n" + _data(facts),
        "## Architecture\n\n"
        + "\n".join(f"    {line}" for line in structure(facts.network.architecture, facts.network.joints, side)),
        "## Input and output\n\n" + _interface(facts, side),
        "## Example\n\n`person.jpg` is a square image of one person.\n\n```python\n"
        + example(facts.file, side, facts.uint8, facts.joints)
        + "```",
        "## Limits\n\nOne person per image, upright and nearly filling the square, as a person detector finds them. "
        "Occluded joints are guessed, with low scores. On images unlike the training data, accuracy is lower than "
        "stated above.",
    ]
    return "\n\n".join(parts) + "\n"


def example(file: str, side: int, uint8: bool, joints: bool) -> str:
    """Python code that runs the file on ``person.jpg`` and prints the position of every joint."""
    model_input = "image[None]"
    if not uint8:
        model_input = f"((image - {PIXEL_MEAN}) / {PIXEL_SCALE:g}).transpose(2, 0, 1)[None].astype('float32')"
    lines = [
        "import cv2, numpy, onnxruntime",
        f'image = cv2.resize(cv2.imread("person.jpg")[:, :, ::-1], ({side}, {side}), interpolation=cv2.INTER_AREA)',
        f'session = onnxruntime.InferenceSession("{file}")',
        f'[out] = session.run(None, {{"images": {model_input}}})',
    ]
    if joints:
        lines.append("print(out[0])  # a row for each joint: x, y, score")
    else:
        cells = side // STRIDE
        lines.append(f"row, column = numpy.divmod(out[0].reshape(len(out[0]), -1).argmax(1), {cells})")
        lines.append(f"print({STRIDE} * (numpy.stack([column, row], 1) + 0.5))  # a row for each joint: x, y")
    return "\n".join(lines) + "\n"


def _table(*rows: tuple[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _accuracy(facts: ModelFacts) -> str:
    lines = [f"{facts.score}."] if facts.score else []
    if facts.result:
        result = facts.result["result"]
        lines.append(
            f"After training: PCKh@0.5 {result['pckh']:.2f} on {result['people']:,} validation people, "
            f"{result['pckh_flipped']:.2f} averaged with the mirrored image, {result['pckh_by_count']:.2f} by count; "
            + ", ".join(f"{group} {value:.1f}" for group, value in result["groups"].items())
            + "."
        )
        if not facts.score:
            lines.append("(Without an interval; `python -m nas.export --data PEOPLE.h5` computes one.)")
    if not lines:
        lines.append(
            "Unknown: there is no `result.json` next to the checkpoint, and no people were given to evaluate it on."
        )
    return "\n".join(lines)


def _origin(facts: ModelFacts) -> str:
    if not facts.result:
        return "Unknown: there is no `result.json` next to the checkpoint."
    result, record = facts.result["result"], facts.result["record"]
    folder = facts.checkpoint.resolve().parent
    study = f"study `{folder.parent.parent.name}`" if folder.parent.name == "full" else "a study"
    label = str(result["label"])
    how = (
        f"{label.replace('-', ' ')} of {study}"
        if label.startswith("trial-")
        else f"published network `{label}`, {study}"
    )
    return (
        f"By architecture search: {how}; then trained on {result['images']:,} images in {result['seconds']:,.0f} s. "
        f"Commit {record.get('commit', 'unknown')}, {record.get('device', 'unknown device')}."
    )


def _data(facts: ModelFacts) -> str:
    people = f"{facts.trained_on[1]:,} people, checksum `{str(facts.trained_on[0])[:16]}`" if facts.trained_on else ""
    if facts.source is None:
        return (
            f"The checkpoint does not record the origin of its training data ({people or 'nor the number of people'}); "
            "`python -m nas.export --data PEOPLE.h5` reads it from the packed file. Its licence may restrict the use "
            "of this network."
        )
    dataset = facts.source.get("dataset", "unknown")
    details = ", ".join(f"{key} {value}" for key, value in facts.source.items() if "sha256" not in key)
    licence = LICENCES.get(dataset, "unknown to this project; ask its author")
    return f"Trained on {people}: {details}.\n\nLicence of the data: {licence}."


def _interface(facts: ModelFacts, side: int) -> str:
    if facts.uint8:
        inputs = f"`images`: uint8 (N, {side}, {side}, 3), RGB, 0 to 255; the file normalizes them."
    else:
        normalization = f"(value − {PIXEL_MEAN}) / {PIXEL_SCALE:g} of values 0 to 255"
        inputs = f"`images`: float32 (N, 3, {side}, {side}), RGB, {normalization}."
    cells, count = side // STRIDE, len(facts.skeleton.joints)
    if facts.joints:
        outputs = (
            f"`joints`: float32 (N, {count}, 3): x, y in pixels of the input, 0-based and continuous (the first "
            f"pixel's centre is (0.5, 0.5)), and a score from 0 to 1. Includes the decoder `{facts.schedule.decoder}`."
        )
    else:
        kind = (
            "probabilities over the cells of a map"
            if facts.schedule.loss == "cross_entropy"
            else "Gaussians of height 1"
        )
        outputs = (
            f"`heatmaps`: float32 (N, {count}, {cells}, {cells}): {kind}. The centre of cell (row, column) is at "
            f"x = {STRIDE} · (column + 0.5), y = {STRIDE} · (row + 0.5) pixels of the input. Trained for the "
            f"decoder `{facts.schedule.decoder}`; the position of the highest cell alone is slightly less accurate."
        )
    names = ", ".join(f"{number} {name}" for number, name in enumerate(facts.skeleton.joints))
    return f"Input: {inputs} N is arbitrary.\n\nOutput: {outputs}\n\nJoints: {names}. Left and right are the person's."
