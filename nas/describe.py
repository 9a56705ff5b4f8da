"""Describe a network: ``python -m nas.describe hg2``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from optuna.distributions import CategoricalDistribution
from rich.table import Table

from nas.architecture.cost import Cost, cost_by_part
from nas.architecture.latency import Latency, measure_latency
from nas.architecture.spec import Architecture
from nas.architecture.summary import structure
from nas.console import Quiet, console, existing_file, print_tables, progress, run
from nas.errors import UserError
from nas.options import command, new_app
from nas.study.files import find, read_toml
from nas.study.space.candidate import Candidate
from nas.study.space.cardinality import count_architectures
from nas.study.space.published import INPUT_SIZE, JOINTS, Published, named, published
from nas.study.space.search_space import SearchSpace
from nas.training.devices import device_named, use_threads

app = new_app()


@command(app)
def main(
    name: Annotated[str | None, typer.Argument(help="A published name, or a JSON or TOML file.")] = None,
    input_size: Annotated[int, typer.Option(help="Height and width of the pictures.")] = INPUT_SIZE,
    joints: Annotated[int, typer.Option(help="Heatmaps per hourglass.")] = JOINTS,
    width_scale: Annotated[float, typer.Option(help="Multiplies all channel widths.")] = 1.0,
    all_published: Annotated[bool, typer.Option("--published", help="All rows beside their printed figures.")] = False,
    space: Annotated[str | None, typer.Option(help="Describe a search space: a file, or a name.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Time prediction and training step here.")] = False,
    batch: Annotated[int, typer.Option(help="Pictures at a time, for --latency.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for --latency.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads, for --latency.")] = 1,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the structure, parameters, multiply-adds and layers of a network.

    NAME is a row of search_spaces/published.toml, or a file that holds an
    architecture, alone or as {"architecture": ..., "losses": ...}.

    Example: python -m nas.describe separable --input-size 128 --latency
    """
    if space is not None:
        if name is not None or all_published:
            raise UserError("--space describes a search space: give no NAME and no --published with it")
        _describe_space(SearchSpace.read(find(space, "search_spaces")), as_json)
        return
    if joints < 1:
        raise UserError(f"--joints {joints}: must be at least 1")
    if not 0.01 <= width_scale <= 100:
        raise UserError(f"--width-scale {width_scale:g}: must be from 0.01 to 100")
    if all_published == (name is not None):
        raise UserError("give either the NAME of a network or --published, such as `python -m nas.describe hg2`")
    rows = list(published().values()) if name is None else [_read(name)]
    described = [(row, _Counted(row.candidate, input_size, joints, width_scale)) for row in rows]
    if latency:
        _time([counted for _, counted in described], batch, device, threads)
    if as_json:
        records = [counted.record(row) for row, counted in described]
        print(json.dumps(records if all_published else records[0], ensure_ascii=False))
    elif all_published:
        print_tables(_published_table(described, input_size, joints))
        for row, _ in described:
            if row.note:
                console.print(f"{row.name}: {row.note}", soft_wrap=True)
    else:
        ((row, counted),) = described
        console.print("\n".join([*_headline(row, counted.candidate), *counted.structure()]), soft_wrap=True)
        console.print()
        print_tables(counted.table())
        if counted.latency is not None:
            console.print("\n" + _timings(counted.latency), soft_wrap=True)


def _time(networks: list[_Counted], batch: int, device: str, threads: int) -> None:
    """Measure the latency of each network, one after the other."""
    for flag, value in (("--batch", batch), ("--threads", threads)):
        if value < 1:
            raise UserError(f"{flag} {value}: must be at least 1")
    place = device_named(device)
    use_threads(threads)
    with progress("timing", len(networks)) as advance:
        for done, counted in enumerate(networks, start=1):
            size = (counted.input_size, counted.input_size)
            counted.latency = measure_latency(counted.candidate.architecture, counted.joints, size, place, batch)
            advance(done)


def _timings(latency: Latency) -> str:
    where = latency.device + (f", {latency.threads} thread{'s'[: latency.threads > 1]}" if latency.threads else "")

    def pictures(count: int) -> str:
        return f"{count} picture{'s'[: count > 1]}"

    return (
        f"latency on {where}, median of {latency.forward.runs} and {latency.step.runs} runs (middle 80 %): "
        f"prediction of {pictures(latency.batch)} {latency.forward}, "
        f"training step of {pictures(latency.step_batch)} {latency.step}"
    )


def _describe_space(space: SearchSpace, as_json: bool) -> None:
    """Print what a space offers and how much that is."""
    architectures = count_architectures(space)
    if as_json:
        about = {"path": str(space.path), "hash": space.hash, "points": space.size, "architectures": architectures}
        print(json.dumps({**about, "content": space.content}, ensure_ascii=False))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, distribution in space.choices.items():
        if isinstance(distribution, CategoricalDistribution):
            table.add_row(name, str(len(distribution.choices)), ", ".join(map(str, distribution.choices)))
        else:
            table.add_row(name, "", str(distribution).partition("Distribution")[2])
    for name, limit in space.limits.items():
        table.add_row(name, "", f"{limit:,} (16 joints, 256×256, before a study scales the widths)")
    several = "uncountably many" if architectures is None else f"{architectures:,}"
    console.print(
        f"{space.path}: {several} different architectures, {space.size:,.0f} points with losses and repeats",
        soft_wrap=True,
    )
    console.print(table)


