"""What ``nas.describe`` prints: a network's structure and costs, the published rows, a search space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution
from rich.table import Table

from nas.architecture.cost import Cost, cost_by_part
from nas.architecture.latency import Latency
from nas.architecture.spec import Architecture
from nas.architecture.summary import structure
from nas.console import console, existing_file
from nas.errors import UserError
from nas.study.files import read_toml
from nas.study.space.candidate import Candidate
from nas.study.space.cardinality import count_architectures
from nas.study.space.published import Published, named
from nas.study.space.search_space import SearchSpace


@dataclass(frozen=True)
class NetworkDescription:
    """A network at some input size, with what it costs.

    Attributes:
        row: the published row, or one made of a file.
        candidate: the row's network at the width scale that was asked for.
        input_size: height and width, in pixels.
        joints: heatmaps per hourglass.
        parts: the cost of each part of the network.
        latency: None if it was not measured.
    """

    row: Published
    candidate: Candidate
    input_size: int
    joints: int
    parts: dict[str, Cost]
    latency: Latency | None = None

    @classmethod
    def of(cls, row: Published, input_size: int, joints: int, width_scale: float) -> NetworkDescription:
        """Count a network's costs.

        Raises:
            UserError: the network cannot be built at this size.
        """
        candidate = Candidate(row.candidate.architecture.scaled(width_scale), row.candidate.losses)
        try:
            parts = cost_by_part(candidate.architecture, joints, (input_size, input_size))
        except ValueError as error:
            reason = str(error)
            if reason.startswith("input size"):
                raise UserError(f"--input-size {input_size}: {reason.partition(': ')[2]}") from error
            raise UserError(reason) from error
        return cls(row, candidate, input_size, joints, parts)

    @property
    def total(self) -> Cost:
        """The cost of the network."""
        return sum(self.parts.values(), Cost())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        total, row = self.total, self.row
        return {
            "name": row.name,
            "id": self.candidate.id,
            "params": total.params,
            "madds": total.madds,
            "layers": total.layers,
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
            **({} if self.latency is None else {"latency": asdict(self.latency)}),
        }

    def lines(self) -> list[str]:
        """A description of the network in lines of text: name, published values, structure, losses."""
        row = self.row
        lines = [f"{row.name}: {self.candidate} (id {self.candidate.id})"]
        if row.documents:
            printed = [f"params {row.printed_params}"] if row.printed_params else []
            printed += [f"MAdds {row.printed_madds}"] if row.printed_madds else []
            printed += [f"PCKh {value:.2f} ({document})" for document, value in row.printed_pckh.items()]
            lines.append(f"from {', '.join(row.documents)}; printed: {', '.join(printed) or 'nothing'}")
        if row.note:
            lines.append(f"note: {row.note}")
        return [*lines, *structure(self.candidate.architecture, self.joints, self.input_size), self._losses()]

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

    def cost_table(self) -> Table:
        """Costs by part, with their shares."""
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


def latency_line(latency: Latency) -> str:
    """A measured latency as one line of text."""
    threads = f", {latency.threads} thread{'s'[: latency.threads > 1]}" if latency.threads else ""

    def images(count: int) -> str:
        return f"{count} image{'s'[: count > 1]}"

    return (
        f"latency on {latency.device}{threads}, median of {latency.forward.runs} and {latency.step.runs} runs "
        f"(middle 80%): prediction of {images(latency.batch)} {latency.forward}, "
        f"training step of {images(latency.step_batch)} {latency.step}"
    )


def published_table(networks: Sequence[NetworkDescription]) -> Table:
    """The costs of the published networks, next to the values printed in their papers."""
    first = networks[0]
    title = f"published networks, {first.joints} joints, MAdds at {first.input_size}×{first.input_size}"
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column("name")
    table.add_column("from")
    timed = any(network.latency for network in networks)
    columns = ("params", "printed", "MAdds", "printed", "layers", "printed PCKh", "trade-off (A)")
    for column in (*columns, "prediction", "training step") if timed else columns:
        table.add_column(column, justify="right")
    for network in networks:
        row, total, latency = network.row, network.total, network.latency
        table.add_row(
            row.name,
            " ".join(row.documents),
            f"{total.params:,}",
            row.printed_params or "–",
            f"{total.madds / 1e9:.3f} G",
            row.printed_madds or "–",
            str(total.layers),
            ", ".join(f"{value:.2f} ({document})" for document, value in row.printed_pckh.items()) or "–",
            "–" if row.printed_tradeoff is None else f"{row.printed_tradeoff:+.2f}",
            *((str(latency.forward), str(latency.step)) if latency is not None else ()),
        )
    return table


def space_record(space: SearchSpace) -> dict[str, Any]:
    """A search space as plain values for JSON."""
    return {
        "path": str(space.path),
        "hash": space.hash,
        "points": space.size,
        "architectures": count_architectures(space),
        "content": space.content,
    }


def print_space(space: SearchSpace) -> None:
    """Print what a search space offers and how many networks that makes."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, distribution in space.choices.items():
        if isinstance(distribution, CategoricalDistribution):
            table.add_row(name, str(len(distribution.choices)), ", ".join(map(str, distribution.choices)))
        else:
            table.add_row(name, "", str(distribution).partition("Distribution")[2])
    for name, limit in space.limits.items():
        table.add_row(name, "", f"{limit:,} (16 joints, 256×256, before a study scales the widths)")
    architectures = count_architectures(space)
    number = "uncountably many" if architectures is None else f"{architectures:,}"
    console.print(
        f"{space.path}: {number} different architectures, {space.size:,.0f} points (with loss settings and duplicates)",
        soft_wrap=True,
    )
    console.print(table)


def read_network(name: str) -> Published:
    """The network of a published name, or of a JSON or TOML file.

    Raises:
        UserError: there is no such name or file, or it holds no architecture.
    """
    path = Path(name)
    if path.suffix not in (".json", ".toml"):
        return named(name)
    raw = _read_values(existing_file(path, "NAME"))
    try:
        with_losses = isinstance(raw, dict) and not raw.keys().isdisjoint(("architecture", "losses"))
        candidate = Candidate.from_dict(raw) if with_losses else Candidate(Architecture.from_dict(raw))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    return Published(name=path.stem, candidate=candidate, documents=())


def _read_values(path: Path) -> Any:
    if path.suffix == ".toml":
        return read_toml(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
