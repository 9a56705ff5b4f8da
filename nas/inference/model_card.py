"""A model card: what a person must know who gets an exported network and nothing else."""

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
    "synthetic": "drawn by this project's own code; no photograph, no real person, no licence of others",
    "mpii": "MPII Human Pose (Andriluka et al. 2014): for non-commercial research; see http://human-pose.mpi-inf.mpg.de",
    "lsp": "Leeds Sports Pose (Johnson & Everingham 2010): photographs of Flickr, for research; see there",
    "lspet": "Leeds Sports Pose Extended (Johnson & Everingham 2011): photographs of Flickr, for research; see there",
    "lsp and lspet": "Leeds Sports Pose and its extension (Johnson & Everingham 2010, 2011): photographs of Flickr, "
    "for research; see their sites",
    "flic": "FLIC (Sapp & Taskar 2013): frames of films; see its site",
    "coco": "packed from keypoints in COCO's layout; the licence is that of whoever made them",
}
"""What is known of the data's licences, by the ``dataset`` that a packed file records."""


@dataclass(frozen=True)
class ModelFacts:
    """All that a card says.

    Attributes:
        file: name of the ONNX file.
        size: bytes of it.
        checkpoint: path of the weights that were exported.
        network: with its architecture and input size.
        schedule: it was trained with.
        skeleton: its joints.
        cost: of one picture.
        uint8: whether pixels go in as they are.
        joints: whether joints come out, not maps.
        folded: batch norms folded into convolutions.
        norms: batch norms there were.
        opset: of ONNX.
        agreement: how near ONNX and PyTorch are, in words.
        latency: prediction times, a line for each.
        trained_on: people's checksum and number from the checkpoint; empty if unknown.
        source: what the packed people's file records of their origin; None if unknown.
        score: accuracy with its interval, measured for this card; None if it was not.
        result: what nas.retrain wrote beside the checkpoint, if it did and it is of this network.
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
    """The ``result.json`` of nas.retrain beside a checkpoint; empty if there is none, or of another network."""
    try:
        raw = json.loads(checkpoint.with_name("result.json").read_text(encoding="utf-8"))
        same = raw["candidate"]["architecture"] == network.architecture.to_dict()
        known = same and isinstance(raw["result"]["pckh"], float) and isinstance(raw["record"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return raw if known else {}


def model_card(facts: ModelFacts) -> str:
    """The card, in Markdown."""
    side = facts.network.input_size[0]
    parts = [
        f"# {facts.file}: human pose, {len(facts.skeleton.joints)} joints ({facts.skeleton.name})",
        f"A stacked hourglass network ({facts.network.architecture}) that finds the joints of one person in a square "
        f"picture of {side}×{side} pixels. Exported by hourglass-nas from `{facts.checkpoint}`.",
        _table(
            ("file", f"{facts.size:,} bytes, ONNX opset {facts.opset}"),
            ("parameters", f"{facts.cost.params:,}"),
            ("multiply-adds", f"{facts.cost.madds:,} a picture of {side}×{side}"),
            ("layers", f"{facts.cost.layers:,}"),
            ("batch norms", f"{facts.norms}, of which {facts.folded} are folded into convolutions"),
            ("against PyTorch", facts.agreement),
            *(("time of one picture", line) for line in facts.latency),
        ),
        "## Accuracy\n\n" + _accuracy(facts),
        "## How it was found\n\n" + _origin(facts),
        "## Data\n\n" + _data(facts),
        "## Architecture\n\n"
        + "\n".join(f"    {line}" for line in structure(facts.network.architecture, facts.network.joints, side)),
        "## Input and output\n\n" + _interface(facts, side),
        "## Example\n\n`person.jpg` is a square around the person.\n\n```python\n"
        + example(facts.file, side, facts.uint8, facts.joints)
        + "```",
        "## Limits\n\nOne person at a time, upright, nearly filling the square; who that is must be known beforehand. "
        "Joints that cannot be seen are guessed, with low scores. Pictures unlike its training data are read worse "
        "than the accuracy above says.",
    ]
    return "\n\n".join(parts) + "\n"


def example(file: str, side: int, uint8: bool, joints: bool) -> str:
    """Python that runs the file on ``person.jpg`` and prints a position for each joint."""
    given = "picture[None]"
    if not uint8:
        given = f"((picture - {PIXEL_MEAN}) / {PIXEL_SCALE:g}).transpose(2, 0, 1)[None].astype('float32')"
    lines = [
        "import cv2, numpy, onnxruntime",
        f'picture = cv2.resize(cv2.imread("person.jpg")[:, :, ::-1], ({side}, {side}), interpolation=cv2.INTER_AREA)',
        f'session = onnxruntime.InferenceSession("{file}")',
        f'[out] = session.run(None, {{"images": {given}}})',
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
            f"{result['pckh_flipped']:.2f} averaged with the mirrored copy, {result['pckh_by_count']:.2f} by count; "
            + ", ".join(f"{group} {value:.1f}" for group, value in result["groups"].items())
            + "."
        )
        if not facts.score:
            lines.append("(Its interval was not computed; `python -m nas.export --data PEOPLE.h5` does.)")
    if not lines:
        lines.append("Not known: no `result.json` lay beside the checkpoint, and no people were given to score it on.")
    return "\n".join(lines)


def _origin(facts: ModelFacts) -> str:
    if not facts.result:
        return "Not known: no `result.json` lay beside the checkpoint."
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
        f"By architecture search: {how}; then trained on {result['images']:,} pictures in {result['seconds']:,.0f} s. "
        f"Commit {record.get('commit', 'unknown')}, {record.get('device', 'unknown device')}."
    )


def _data(facts: ModelFacts) -> str:
    known = f"{facts.trained_on[1]:,} people, checksum `{str(facts.trained_on[0])[:16]}`" if facts.trained_on else ""
    if facts.source is None:
        return (
            f"The checkpoint does not say where its people come from ({known or 'nor how many they were'}); "
            "`python -m nas.export --data PEOPLE.h5` looks it up in the packed file. Their licence may restrict the "
            "use of this network."
        )
    dataset = facts.source.get("dataset", "unknown")
    told = ", ".join(f"{key} {value}" for key, value in facts.source.items() if "sha256" not in key)
    licence = LICENCES.get(dataset, "not known to this project; ask whoever packed it")
    return f"Trained on {known}: {told}.\n\nLicence of the data: {licence}."


def _interface(facts: ModelFacts, side: int) -> str:
    if facts.uint8:
        given = f"`images`: uint8 (N, {side}, {side}, 3), RGB, 0 to 255; normalised inside."
    else:
        normalised = f"(value − {PIXEL_MEAN}) / {PIXEL_SCALE:g} of values 0 to 255"
        given = f"`images`: float32 (N, 3, {side}, {side}), RGB, {normalised}."
    cells, count = side // STRIDE, len(facts.skeleton.joints)
    if facts.joints:
        taken = (
            f"`joints`: float32 (N, {count}, 3): x, y in pixels of the input, 0-based and continuous (the first "
            f"pixel's centre is (0.5, 0.5)), and a score from 0 to 1. Decoder `{facts.schedule.decoder}`, inside."
        )
    else:
        kind = "probabilities over a map's cells" if facts.schedule.loss == "cross_entropy" else "Gaussians of height 1"
        taken = (
            f"`heatmaps`: float32 (N, {count}, {cells}, {cells}): {kind}. The centre of cell (row, column) is at "
            f"x = {STRIDE} · (column + 0.5), y = {STRIDE} · (row + 0.5) pixels of the input. Trained to be read with "
            f"the decoder `{facts.schedule.decoder}`; the highest cell alone is a little less accurate."
        )
    names = ", ".join(f"{number} {name}" for number, name in enumerate(facts.skeleton.joints))
    return f"In: {given} N may be any number.\n\nOut: {taken}\n\nJoints: {names}. Left and right are the person's own."
