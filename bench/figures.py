"""Numbers out of runs: medians, spreads and ratios of the same round. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}

Run = Mapping[str, Any]
"""One run of one method: its `round`, and figures by name."""


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, with the least and the greatest."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Return their spread. Raise ValueError when there are none: nothing measured isn't zero."""
        if not numbers:
            raise ValueError("there is nothing to take a median of")
        return cls(median(numbers), min(numbers), max(numbers), len(numbers))

    def text(self, digits: int = 2, factor: float = 1.0) -> str:
        """Return the median, with the range behind it when there was more than one."""
        shown = [f"{number * factor:.{digits}f}" for number in (self.median, self.least, self.most)]
        return f"{shown[0]} ({shown[1]} to {shown[2]})" if self.count > 1 else shown[0]


def spread(runs: Sequence[Run], figure: str) -> Spread:
    """Return the spread of one figure over runs."""
    return Spread.of([float(run[figure]) for run in runs])


def ratios(above: Sequence[Run], below: Sequence[Run], figure: str, other: str | None = None) -> Spread:
    """Return the spread of the ratios of `figure` above to `other` (the same) below, round by round.

    A round in which only one of them ran counts for nothing. Raise ValueError when no round has both.
    """
    under = {run["round"]: float(run[other or figure]) for run in below}
    return Spread.of([float(run[figure]) / under[run["round"]] for run in above if run["round"] in under])


def parse_size(text: str) -> int:
    """Return the bytes that `1.1GB` or `300MB` means, in powers of ten. Raise ValueError for other texts."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMG]?B?)", text.strip())
    if match is None or match[2] not in UNITS:
        raise ValueError(f"not a size such as 300MB or 1.1GB: {text}")
    return round(float(match[1]) * UNITS[match[2]])


def show_size(size: float) -> str:
    """Return a number of bytes as people read it, in powers of ten."""
    for unit in ("GB", "MB", "kB"):
        if size >= UNITS[unit]:
            digits = 2 if unit == "GB" else 1
            return f"{size / UNITS[unit]:.{digits}f} {unit}"
    return f"{size:.0f} B"
