"""A trained network as an ONNX file that stands for itself: made, compared with PyTorch, and only then written."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.architecture.hourglass import STRIDE
from nas.data.augmentation import PIXEL_MEAN, PIXEL_SCALE
from nas.errors import UserError
from nas.inference.predictor import target_peak
from nas.training.heatmaps import decode
from nas.training.losses import as_maps
from nas.training.schedule import ScheduleConfig

INPUT = "images"
TOLERANCE = 1e-3
"""Largest difference between ONNX and PyTorch, in map values, pixels and scores."""

_STABLE = 1e-4  # a joint that PyTorch itself places this much differently in single and double precision is no measure
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class ExportableNetwork(nn.Module):
    """What the ONNX file computes.

    Attributes:
        output: name of what comes out: "joints", (N, J, 3) x, y in pixels of the input and a score from 0 to 1; or
            "heatmaps", (N, J, H/4, W/4) maps of the last hourglass, probabilities where it was trained as logits.

    Args:
        network: to export, in evaluation mode.
        schedule: says how its maps are read.
        uint8: whether uint8 (N, H, W, 3) pictures go in, RGB; else float32 (N, 3, H, W), normalised.
        joints: whether joints come out.
    """

    def __init__(self, network: nn.Module, schedule: ScheduleConfig, *, uint8: bool, joints: bool) -> None:
        super().__init__()
        self.network, self.output = network, "joints" if joints else "heatmaps"
        self._schedule, self._uint8, self._peak = schedule, uint8, target_peak(schedule)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures → joints or heatmaps."""
        if self._uint8:
            images = images.permute(0, 3, 1, 2).to(next(self.network.parameters()).dtype)
            images = (images - PIXEL_MEAN) / PIXEL_SCALE
        maps = as_maps(self.network(images).heatmaps[-1], self._schedule.loss)
        if self.output == "heatmaps":
            return maps
        cells, peak = decode(maps, self._schedule.decoder)
        return torch.cat([cells * STRIDE, (peak / self._peak).clamp(0, 1).unsqueeze(-1)], dim=-1)

    def pictures(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """uint8 (N, H, W, 3) RGB pictures as this takes them."""
        if self._uint8:
            return pixels
        return np.ascontiguousarray(((pixels.astype(np.float32) - PIXEL_MEAN) / PIXEL_SCALE).transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Difference:
    """How far ONNX is from PyTorch.

    Attributes:
        largest: absolute difference in map values, or in pixels and scores.
        compared: maps or joints.
        unstable: joints left out: PyTorch itself places them differently in single and double precision (flat maps).
        pictures: on which they were compared.
    """

    largest: float
    compared: int
    unstable: int
    pictures: int


def need_onnx() -> None:
    """Raise a UserError where the packages of the extra ``export`` are missing."""
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{name} is not installed; give: pip install -e '.[export]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to developers of exporters from a person's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_onnx(module: ExportableNetwork, side: int, about: Mapping[str, str]) -> bytes:
    """The content of an ONNX file that computes what a module computes, for any number of pictures.

    Args:
        module: on the CPU, in evaluation mode.
        side: H = W of the pictures.
        about: goes into the file's metadata.

    Raises:
        UserError: the packages are missing, or an operation has no ONNX form.
    """
    need_onnx()
    import onnx

    example = torch.from_numpy(module.pictures(np.zeros((2, side, side, 3), np.uint8)))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[module.output],
                dynamic_shapes={INPUT: {0: torch.export.Dim("N", min=1, max=2**16)}},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the network has no ONNX form ({reason}); write its blocks with other operations") from error
    assert program is not None
    model = program.model_proto
    _strip(model.graph)
    onnx.helper.set_model_props(model, dict(about))
    return bytes(model.SerializeToString())


def _strip(graph: Any) -> None:
    """Remove what the exporter notes of our source code: paths of this machine, and most of a small file's size."""
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


class Session:
    """An ONNX file's content in onnxruntime, on the CPU.

    Attributes:
        opset: version of ONNX's operations that it uses.
        batch_norms: number of batch norms in the graph: those that the exporter could not fold into a convolution.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        need_onnx()
        import onnx
        import onnxruntime

        model = onnx.load_from_string(content)
        self.opset = next(used.version for used in model.opset_import if not used.domain)
        self.batch_norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Pictures as the file takes them → what comes out."""
        return np.asarray(self._session.run(None, {INPUT: pictures})[0], np.float32)


@torch.no_grad()
def compare(
    session: Session, module: ExportableNetwork, pixels: NDArray[np.uint8], batches: Sequence[int]
) -> Difference:
    """How far an ONNX file is from PyTorch, whatever the number of pictures at a time.

    Args:
        session: of the file.
        module: what the file should compute, from the network as it was trained.
        pixels: uint8 (N, H, W, 3) RGB.
        batches: pictures at a time; all pictures are shown once for each.
    """
    exact = deepcopy(module).double()
    largest, compared, unstable = 0.0, 0, 0
    for batch in batches:
        for begin in range(0, len(pixels), batch):
            given = module.pictures(pixels[begin : begin + batch])
            tensor = torch.from_numpy(given)
            wanted = module(tensor)
            apart = (torch.from_numpy(session(given)) - wanted).abs().flatten(2).amax(-1)  # (n, J)
            if module.output == "joints":
                double = exact(tensor if tensor.dtype == torch.uint8 else tensor.double())
                stable = (double - wanted).abs().amax(-1) < _STABLE
                unstable += int((~stable).sum())
                apart = apart[stable]
            compared += apart.numel()
            # A difference that is not a number is the largest there is.
            largest = max(largest, float(apart.nan_to_num(torch.inf).max()) if apart.numel() else 0.0)
    return Difference(largest, compared, unstable, len(pixels))
