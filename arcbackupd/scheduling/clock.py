"""Watch the wall clock against the one that nobody sets, so that no jump of it goes unnoticed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from arcbackupd.log import get_logger
from arcbackupd.scheduling.state import StateFile, time_or_none

JUMP = timedelta(minutes=5)
DOUBT = timedelta(hours=24)
_ABSENCE = timedelta(days=7)
_REBASE = timedelta(days=1)
_SAVE_SEEN = timedelta(minutes=5)
_ONE_MOMENT = 60.0
"""Seconds: far less than a jump, and longer than any load lets a look at three clocks last."""
_log = get_logger()


@dataclass(frozen=True)
class ClockReading:
    """Both clocks at one moment: the wall's, which can be set, and the boot's, which can't and counts suspend."""

    wall: datetime
    boottime: float
    """Seconds since boot, CLOCK_BOOTTIME."""
    boot_id: str


@dataclass(frozen=True)
class ClockJump:
    """The wall clock moved otherwise than time did."""

    at: datetime
    """When it was noticed, by the new time."""
    by: timedelta
    """Positive when it went forward."""
    across_boots: bool = False
    """It happened while nobody watched; forward, that could also be a host that was off."""

    def sentence(self) -> str:
        """What happened, until when it matters, and what to check."""
        until = f"pruning waits until {_minute(self.at + DOUBT)}. Check `timedatectl`."
        return f"{self._what()} at {_minute(self.at)}; {until}"

    def _what(self) -> str:
        span = _span(abs(self.by))
        if self.by < timedelta(0):
            return f"The clock jumped backward by {span}"
        if self.across_boots:
            return f"The host was off for {span} or its clock jumped forward, noticed"
        return f"The clock jumped forward by {span}"


def read_clock() -> ClockReading:
    """This host's clocks, now."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot_id = ""
    while True:
        before, wall, after = _boottime(), datetime.now(UTC), _boottime()
        if after - before < _ONE_MOMENT:  # else the host slept between them, and they tell of no jump
            return ClockReading(wall, after, boot_id)


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockWatch:
    """Notices jumps of the wall clock of more than 5 minutes, also those that happened while the daemon was down.

    Within a boot it compares the progress of both clocks. Across boots there is only the last time seen: an earlier
    one means a jump backward (an empty battery), a much later one may mean a jump forward or a long absence, which
    is doubted as well, since waiting for a day costs nothing.

    May be asked from any thread.
    """

    def __init__(self, state_dir: Path, read: Callable[[], ClockReading] = read_clock) -> None:
        self._read = read
        self._file = StateFile(state_dir / "clock.json")
        saved = self._file.load()
        self._base = _reading_from(saved.get("base"))
        self._seen = time_or_none(saved.get("seen"))
        self._saved: datetime | None = None
        self._lock = threading.Lock()
        self.last_jump = _jump_from(saved.get("jump"))

    def observe(self) -> ClockJump | None:
        """Look at the clocks. Return the jump, if one happened since the last look, whoever looked then."""
        with self._lock:
            return self._observe()

    def _observe(self) -> ClockJump | None:
        reading = self._read()
        jump = self._jump_until(reading)
        if jump is not None:
            self.last_jump = jump
            _log.warning(jump.sentence(), jump_seconds=jump.by.total_seconds())
        if jump is not None or self._base_is_stale(reading):
            self._base = reading
        self._seen = reading.wall
        if jump is not None or self._saved is None or abs(reading.wall - self._saved) >= _SAVE_SEEN:
            self._save(reading.wall)
        return jump

    def doubt(self, now: datetime | None = None) -> str | None:
        """Why nothing may be pruned now: a sentence, for 24 hours after a jump; else ``None``.

        Looks at the clocks first, so that a jump between two heartbeats counts too.
        """
        with self._lock:
            self._observe()
            moment, jump = now or self._seen, self.last_jump
        if jump is None or moment is None or moment >= jump.at + DOUBT:
            return None
        return jump.sentence()

    def _jump_until(self, reading: ClockReading) -> ClockJump | None:
        base = self._base
        if base is not None and base.boot_id == reading.boot_id:
            by = (reading.wall - base.wall) - timedelta(seconds=reading.boottime - base.boottime)
            return ClockJump(reading.wall, by) if abs(by) > JUMP else None
        if self._seen is None:
            return None
        by = reading.wall - self._seen
        return ClockJump(reading.wall, by, across_boots=True) if by < -JUMP or by > _ABSENCE else None

    def _base_is_stale(self, reading: ClockReading) -> bool:
        """A boot clock that runs wrong by seconds a day, corrected step by step, must not add up to a jump."""
        base = self._base
        if base is None or base.boot_id != reading.boot_id:
            return True
        return reading.boottime - base.boottime > _REBASE.total_seconds()

    def _save(self, wall: datetime) -> None:
        self._saved = wall
        base, jump = self._base, self.last_jump
        value = {
            "seen": wall.isoformat(),
            "base": base and {**asdict(base), "wall": base.wall.isoformat()},
            "jump": jump and {**asdict(jump), "at": jump.at.isoformat(), "by": jump.by.total_seconds()},
        }
        self._file.try_save(value)


def _reading_from(saved: object) -> ClockReading | None:
    match saved:
        case {"wall": str(wall), "boottime": float(boottime), "boot_id": str(boot_id)}:
            moment = time_or_none(wall)
            return ClockReading(moment, boottime, boot_id) if moment is not None else None
    return None


def _jump_from(saved: object) -> ClockJump | None:
    match saved:
        case {"at": str(at), "by": float(by), "across_boots": bool(across)}:
            moment = time_or_none(at)
            with contextlib.suppress(OverflowError, ValueError):
                return ClockJump(moment, timedelta(seconds=by), across) if moment is not None else None
    return None


def _span(span: timedelta) -> str:
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if span >= 2 * unit or name == "minute":
            count = round(span / unit)
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    raise AssertionError("the last unit always returns")


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
