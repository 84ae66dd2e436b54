"""Looks at the whole by and by, and whenever something has ended: writes the metrics, and wakes the alarms."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger
from arcbackupd.messages import MessageId
from arcbackupd.monitoring.metrics import exposition
from arcbackupd.monitoring.parts import Parts
from arcbackupd.monitoring.snapshot import Snapshot, gather
from arcbackupd.operations.health import Problem, Severity
from arcbackupd.scheduling import ClockWatch

_LOOK_SECONDS = 60.0
_HANGS_SECONDS = 60.0
_FIRST_SECONDS = 5.0
"""Before the first look: what the start brings about is seen first."""
_SETTLED_SECONDS = 120.0
"""For so long after the start an age isn't told while the dump is taken that makes up for it."""
_SUSPEND_SECONDS = 60.0
_AWAKE_SECONDS = 40.0
"""After a suspend: until the scheduler's heartbeat has found what was due meanwhile."""
_MODE = 0o644
_HINT = (
    "Let the service write there by ReadWritePaths= in a drop-in: alarms.conf.example in"
    " /etc/systemd/system/arcbackupd.service.d shows how."
)
_log = get_logger()


class Monitor:
    """Lives in the event loop; the looking itself, which may block, is done in a thread."""

    def __init__(self, clock: ClockWatch, parts: Callable[[], Parts], dumping: Callable[[], bool]) -> None:
        """``parts`` gives those of the configuration in force, ``dumping`` whether a dump runs or waits."""
        self._clock = clock
        self._parts = parts
        self._dumping = dumping
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._asleep = _seconds_asleep()
        self._woken = asyncio.Event()
        self._looking: asyncio.Future[Snapshot] | None = None
        self._textfile: Problem | None = None
        self._known: list[Problem] = []

    def wake(self) -> None:
        """Look soon: something ended."""
        self._woken.set()

    def gather(self, parts: Parts) -> Snapshot:
        """How everything stands now. Blocking."""
        found = [self._textfile] if self._textfile else []
        return gather(parts, self._clock, self._started_at, found)

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        pause = _FIRST_SECONDS
        while True:
            # Not wait_for: Python 3.11's forgets that it was cancelled when the event comes at the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._woken.clear()
            if self._has_slept():
                self._started = time.monotonic()
                pause = _AWAKE_SECONDS
                continue
            pause = _LOOK_SECONDS
            if not self._settling():
                await self._look_again()

    def _has_slept(self) -> bool:
        """Whether the host was suspended since the last time: then the scheduler goes first."""
        asleep = _seconds_asleep()
        slept, self._asleep = asleep - self._asleep, asleep
        return slept > _SUSPEND_SECONDS

    def _settling(self) -> bool:
        return time.monotonic() - self._started < _SETTLED_SECONDS and self._dumping()

    async def _look_again(self) -> None:
        try:
            await self._look()
        except Exception as error:  # noqa: BLE001 - the next look must come: without it all alarms are silent
            _log.error("Nobody could be told how things stand", exc_info=error)

    async def _look(self) -> None:
        parts = self._parts()
        if self._looking is None:
            self._looking = self._begin(parts)
        await asyncio.wait([self._looking], timeout=_HANGS_SECONDS)
        if not self._looking.done():
            self._tell(parts, [_HANGS, *self._known])
            return
        looked, self._looking = self._looking, None
        if error := looked.exception():
            _log.error("How things stand can't be told", exc_info=error)
            self._tell(parts, [_FAILS, *self._known])
        else:
            self._known = looked.result().problems
            self._tell(parts, self._known)

    def _begin(self, parts: Parts) -> asyncio.Future[Snapshot]:
        """In a thread that ends with the process: asyncio's own are waited for, and a look can hang."""
        looked: Future[Snapshot] = Future()

        def look() -> None:
            try:
                looked.set_result(self._gather_and_note(parts))
            except Exception as error:  # noqa: BLE001 - whoever awaits it tells it
                looked.set_exception(error)

        try:
            threading.Thread(target=look, name="look", daemon=True).start()
        except RuntimeError as error:  # the host has no thread left
            looked.set_exception(error)
        return asyncio.wrap_future(looked)

    def _tell(self, parts: Parts, problems: list[Problem]) -> None:
        parts.alarms.consider(problems, datetime.now(UTC))

    def _gather_and_note(self, parts: Parts) -> Snapshot:
        """Look, and write the metrics; their own trouble is told with the next look."""
        snapshot = self.gather(parts)
        path = parts.settings.metrics.textfile
        problem = write_textfile(path, exposition(snapshot)) if path else None
        if problem and not self._textfile:
            _log.error(problem.message, hint=problem.hint, message_id=MessageId.METRICS_NOT_WRITTEN)
        self._textfile = problem
        return snapshot


def _seconds_asleep() -> float:
    """For how long the host has been suspended since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def write_textfile(path: Path, text: str) -> Problem | None:
    """Replace the file whole, readable by everybody; return why that isn't possible."""
    try:
        # Each minute, beside the dumps: what a power cut takes is there again soon after it.
        write_atomically(path, text.encode(), _MODE, durably=False)
    except OSError as error:
        message = f"The metrics can't be written to {path}: {error.strerror}."
        return Problem("metrics-not-written", message, _HINT, Severity.WARNING)
    return None


_HANGS = Problem(
    "look-hangs",
    f"The backups can't be looked at: the look has taken more than {_HANGS_SECONDS:.0f} s.",
    "A disk or a network mount may hang: `journalctl -k`, `df`.",
    Severity.CRITICAL,
)
_FAILS = Problem(
    "look-failed",
    "How things stand can't be told: the look failed in a way nobody foresaw.",
    "This is a defect of arcbackupd; the journal has the details: `journalctl -u arcbackupd`.",
    Severity.CRITICAL,
)
