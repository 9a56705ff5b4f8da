"""Checks of a study before its first trial: what no network of it could be trained with."""

from __future__ import annotations

from nas.architecture.spec import Architecture, BlockChoice
from nas.errors import UserError
from nas.study.experiment import Experiment
from nas.study.space.choices import members
from nas.training.batch_norm import trains_on_single_images


def check_trainable(experiment: Experiment) -> None:
    """Check the numbers of a study that only training would show to be wrong.

    Raises:
        UserError: a width scale at which all widths are the smallest, or a batch too small for batch norm.
    """
    _check_width_scale(experiment)
    if experiment.config.short_schedule().batch == 1:
        _check_single_images(experiment)


def _check_width_scale(experiment: Experiment) -> None:
    """Refuse a scale that rounds the widest choice to no channels, so that it becomes the smallest width there is."""
    scale = experiment.config.width_scale
    for name, default in (("stem", Architecture().stem), ("width", Architecture().width)):
        distribution = experiment.space.choices.get(name)
        values = None if distribution is None else members(distribution)
        largest = max((int(value) for value in values or [default]), default=default)
        if largest * scale < 2:
            raise UserError(
                f"width_scale {scale:g}: every {name} of {experiment.space.path} becomes 4 channels, the fewest there "
                f"are; use at least {2 / largest:.2g}, or 1 and a space of smaller widths"
            )


def _check_single_images(experiment: Experiment) -> None:
    """Refuse single images where a baseline or a network of the space cannot be trained on them."""
    networks = [experiment.published(name) for name in experiment.config.baselines] + experiment.sample()
    seen: set[tuple[int, tuple[BlockChoice, ...]]] = set()
    for candidate in networks:
        architecture = candidate.architecture
        kind = (architecture.depth, architecture.level_blocks())
        if kind in seen:
            continue
        seen.add(kind)
        if not trains_on_single_images(architecture, experiment.joints, experiment.input_size):
            raise UserError(
                f"schedule.batch 1: one image at a time is too few for the batch norm of {architecture}, whose deepest "
                f"maps have one cell at input_size {experiment.config.data.input_size}; set a batch of at least 2"
            )
