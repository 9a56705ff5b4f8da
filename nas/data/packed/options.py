"""Options of packing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nas.data.image_header import MAX_PIXELS
from nas.errors import UserError

Progress = Callable[[int], None]
"""Called with the number of people done so far."""


@dataclass(frozen=True)
class PackOptions:
    """How people are packed.

    Attributes:
        box: side of a person's box in the crops, in pixels.
        workers: threads that cut crops, or processes that render synthetic people.
        jpeg: quality (1 to 100) of crops stored as JPEG; None stores raw pixels.
        max_broken: how many images may be missing or broken: a number, or a share such as "0.5%". Their people are left
            out.
        max_pixels: larger images are not decoded.

    Raises:
        UserError: ``max_broken`` is neither.
    """

    box: int
    workers: int = 1
    jpeg: int | None = None
    max_broken: int | str = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self.max_broken_of(1)

    def max_broken_of(self, images: int) -> int:
        """How many of so many images may be missing or broken."""
        text = str(self.max_broken).strip()
        try:
            share = float(text.removesuffix("%")) / 100 if text.endswith("%") else None
            number = int(text) if share is None else int(share * images)
        except (ValueError, OverflowError):
            number = -1
        if number < 0 or (share is not None and share > 1):
            raise UserError(
                f"--max-broken {self.max_broken!r} is neither a number nor a share of images; give one like 20 or 0.5%"
            )
        return number
