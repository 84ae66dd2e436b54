"""The way to one alarm: a queue that can't grow, and a thread of its own that nobody ever waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from arcbackupd.alarms import Alarm, AlarmError, JobAlarm, JobBegan, JobEnded, StateAlarm
from arcbackupd.alarms.memory import AlarmMemory
from arcbackupd.alarms.news import News, Standing, Told, news, standing
from arcbackupd.alarms.words import clean
from arcbackupd.errors import ArcbackupdError, describe
from arcbackupd.log import bound, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.health import Problem, Severity

UNDELIVERED = "alarm-undelivered"
"""Code of the problem that an alarm can't be delivered: everybody is told but the one in question."""
_PAUSES = (2.0, 10.0)
"""Seconds between the tries of one delivery."""
_QUIET_SECONDS = (60.0, 600.0)
"""How long news that couldn't be delivered rests: at first, and at most."""
_HANGS_SECONDS = 1000.0
"""More than any built-in alarm needs for one delivery, all tries included: three of five minutes."""
_log = get_logger()


@dataclass(frozen=True)
class Delivery:
    """How a delivery went: all of it is ``None`` when well."""

    problem: str | None = None
    hint: str | None = None
    code: str | None = None


class Courier:
    """Delivers to one alarm. What comes while another of the same waits takes its place: the newest counts.

    Every method returns at once, and may be called from any thread.
    """

    def __init__(self, alarm: Alarm[Any], memory: AlarmMemory) -> None:
        self._alarm = alarm
        self._memory = memory
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, Callable[[], object]] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._latest: tuple[Sequence[Problem], datetime] = ((), datetime.now(UTC))
        self._failures = 0
        self._quiet_until = 0.0
        self._busy_since: float | None = None
        self._testing: Future[None] | None = None
        self.last: Delivery | None = None
        """How the last delivery of this process went."""
        self.told_at: datetime | None = None
        """When the last one that went well did."""

    def delivers_to(self, other: Courier) -> bool:
        """Whether the other one delivers to the same, in the same way."""
        mine, theirs = self._alarm, other._alarm
        return type(mine) is type(theirs) and mine.settings == theirs.settings

    def succeed(self, previous: Courier) -> None:
        """Take over how deliveries went."""
        self.last, self.told_at = previous.last, previous.told_at

    @property
    def hanging(self) -> float | None:
        """For how many seconds it has been at a delivery that should have ended long ago."""
        since = self._busy_since
        seconds = time.monotonic() - since if since is not None else 0
        return seconds if seconds > _HANGS_SECONDS else None

    def hear(self, signal: JobBegan | JobEnded) -> None:
        """Deliver what happened to a job, if the alarm is for that."""
        alarm = self._alarm
        if not isinstance(alarm, JobAlarm) or signal.job not in alarm.settings.jobs:
            return
        tell: Callable[[], None]
        tell = partial(alarm.began, signal) if isinstance(signal, JobBegan) else partial(alarm.ended, signal)
        self._queue((type(signal), signal.job), lambda: self._delivered(tell))

    def consider(self, problems: Sequence[Problem], now: datetime) -> None:
        """Deliver what is new about the state of the whole, if the alarm is for that."""
        alarm = self._alarm
        if not isinstance(alarm, StateAlarm):
            return
        self._latest = problems, now
        if self._news(alarm) and time.monotonic() >= self._quiet_until:
            self._queue("news", lambda: self._tell_news(alarm))

    def test(self) -> Future[None]:
        """Deliver a test, once; its failure is the future's."""
        with self._changed:
            if self._testing is None or self._testing.done():
                self._testing = Future()
            testing = self._testing
        self._queue("test", lambda: self._test(testing))
        return testing

    def close(self) -> None:
        """Deliver what waits, each with one try, and end."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the end of it, so long; one that takes longer ends with the process."""
        if self._thread is not None:
            self._thread.join(max(seconds, 0))

    def _queue(self, key: Hashable, deliver: Callable[[], object]) -> None:
        with self._changed:
            self._waiting.pop(key, None)  # to the end: a start after the end before it
            self._waiting[key] = deliver
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        """Where the host has no thread left, what waits is delivered with what comes when it has one."""
        thread = threading.Thread(target=self._work, name=f"alarm {self._alarm.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            hint = "Look what uses up the host's processes: `systemctl status arcbackupd`, `ps -eLf`."
            self._note(AlarmError("alarm-failed", f"{clean(describe(error))}.", hint=hint))
        else:
            self._thread = thread

    def _work(self) -> None:
        with bound(alarm=self._alarm.name):
            while deliver := self._next():
                self._busy_since = time.monotonic()
                _tried(deliver)  # whatever it raises: without its thread the alarm would be silent for good
                self._busy_since = None

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._waiting and not self._closing.is_set():
                self._changed.wait()
            if not self._waiting:
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    # In its own thread.

    def _delivered(self, tell: Callable[[], None]) -> bool:
        """Try it, some times where that may help; note how it ended."""
        for pause in (*_PAUSES, None):
            error = _tried(tell)
            if error is None or not error.passing or pause is None or self._closing.wait(pause):
                break
        self._note(error)
        return error is None

    def _tell_news(self, alarm: StateAlarm[Any]) -> None:
        found = self._news(alarm)
        if found is None:  # what was new has passed
            return
        if self._delivered(partial(alarm.tell, found[0])):
            self._failures = 0
            self._memory.remember(alarm.name, Told(problems=found[1], at=found[0].at))
            return
        first, most = _QUIET_SECONDS
        self._quiet_until = time.monotonic() + min(first * 2**self._failures, most)
        self._failures = min(self._failures + 1, 10)

    def _news(self, alarm: StateAlarm[Any]) -> tuple[News, dict[str, Standing]] | None:
        problems, now = self._latest
        others = [problem for problem in problems if (problem.code, problem.subject) != (UNDELIVERED, alarm.name)]
        told = self._memory.told(alarm.name)
        least = Severity(alarm.settings.severity)
        current = standing(others, told, now, least)
        found = news(told, current, now, alarm.settings.remind, least)
        return (found, current) if found else None

    def _test(self, testing: Future[None]) -> None:
        error = _tried(self._alarm.test)
        self._note(error)
        if error:
            testing.set_exception(error)
        else:
            testing.set_result(None)

    def _note(self, error: AlarmError | None) -> None:
        before, now = self.last, datetime.now(UTC)
        name = self._alarm.name
        if error is None:
            self.last = Delivery()
            self.told_at = now
            if before and before.problem:
                _log.info(f"Alarm {name} is delivered again")
            return
        self.last = Delivery(error.message, error.hint, error.code)
        if before is None or before.code != error.code:  # each change is told, not each try
            text = f"Alarm {name} can't be delivered: {error.message}"
            _log.error(text, hint=error.hint, error_code=error.code, message_id=MessageId.ALARM_UNDELIVERED)


def _tried(tell: Callable[[], object]) -> AlarmError | None:
    """Why it couldn't be told; a plugin can raise anything, and must not end the thread."""
    try:
        tell()
    except AlarmError as error:
        return error
    except ArcbackupdError as error:
        return AlarmError("alarm-failed", error.message, hint=error.hint)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - see above
        _log.error("The alarm failed in a way that its plugin didn't foresee", exc_info=error)
        hint = "The journal has the traceback: `journalctl -u arcbackupd`."
        return AlarmError("alarm-failed", f"{clean(describe(error))}.", hint=hint)
    return None
