"""Render synthetic people into a packed file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nas.data.packed.format import MARGIN, PackedHeader
from nas.data.packed.options import PackOptions, Progress
from nas.data.packed.packing import versioned_inputs
from nas.data.packed.parallel import SpawnedWorkers, map_in_order
from nas.data.packed.writer import PackedPerson, PackedWriter
from nas.data.people import SPLITS
from nas.data.skeletons import MPII
from nas.data.synthetic.render import SyntheticPerson, render_person
from nas.data.synthetic.scene import RENDERING_VERSION, SceneConfig, stored_description

_SERIES = 10_000_000
"""The most synthetic people per split: each split has its own range of indices, so that asking for more training people
leaves the other splits unchanged."""

_CHUNK = 32  # people per task


def pack_synthetic(
    out: Path,
    counts: Mapping[str, int],
    seed: int,
    scene: SceneConfig,
    options: PackOptions,
    on_progress: Progress = lambda done: None,
) -> int:
    """Render synthetic people and write them to a packed file; the crop is the original image.

    The same counts, box, seed and scene give the same people, regardless of the number of workers and of interruptions:
    what has been rendered is kept beside ``out``, and the next run continues from there.

    Args:
        out: the packed file; replaced atomically once complete, else left unchanged.
        counts: people per split; at least one in total.
        seed: of all randomness.
        scene: what people and scenes look like.
        options: box, encoding and number of processes.
        on_progress: called with the number of people rendered so far.

    Returns:
        How many people an earlier, interrupted run had rendered.

    Raises:
        UserError: another process is writing the same file, or ``out`` cannot be written.
    """
    rows = [(split, first * _SERIES + i) for first, split in enumerate(SPLITS) for i in range(counts.get(split, 0))]
    source = {"dataset": "synthetic", "seed": str(seed), "figures": stored_description(scene)}
    header = PackedHeader(MPII, options.box, source, options.jpeg)
    identity = np.eye(2, 3)
    with (
        PackedWriter(out, header, len(rows), inputs=versioned_inputs(f"rendering {RENDERING_VERSION}")) as writer,
        # Processes, because rendering holds the interpreter's lock for much of the time.
        SpawnedWorkers(options.workers) as pool,
    ):
        resumed = len(writer.done)  # rows are written in order, so these are the first
        remaining = range(resumed, len(rows))
        tasks = [
            (seed, [rows[row][1] for row in remaining[start : start + _CHUNK]], options.box, scene)
            for start in range(0, len(remaining), _CHUNK)
        ]
        row = resumed
        on_progress(row)
        for rendered in map_in_order(pool, _render, tasks, 4 * options.workers):
            for person in rendered:
                split, index = rows[row]
                name = f"synthetic {seed}/{index}"
                writer.put(
                    row,
                    PackedPerson(person.crop, person.joints, person.labelled, person.head_size, identity, split, name),
                )
                row += 1
            on_progress(row)
    return resumed


def _render(task: tuple[int, list[int], int, SceneConfig]) -> list[SyntheticPerson]:
    seed, indices, box, scene = task
    return [render_person(seed, index, box, MARGIN, scene) for index in indices]
