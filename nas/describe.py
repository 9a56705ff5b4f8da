"""Describe a network: ``python -m nas.describe hg2``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from nas.console import console, print_json, print_tables, progress, run
from nas.errors import UserError
from nas.options import CodeOptions, OutputOptions, command, new_app
from nas.study.files import find

if TYPE_CHECKING:
    from nas.study.reporting.network_description import NetworkDescription

app = new_app()


@dataclass(frozen=True)
class SizeOptions:
    """The size at which networks are built and counted; the defaults are those of the published counts."""

    input_size: Annotated[int, typer.Option(help="Height and width of the images.")] = 256
    joints: Annotated[int, typer.Option(help="Heatmaps per hourglass.")] = 16
    width_scale: Annotated[float, typer.Option(help="Multiplies all channel widths.")] = 1.0

    def __post_init__(self) -> None:
        if self.joints < 1:
            raise UserError(f"--joints {self.joints}: must be at least 1")
        if not 0.01 <= self.width_scale <= 100:
            raise UserError(f"--width-scale {self.width_scale:g}: must be from 0.01 to 100")


@dataclass(frozen=True)
class LatencyOptions:
    """Whether networks are timed, and how."""

    latency: Annotated[bool, typer.Option("--latency", help="Time prediction and training step here.")] = False
    batch: Annotated[int, typer.Option(help="Images per prediction, for --latency.")] = 1
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for --latency.")] = "auto"
    threads: Annotated[int, typer.Option(help="CPU threads, for --latency.")] = 1

    def __post_init__(self) -> None:
        for flag, value in (("--batch", self.batch), ("--threads", self.threads)):
            if self.latency and value < 1:
                raise UserError(f"{flag} {value}: must be at least 1")


@command(app)
def main(
    size: SizeOptions,
    timing: LatencyOptions,
    code: CodeOptions,
    output: OutputOptions,
    name: Annotated[str | None, typer.Argument(help="A published name, or a JSON or TOML file.")] = None,
    all_published: Annotated[bool, typer.Option("--published", help="All rows beside their printed figures.")] = False,
    space: Annotated[str | None, typer.Option(help="Describe a search space: a file, or a name.")] = None,
) -> None:
    """Print the structure, parameters, multiply-adds and layers of a network.

    NAME is a row of search_spaces/published.toml, or a file that holds an
    architecture, alone or as {"architecture": ..., "losses": ...}.

    Example: python -m nas.describe separable --input-size 128 --latency
    """
    if space is not None:
        if name is not None or all_published:
            raise UserError("--space describes a search space: give no NAME and no --published with it")
        _describe_space(space, output.as_json)
        return
    if all_published == (name is not None):
        raise UserError("give either the NAME of a network or --published, such as `python -m nas.describe hg2`")

    from nas.study.reporting.network_description import NetworkDescription, read_network
    from nas.study.space.published import published

    rows = list(published().values()) if name is None else [read_network(name)]
    networks = [NetworkDescription.of(row, size.input_size, size.joints, size.width_scale) for row in rows]
    if timing.latency:
        networks = _measure(networks, timing)
    if output.as_json:
        records = [network.to_dict() for network in networks]
        print_json(records if all_published else records[0])
    elif all_published:
        _print_published(networks)
    else:
        _print_network(networks[0])


def _describe_space(name: str, as_json: bool) -> None:
    path = find(name, "search_spaces")

    from nas.consent import allow_code
    from nas.study.reporting.network_description import print_space, space_record
    from nas.study.space.space_file import blocks_of_ones_own, read_space

    allow_code(blocks_of_ones_own(path))  # who names a space here trusts its blocks
    space = read_space(path)
    if as_json:
        print_json(space_record(space))
    else:
        print_space(space)


def _measure(networks: Sequence[NetworkDescription], timing: LatencyOptions) -> list[NetworkDescription]:
    """Measure the latency of each network, one after the other."""
    from nas.architecture.latency import measure_latency
    from nas.training.devices import resolve_device, use_threads

    device = resolve_device(timing.device)
    use_threads(timing.threads)
    measured = []
    with progress("timing", len(networks)) as advance:
        for done, network in enumerate(networks, start=1):
            size = (network.input_size, network.input_size)
            latency = measure_latency(network.candidate.architecture, network.joints, size, device, timing.batch)
            measured.append(replace(network, latency=latency))
            advance(done)
    return measured


def _print_published(networks: Sequence[NetworkDescription]) -> None:
    from nas.study.reporting.network_description import published_table

    print_tables(published_table(networks))
    for network in networks:
        if network.row.note:
            console.print(f"{network.row.name}: {network.row.note}", soft_wrap=True)


def _print_network(network: NetworkDescription) -> None:
    from nas.study.reporting.network_description import latency_line

    console.print("\n".join(network.lines()), soft_wrap=True)
    console.print()
    print_tables(network.cost_table())
    if network.latency is not None:
        console.print("\n" + latency_line(network.latency), soft_wrap=True)


if __name__ == "__main__":
    run(app)
