"""What is to be reached, and what was: a table of pure functions of the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import Run, Spread, ratios

Figures = Mapping[str, Any]
"""The figures of all parts, by part."""


@dataclass(frozen=True)
class Target:
    """One thing to reach: how it is told, and what was measured of it."""

    key: str
    part: str
    text: str
    limit: float
    at_least: bool
    unit: str
    measure: Callable[[Any], Spread]
    digits: int = 2


@dataclass(frozen=True)
class Verdict:
    """A target, and what was reached of it; `None` where it wasn't measured, with the reason."""

    target: Target
    reached: Spread | None
    why: str = ""

    @property
    def good(self) -> bool | None:
        """Return whether it was reached, None when it wasn't measured."""
        if self.reached is None:
            return None
        value, limit = self.reached.median, self.target.limit
        return value >= limit if self.target.at_least else value <= limit

    @property
    def shown(self) -> str:
        """Return what was reached, as text."""
        if self.reached is None:
            return f"not measured: {self.why}"
        return f"{self.reached.text(self.target.digits)}{self.target.unit}"


def verdicts(figures: Figures) -> list[Verdict]:
    """Hold the figures against every target."""
    return [_verdict(target, figures) for target in TARGETS]


def _verdict(target: Target, figures: Figures) -> Verdict:
    if target.part not in figures:
        return Verdict(target, None, f"the part {target.part} wasn't run")
    try:
        return Verdict(target, target.measure(figures[target.part]))
    except (KeyError, ValueError) as error:
        return Verdict(target, None, _reason(figures[target.part], error))


def _reason(part: Any, error: Exception) -> str:
    if isinstance(part, Mapping):
        arcsecond = part.get("arcsecond", {})
        for skipped in (part.get("skipped", {}), {"arcsecond": arcsecond.get("skipped")}):
            if isinstance(error, KeyError) and (text := skipped.get("arcsecond")):
                return f"{text}"
    return f"no figure for it ({error})"


def runs(part: Any, method: str) -> Sequence[Run]:
    """Return a method's runs."""
    found: Sequence[Run] = part["methods"][method]["runs"]
    return found


def _times_faster(part: Any) -> Spread:
    return ratios(runs(part, "pipe"), runs(part, "ours"), "wall")


def _times_limit(part: Any) -> Spread:
    return ratios(runs(part, "ours"), runs(part, "limit"), "wall")


def _part_of_cpu(part: Any) -> Spread:
    return ratios(runs(part, "ours"), runs(part, "pipe"), "cpu_outside")


def _list_ratio(part: Any) -> Spread:
    return Spread.of([part["arcsecond"]["all"] / took for took in part["warm"]])


def _restore_ratio(part: Any) -> Spread:
    return ratios(runs(part, "pipe"), runs(part, "ours"), "load", "wall")


def _downtime(part: Any) -> Spread:
    return ratios(runs(part, "ours"), runs(part, "pipe"), "downtime", "load")


def _peak_at_work(part: Any) -> Spread:
    return Spread.of([max(part["work"][what]["peak"] for what in ("dump", "restore")) / 2**20])


def _peak_at_any_size(part: Any) -> Spread:
    return Spread.of([max(max(row["dump_peak"], row["restore_peak"]) for row in part) / 2**20])


def _milliseconds(name: str) -> Callable[[Any], Spread]:
    return lambda part: Spread.of([1000 * took for took in part[name]])


TARGETS = (
    Target("dump-speed", "dump", "Dump: times faster than the pipe", 4.0, True, " times", _times_faster),
    Target("dump-limit", "dump", "Dump: times the limit", 1.35, False, " times", _times_limit),
    Target(
        "dump-cpu", "dump", "Dump: CPU outside the database, as part of the pipe's", 0.2, False, "", _part_of_cpu, 3
    ),
    Target("list-warm", "list", "List, warm daemon, whole client", 150, False, " ms", _milliseconds("warm"), 0),
    Target(
        "list-cold",
        "list",
        "List by a daemon that just started, its start included",
        1.0,
        False,
        " s",
        lambda part: Spread.of([run["total"] for run in part["cold"]]),
    ),
    Target(
        "list-ratio", "list", "List: times faster than Arcsecond's client", 1000, True, " times", _list_ratio, 0
    ),
    Target("client", "list", "First byte of list --json", 100, False, " ms", _milliseconds("first_byte"), 0),
    Target(
        "restore-speed",
        "restore",
        "Restore: times faster than the pipe's load",
        1.4,
        True,
        " times",
        _restore_ratio,
    ),
    Target("downtime", "restore", "Downtime, as part of the pipe's load", 0.1, False, "", _downtime, 3),
    Target(
        "idle-memory",
        "daemon",
        "Daemon idle, resident",
        60,
        False,
        " MiB",
        lambda part: Spread.of([part["idle"]["last"]["rss"] / 2**20]),
        1,
    ),
    Target(
        "idle-cpu",
        "daemon",
        "Daemon idle, CPU with its children",
        0.1,
        False,
        " %",
        lambda part: Spread.of([100 * part["idle"]["share"]]),
        3,
    ),
    Target("work-memory", "daemon", "Daemon at work, peak resident", 120, False, " MiB", _peak_at_work, 1),
    Target("growth-memory", "growth", "The same at every size", 120, False, " MiB", _peak_at_any_size, 1),
)