class _Counted:
    """A candidate at some size: its costs, and its structure in words."""

    def __init__(self, candidate: Candidate, input_size: int, joints: int, width_scale: float) -> None:
        self.input_size, self.joints = input_size, joints
        self.candidate = Candidate(candidate.architecture.scaled(width_scale), candidate.losses)
        try:
            self.parts = cost_by_part(self.candidate.architecture, joints, (input_size, input_size))
        except ValueError as error:
            reason = str(error)
            if reason.startswith("input size"):
                raise UserError(f"--input-size {input_size}: {reason.partition(': ')[2]}") from error
            raise UserError(reason) from error
        self.total = sum(self.parts.values(), Cost())
        self.latency: Latency | None = None

    def record(self, row: Published) -> dict[str, Any]:
        """Plain values for ``--json``."""
        timed = {"latency": asdict(self.latency)} if self.latency is not None else {}
        return {
            "name": row.name,
            "id": self.candidate.id,
            "params": self.total.params,
            "madds": self.total.madds,
            "layers": self.total.layers,
            "input_size": self.input_size,
            "joints": self.joints,
            "parts": {part: vars(cost) for part, cost in self.parts.items()},
            **self.candidate.to_dict(),
            "documents": list(row.documents),
            "printed": {
                "params": row.printed_params,
                "madds": row.printed_madds,
                "pckh": dict(row.printed_pckh),
                "tradeoff": row.printed_tradeoff,
            },
            "note": row.note,
            **timed,
        }

    def structure(self) -> list[str]:
        """What stands where, a line for each thing."""
        return [*structure(self.candidate.architecture, self.joints, self.input_size), self._losses()]

    def _losses(self) -> str:
        losses, stacks = self.candidate.losses, self.candidate.architecture.stacks
        if stacks == 1:
            return "losses: on the heatmaps"
        weights = ", ".join(f"{w:g}" for w in losses.weights) or "1 each"
        text = f"losses: on the heatmaps of every hourglass, weights {weights}"
        if losses.weights and not any(losses.weights[:-1]):
            text = f"losses: on the heatmaps of the last hourglass only, weight {losses.weights[-1]:g}"
        if losses.alpha < 1:
            kind = {"mse": "squared error", "kl": "Kullback–Leibler divergence"}[losses.perceptual]
            text += f"; perceptual between consecutive necks ({kind}), α {losses.alpha:g}, λ {losses.scale:g}"
        elif losses.scale != 1:
            text += f"; λ {losses.scale:g}"
        return text

    def table(self) -> Table:
        """Costs by part with their shares."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("part")
        for name in ("params", "%", f"MAdds at {self.input_size}×{self.input_size}", "%", "layers"):
            table.add_column(name, justify="right")
        total = self.total
        for part, cost in [*self.parts.items(), ("all", total)]:
            table.add_row(
                part,
                f"{cost.params:,}",
                f"{100 * cost.params / total.params:.1f}",
                f"{cost.madds:,}",
                f"{100 * cost.madds / total.madds:.1f}",
                f"{cost.layers:,}",
            )
        return table


def _read(name: str) -> Published:
    """The network of a published name or of a file."""
    path = Path(name)
    if path.suffix not in (".json", ".toml"):
        return named(name)
    existing_file(path, "NAME")
    if path.suffix == ".toml":
        raw: Any = read_toml(path)
    else:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        whole = isinstance(raw, dict) and not raw.keys().isdisjoint(("architecture", "losses"))
        candidate = Candidate.from_dict(raw) if whole else Candidate(Architecture.from_dict(raw))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    return Published(name=path.stem, candidate=candidate, documents=())


def _headline(row: Published, candidate: Candidate) -> list[str]:
    lines = [f"{row.name}: {candidate} (id {candidate.id})"]
    if row.documents:
        printed = [f"params {row.printed_params}"] if row.printed_params else []
        printed += [f"MAdds {row.printed_madds}"] if row.printed_madds else []
        printed += [f"PCKh {value:.2f} ({document})" for document, value in row.printed_pckh.items()]
        lines.append(f"from {', '.join(row.documents)}; printed: {', '.join(printed) or 'nothing'}")
    if row.note:
        lines.append(f"note: {row.note}")
    return lines


def _published_table(described: list[tuple[Published, _Counted]], input_size: int, joints: int) -> Table:
    title = f"published networks, {joints} joints, MAdds at {input_size}×{input_size}"
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column("name")
    table.add_column("from")
    timed = any(counted.latency for _, counted in described)
    columns = ("params", "printed", "MAdds", "printed", "layers", "printed PCKh", "trade-off (A)")
    for column in (*columns, "prediction", "training step") if timed else columns:
        table.add_column(column, justify="right")
    for row, counted in described:
        latency = counted.latency
        table.add_row(
            row.name,
            " ".join(row.documents),
            f"{counted.total.params:,}",
            row.printed_params or "–",
            f"{counted.total.madds / 1e9:.3f} G",
            row.printed_madds or "–",
            str(counted.total.layers),
            ", ".join(f"{value:.2f} ({document})" for document, value in row.printed_pckh.items()) or "–",
            "–" if row.printed_tradeoff is None else f"{row.printed_tradeoff:+.2f}",
            *((str(latency.forward), str(latency.step)) if latency is not None else ()),
        )
    return table


if __name__ == "__main__":
    run(app)
