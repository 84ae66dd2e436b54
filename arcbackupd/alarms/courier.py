"""The way to one alarm: a queue that can't grow, and a thread of its own that nobody ever waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from arcbackupd.alarms import Alarm, AlarmError, JobAlarm, JobBegan, JobEnded, StateAlarm
from arcbackupd.alarms.memory import AlarmMemory, Failure
from arcbackupd.alarms.news import News, news, standing, told_by
from arcbackupd.alarms.words import clean
from arcbackupd.errors import LONGEST_MESSAGE, ArcbackupdError, describe
from arcbackupd.log import bound, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.health import Problem, Severity

UNDELIVERED = "alarm-undelivered"
"""Code of the problem that an alarm can't be delivered: everybody is told but the one in question."""
_PAUSES = (2.0, 10.0)
"""Seconds between the tries of one delivery."""
_QUIET_SECONDS = (60.0, 600.0)
"""How long what couldn't be delivered rests: at first, and at most."""
_HANGS_SECONDS = 1000.0
"""More than any built-in alarm needs for one delivery, all tries included: three of five minutes."""
_log = get_logger()


class Courier:
    """Delivers to one alarm. What comes while another of the same waits takes its place: the newest counts.

    How a run ended is owed until it is delivered or a later run of that job has ended, also after a restart.

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
        self._retired = False

    def delivers_to(self, other: Courier) -> bool:
        """Whether the other one delivers to the same, in the same way."""
        mine, theirs = self._alarm, other._alarm
        return type(mine) is type(theirs) and mine.settings == theirs.settings

    def retire(self) -> None:
        """Other settings are in force: how it fares says nothing of the alarm any more."""
        self._retired = True
        self._memory.fail(self._alarm.name, None)

    @property
    def failure(self) -> Failure | None:
        """Why the last delivery failed."""
        return self._memory.of(self._alarm.name).failure

    @property
    def told_at(self) -> datetime | None:
        """When the last delivery that went well did."""
        return self._memory.of(self._alarm.name).delivered_at

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
        if isinstance(signal, JobBegan):
            self._queue((JobBegan, signal.job), lambda: self._tell_began(alarm, signal))
        else:
            problem = None if signal.problem is None else _short(signal.problem)
            self._memory.owe(alarm.name, replace(signal, message=_short(signal.message), problem=problem))
            self._queue_owed(alarm, signal.job)

    def consider(self, problems: Sequence[Problem], now: datetime) -> None:
        """Deliver what is owed, and what is new about the state of the whole, each if the alarm is for that."""
        alarm = self._alarm
        self._latest = problems, now
        if time.monotonic() < self._quiet_until:
            return
        if isinstance(alarm, JobAlarm) and self._busy_since is None:
            for job in self._memory.of(alarm.name).owed:
                self._queue_owed(alarm, job)
        if isinstance(alarm, StateAlarm) and self._news(alarm):
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

    def _queue_owed(self, alarm: JobAlarm[Any], job: str) -> None:
        self._queue((JobEnded, job), lambda: self._tell_owed(alarm, job))

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
                self._memory.save()  # what is owed: to deliver it may outlast the process
                _tried(deliver)  # whatever it raises: without its thread the alarm would be silent for good
                self._memory.save()
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
        if error is None:
            self._failures, self._quiet_until = 0, 0.0
            return True
        first, most = _QUIET_SECONDS
        self._quiet_until = time.monotonic() + min(first * 2**self._failures, most)
        self._failures = min(self._failures + 1, 10)
        return False

    def _tell_began(self, alarm: JobAlarm[Any], began: JobBegan) -> None:
        """Not before the end of an earlier run that is owed: that would be taken for the end of this one."""
        if self._owes_before(began):
            self._tell_owed(alarm, began.job)
        if not self._owes_before(began):
            self._delivered(partial(alarm.began, began))

    def _owes_before(self, began: JobBegan) -> bool:
        owed = self._memory.of(self._alarm.name).owed.get(began.job)
        return owed is not None and owed.run != began.run

    def _tell_owed(self, alarm: JobAlarm[Any], job: str) -> None:
        ended = self._memory.of(alarm.name).owed.get(job)
        if ended and self._delivered(partial(alarm.ended, ended)):
            self._memory.settle(alarm.name, ended)

    def _tell_news(self, alarm: StateAlarm[Any]) -> None:
        found = self._news(alarm)  # what was new may have passed
        if found and self._delivered(partial(alarm.tell, found)):
            self._memory.tell(alarm.name, told_by(found, self._memory.of(alarm.name).told))

    def _news(self, alarm: StateAlarm[Any]) -> News | None:
        problems, now = self._latest
        others = [problem for problem in problems if (problem.code, problem.subject) != (UNDELIVERED, alarm.name)]
        told = self._memory.of(alarm.name).told
        least = Severity(alarm.settings.severity)
        return news(told, standing(others, told, now, least), now, alarm.settings.remind, least)

    def _test(self, testing: Future[None]) -> None:
        error = _tried(self._alarm.test)
        self._note(error)
        if error:
            testing.set_exception(error)
        else:
            testing.set_result(None)

    def _note(self, error: AlarmError | None) -> None:
        name = self._alarm.name
        if self._retired:
            return
        before = self._memory.of(name).failure
        if error is None:
            self._memory.deliver(name, datetime.now(UTC))
            if before:
                _log.info(f"Alarm {name} is delivered again")
            return
        failure = Failure(problem=_short(error.message), hint=_short(error.hint), code=_short(error.code))
        self._memory.fail(name, failure)
        if before is None or before.code != failure.code:  # each change is told, not each try
            text = f"Alarm {name} can't be delivered: {failure.problem}"
            _log.error(text, hint=failure.hint, error_code=failure.code, message_id=MessageId.ALARM_UNDELIVERED)


def _short(value: object) -> str:
    """A line of bounded length, whatever a plugin gave for one; cut at last, as half a secret isn't masked."""
    return clean(str(value)[: 10 * LONGEST_MESSAGE])[:LONGEST_MESSAGE].strip()


def _tried(tell: Callable[[], object]) -> AlarmError | None:
    """Why it couldn't be told; a plugin can raise anything, and must not end the thread.

    Not only Exception: in a thread of its own nobody's cancellation or interrupt is meant.
    """
    try:
        tell()
    except AlarmError as error:
        return error
    except ArcbackupdError as error:
        return AlarmError("alarm-failed", error.message, hint=error.hint)
    except BaseException as error:  # noqa: BLE001 - a plugin can raise anything, and nobody's interrupt is meant
        _log.error("The alarm failed in a way that its plugin didn't foresee", exc_info=error)
        hint = "The journal has the traceback: `journalctl -u arcbackupd`."
        return AlarmError("alarm-failed", f"{clean(describe(error))}.", hint=hint)
    return None
