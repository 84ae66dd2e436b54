"""What a run measures, and how much of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.figures import parse_size

PARTS = ("list", "dump", "restore", "daemon", "growth")
"""In the order in which they run."""

WORK = Path(__file__).parent / ".work"
"""Where the raw figures and the peers' environments are kept; git ignores it."""

RESULTS = Path(__file__).parent / "RESULTS.md"
PLOT = Path(__file__).parent / "growth.svg"
NOTES = Path(__file__).parent / "NOTES.md"
"""What people add to the report, if it is there: see report.py."""


@dataclass(frozen=True)
class Parameters:
    """What a run measures."""

    only: tuple[str, ...]
    size: int
    rounds: int
    peer_rounds: int
    restore_rounds: int
    safety_rounds: int
    major: int
    list_dumps: int
    list_size: int
    list_runs: int
    cold_runs: int
    arcsecond_dumps: int
    idle: float
    idle_alone: bool
    growth: tuple[int, ...]
    levels: bool
    report_only: bool
    results: Path
    plot: Path

    def recorded(self) -> dict[str, Any]:
        """Return those that say how figures came about."""
        left_out = ("only", "report_only", "results", "plot")
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def parse(arguments: Sequence[str] | None = None) -> Parameters:
    """Read the command line."""
    given = vars(_parser().parse_args(arguments))
    return Parameters(**given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--only", type=_parts, default=PARTS, metavar="PART,…", help=f"of {', '.join(PARTS)}")
    add("--size", type=parse_size, default="1.1GB", help="SQL of the main database")
    add("--rounds", type=int, default=3, help="of the dump")
    add("--peer-rounds", type=int, default=3, help="of those in which Arcsecond's client and borgmatic dump too")
    add("--restore-rounds", type=int, default=3)
    add("--safety-rounds", type=int, default=1, help="of those in which the restore takes its safety backup too")
    add("--major", type=int, default=16, help="of PostgreSQL")
    add("--list-dumps", type=int, default=336)
    add("--list-size", type=parse_size, default="295MB", help="SQL of each of these dumps")
    add("--list-runs", type=int, default=20)
    add("--cold-runs", type=int, default=5)
    add("--arcsecond-dumps", type=int, default=12, help="how many of them Arcsecond's client lists")
    add("--idle", type=float, default=600, metavar="SECONDS", help="how long the idle daemon is watched")
    add("--idle-alone", action="store_true", help="before everything else, not beside it: takes so much longer")
    add("--growth", type=_sizes, default="10MB,30MB,100MB,300MB,1GB,3GB", metavar="SIZE,…")
    add("--no-levels", dest="levels", action="store_false", help="leave out the table of compression levels")
    add("--report-only", action="store_true", help="measure nothing: write the report from what was kept")
    add("--results", type=Path, default=RESULTS, help="the report")
    add("--plot", type=Path, default=PLOT)
    return parser


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return chosen


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(parse_size(part) for part in text.split(","))
