"""Export a trained network for other programs: ``python -m nas.export checkpoint.pt --onnx pose.onnx``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.console import console, existing_file, parse_count, print_note, progress, run, working, writable_file
from nas.errors import UserError
from nas.options import (
    MAX_PIXELS_TEXT,
    CodeOptions,
    LocationOptions,
    MaxPixels,
    OutputOptions,
    SelectionOptions,
    command,
    new_app,
)
from nas.study.files import check_study_exists, write_file

if TYPE_CHECKING:
    from nas.inference.network_export import ExportedNetwork, TrainedNetwork

app = new_app()


@dataclass(frozen=True)
class SourceOptions:
    """The network that is exported: a checkpoint, or one of a study."""

    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint.pt written by nas.retrain. Or choose by --study:")
    ] = None
    study: Annotated[str | None, typer.Option(help="Study that retrained it; with one of the next three.")] = None


@dataclass(frozen=True)
class FileOptions:
    """The file that is written, and how it is tested."""

    onnx: Annotated[Path, typer.Option(metavar="FILE", help="To write, and FILE.md, its model card.")]
    uint8: Annotated[bool, typer.Option("--uint8", help="Take uint8 (N, H, W, 3) RGB, not normalized float32.")] = False
    joints: Annotated[bool, typer.Option("--joints", help="Give joints (N, J, 3): x, y, score; not heatmaps.")] = False
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its people: adds origin and interval to the card.")
    ] = None
    picture: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Image to compare on too; may be repeated.")
    ] = None
    max_pixels: MaxPixels = MAX_PIXELS_TEXT
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="CPU threads.")] = 1

    @property
    def card(self) -> Path:
        """The model card."""
        return self.onnx.with_name(self.onnx.name + ".md")

    def check(self, checkpoint: Path) -> None:
        """Check the files to read and to write.

        Raises:
            UserError: a file is missing, a file cannot be written, or it is one that is read.
        """
        images = self.picture or []
        for file in (self.onnx, self.card):
            writable_file(file, "--onnx")
            if any(file.resolve() == path.resolve() for path in (checkpoint, self.data, *images) if path):
                raise UserError(f"--onnx {self.onnx}: {file} is one of the files to read; choose another name")
        existing_file(checkpoint, "CHECKPOINT")
        for path in images:
            existing_file(path, "--picture")
        if self.data is not None:
            existing_file(self.data, "--data")


@command(app)
def main(
    source: SourceOptions,
    selection: SelectionOptions,
    location: LocationOptions,
    files: FileOptions,
    code: CodeOptions,
    output: OutputOptions,
) -> None:
    """Write a network as an ONNX file that needs nothing else, and a model card.

    Batch norms that directly follow a convolution are folded. The file is compared with PyTorch through onnxruntime
    on noise, rendered people and yours; where they differ by 0.001 or more, nothing is written. The card describes
    input and output.

    Example: python -m nas.export --study quickstart --pick knee --onnx pose.onnx
    """
    if (source.checkpoint is None) == (source.study is None):
        raise UserError("say which network: give either a CHECKPOINT, or --study and --pick, --trial or --published")
    if source.study is not None:
        check_study_exists(source.study, location.runs, location.storage)
    if source.checkpoint is not None:
        files.check(source.checkpoint)

    from nas.inference.network_export import (
        ExportSettings,
        TrainedNetwork,
        comparison_images,
        export_network,
        score_known_people,
        write_card,
    )
    from nas.inference.onnx_export import need_onnx
    from nas.training.devices import use_threads

    max_pixels = parse_count(files.max_pixels, "--max-pixels")
    need_onnx()
    use_threads(files.threads)
    checkpoint = _checkpoint(source, selection, location)
    files.check(checkpoint)
    trained = TrainedNetwork.load(checkpoint)
    settings = ExportSettings(files.uint8, files.joints, files.threads, working)
    images, people = comparison_images(files.picture or [], trained.side, max_pixels, print_note), None
    if files.data is not None:
        people = score_known_people(trained, files.data, lambda total: progress("scoring", total, every=30.0))
        images = [*images, *people.images]
    exported = export_network(trained, images, files.onnx, settings)
    write_file(files.onnx, exported.content, "--onnx")
    write_file(files.card, write_card(trained, exported, files.onnx, settings, people).encode(), "--onnx")
    if output.as_json:
        print(json.dumps(_record(exported, files)))
    else:
        _print(trained, exported, files)


def _checkpoint(source: SourceOptions, selection: SelectionOptions, location: LocationOptions) -> Path:
    """The checkpoint to export: the one given, or that of the network which was chosen from a study.

    Raises:
        UserError: flags choose from a study that is not given, or the network has not been retrained.
    """
    limits = selection.limits()
    if source.study is None:
        chosen = (
            ("--pick", selection.pick),
            ("--trial", selection.trial),
            ("--published", selection.published),
            (str(limits), limits or None),
        )
        flags = [flag for flag, value in chosen if value is not None]
        if flags:
            raise UserError(f"{flags[0]}: goes with --study; a CHECKPOINT is taken as it is")
        assert source.checkpoint is not None
        return source.checkpoint

    from nas.study.execution.network_selection import full_training_checkpoint, select_networks
    from nas.study.experiment import load

    experiment, study = load(source.study, location.runs, location.storage)
    (selected,) = select_networks(
        experiment, study, selection.trial, selection.pick, False, selection.published, limits
    )
    return full_training_checkpoint(experiment, study, selected)


def _record(exported: ExportedNetwork, files: FileOptions) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "onnx": str(files.onnx),
        "card": str(files.card),
        "bytes": len(exported.content),
        "opset": exported.opset,
        "folded": exported.folded,
        "batch_norms": exported.batch_norms,
        "difference": asdict(exported.difference),
        "latency": {runtime: asdict(timing) for runtime, timing in exported.latency.items()},
        "seconds": exported.seconds,
    }


def _print(trained: TrainedNetwork, exported: ExportedNetwork, files: FileOptions) -> None:
    latency = ", ".join(f"{runtime} {timing}" for runtime, timing in exported.latency.items())
    for line in (
        f"{files.onnx}: {len(exported.content):,} bytes, {trained.network.architecture}, "
        f"{exported.cost.params:,} params",
        f"  {exported.folded} of {exported.batch_norms} batch norms folded into convolutions",
        f"  against PyTorch: {exported.agreement}; exported and compared in {exported.seconds:.1f} s",
        f"  one image {exported.where}: {latency}",
        f"{files.card}: its model card",
    ):
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    run(app)
