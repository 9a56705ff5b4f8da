"""ONNX export of a trained network, and its comparison with PyTorch."""

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
"""Name of the file's input."""

TOLERANCE = 1e-3
"""Largest accepted difference between ONNX and PyTorch, in map values, pixels and scores."""

_UNSTABLE = 1e-4  # joints that differ more between single and double precision in PyTorch are not compared
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportableNetwork(nn.Module):
    """The function that the ONNX file computes.

    Attributes:
        output: name of the output: "joints", (N, J, 3) x, y in pixels of the input and a score from 0 to 1; or
            "heatmaps", (N, J, H/4, W/4) maps of the last hourglass, probabilities where it was trained with logits.

    Args:
        network: to export, in evaluation mode.
        schedule: says how its heatmaps are decoded.
        uint8: whether the input is uint8 (N, H, W, 3) RGB; else float32 (N, 3, H, W), normalized.
        joints: whether the output is joints.
    """

    def __init__(self, network: nn.Module, schedule: ScheduleConfig, *, uint8: bool, joints: bool) -> None:
        super().__init__()
        self.network, self.output = network, "joints" if joints else "heatmaps"
        self._schedule, self._uint8, self._target_peak = schedule, uint8, target_peak(schedule)

    def forward(self, images: Tensor) -> Tensor:
        """Images → joints or heatmaps."""
        if self._uint8:
            images = images.permute(0, 3, 1, 2).to(next(self.network.parameters()).dtype)
            images = (images - PIXEL_MEAN) / PIXEL_SCALE
        maps = as_maps(self.network(images).heatmaps[-1], self._schedule.loss)
        if self.output == "heatmaps":
            return maps
        cells, peak = decode(maps, self._schedule.decoder)
        return torch.cat([cells * STRIDE, (peak / self._target_peak).clamp(0, 1).unsqueeze(-1)], dim=-1)

    def preprocess(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Convert uint8 (N, H, W, 3) RGB images to this module's input."""
        if self._uint8:
            return pixels
        return np.ascontiguousarray(((pixels.astype(np.float32) - PIXEL_MEAN) / PIXEL_SCALE).transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Difference:
    """The difference between an ONNX file and PyTorch.

    Attributes:
        largest: absolute difference in map values, or in pixels and scores.
        compared: number of maps or joints.
        unstable: joints left out because PyTorch itself places them differently in single and double precision: their
            maps are flat.
        pictures: number of images.
    """

    largest: float
    compared: int
    unstable: int
    pictures: int


def need_onnx() -> None:
    """Check that the packages of the extra ``export`` are installed.

    Raises:
        UserError: one of them is missing.
    """
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{name} is not installed; give: pip install -e '.[export]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages, which are addressed to developers of exporters."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_onnx(module: ExportableNetwork, side: int, metadata: Mapping[str, str]) -> bytes:
    """Export a module for any batch size. The exporter folds batch norms that directly follow a convolution.

    Args:
        module: on the CPU, in evaluation mode.
        side: H = W of the images.
        metadata: stored in the file.

    Returns:
        The content of the ONNX file.

    Raises:
        UserError: packages are missing, or an operation cannot be exported.
    """
    need_onnx()
    import onnx

    example = torch.from_numpy(module.preprocess(np.zeros((2, side, side, 3), np.uint8)))
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
    onnx.helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString())


def _strip(graph: Any) -> None:
    """Remove the exporter's notes on source code: paths of this machine, and most of a small file's size."""
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


class Session:
    """An ONNX file in onnxruntime, on the CPU.

    Attributes:
        opset: version of the ONNX operators.
        batch_norms: number of batch norms in the graph: those that the exporter could not fold into a convolution.

    Args:
        content: of the file.
        threads: CPU threads.
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

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Run the file on a batch from :meth:`ExportableNetwork.preprocess`."""
        return np.asarray(self._session.run(None, {INPUT: images})[0], np.float32)


@torch.no_grad()
def compare(
    session: Session, module: ExportableNetwork, pixels: NDArray[np.uint8], batches: Sequence[int]
) -> Difference:
    """Compare an ONNX file with PyTorch.

    Args:
        session: of the file.
        module: that was exported.
        pixels: uint8 (N, H, W, 3) RGB images.
        batches: batch sizes; all images are run with each of them.
    """
    double_module = deepcopy(module).double()
    largest, compared, unstable = 0.0, 0, 0
    for batch in batches:
        for start in range(0, len(pixels), batch):
            images = module.preprocess(pixels[start : start + batch])
            tensor = torch.from_numpy(images)
            expected = module(tensor)
            difference = (torch.from_numpy(session(images)) - expected).abs().flatten(2).amax(-1)  # (n, J)
            if module.output == "joints":
                double = double_module(tensor if tensor.dtype == torch.uint8 else tensor.double())
                stable = (double - expected).abs().amax(-1) < _UNSTABLE
                unstable += int((~stable).sum())
                difference = difference[stable]
            compared += difference.numel()
            # NaN counts as infinite.
            largest = max(largest, float(difference.nan_to_num(torch.inf).max()) if difference.numel() else 0.0)
    return Difference(largest, compared, unstable, len(pixels))
