"""A clock of a test's own for one daemon: libfaketime for the wall's, and the boot's beside it.

    clock = FakedClock(directory)
    Daemon(stack, environment=clock.environment)
    clock.jump(timedelta(days=3))       # the wall clock is set
    clock.suspend(timedelta(days=1))    # both clocks go on, timers don't: what a suspended host wakes up to

The monotonic clock is never touched, so timers and time limits run as ever. libfaketime moves what the daemon's
process reads as the time; the kernel's own (the times of files) and that of containers stay. CLOCK_BOOTTIME, which
libfaketime leaves alone, is moved inside the process by `install`.
"""

from __future__ import annotations

import math
import os
import select
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.require import require

_WALL = "FAKETIME_TIMESTAMP_FILE"
_HEARTBEAT = timedelta(milliseconds=100)


class FakedClock:
    """Two offsets from the real time, in a file that the daemon's process reads at every look at the clock."""

    def __init__(self, directory: Path) -> None:
        """Plan one whose file lies in `directory`."""
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            require("faketime", "libfaketime isn't installed: it is in the package libfaketime")
        self._library = libraries[0]
        self._wall_file = directory / "wall-offset"
        self._wall = timedelta()
        self._set = timedelta()
        self._write()

    @property
    def environment(self) -> dict[str, str]:
        """Return what a daemon needs to live by it."""
        return {
            "LD_PRELOAD": str(self._library),
            _WALL: str(self._wall_file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def now(self) -> datetime:
        """Return the time that the daemon has."""
        return datetime.now(UTC) + self._wall

    def jump(self, by: timedelta) -> None:
        """Set the wall clock forward, or back."""
        self._set += by
        self._wall += by
        self._write()

    def suspend(self, by: timedelta) -> None:
        """Let that much time pass as on a host that slept."""
        self._wall += by
        self._write()

    def set(self, moment: datetime) -> None:
        """Let time pass, as on a host that slept, until a moment."""
        self.suspend(moment - self.now())

    def _write(self) -> None:
        # What the boot's clock has passed is the one less the other. Both change at one moment: libfaketime leaves
        # out lines that begin so.
        offsets = [f"# {self._set.total_seconds():+.3f}", f"{self._wall.total_seconds():+.3f}"]
        temporary = self._wall_file.with_suffix(".new")
        temporary.write_text("\n".join(offsets) + "\n", encoding="ascii")
        temporary.replace(self._wall_file)


def install() -> None:
    """In the daemon's process: move CLOCK_BOOTTIME, and let the scheduler look at the clock ten times a second.

    `time.sleep` waits in poll(2): below libfaketime (0.9.10) clock_nanosleep(2) until a moment, which Python uses,
    fails with EINVAL.
    """
    if _WALL not in os.environ:
        return
    from arcbackupd.scheduling import clock
    from arcbackupd.scheduling.scheduler import Scheduler

    real, read_clock = time.clock_gettime, clock.read_clock

    def faked(number: int) -> float:
        wall, by = _offsets()
        return real(number) + (wall - by if number == time.CLOCK_BOOTTIME else 0.0)

    def read_both() -> clock.ClockReading:
        """Both at one moment, although time passes by hours in none."""
        while True:
            before, reading = _offsets(), read_clock()
            if _offsets() == before:
                return reading

    time.clock_gettime = faked
    time.sleep = _sleep  # type: ignore[assignment]  # nobody sleeps for a SupportsIndex
    clock.ClockWatch.__init__.__defaults__ = (read_both,)
    defaults = Scheduler.__init__.__kwdefaults__
    assert defaults is not None
    defaults["heartbeat"] = _HEARTBEAT


def _offsets() -> tuple[float, float]:
    """By how much the wall's clock is off, and how much of that is from setting it, in seconds."""
    by, wall = Path(os.environ[_WALL]).read_text(encoding="ascii").splitlines()
    return float(wall), float(by.removeprefix("# "))


def _sleep(seconds: float) -> None:
    select.poll().poll(math.ceil(seconds * 1000))
