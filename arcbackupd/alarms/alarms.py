"""The alarms of one configuration: who is told, and how that goes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from arcbackupd.alarms import AlarmError, JobAlarm, JobBegan, JobEnded
from arcbackupd.alarms.courier import UNDELIVERED, Courier
from arcbackupd.alarms.memory import AlarmMemory
from arcbackupd.alarms.plugins import FailedAlarm, LoadedAlarm, load_alarms
from arcbackupd.errors import UsageError
from arcbackupd.log import get_logger
from arcbackupd.operations.health import Problem, Severity
from arcbackupd.settings import Settings

_TEST_SECONDS = 60.0
_log = get_logger()


def load(settings: Settings, jobs: Collection[str], host: str) -> dict[str, LoadedAlarm | FailedAlarm]:
    """The alarms of a configuration. Raise UsageError for wrong settings, and for a job that there isn't."""
    tables = {name: (table.type, table.model_extra or {}) for name, table in settings.alarms.items()}
    loaded = load_alarms(tables, host)
    for name, item in loaded.items():
        if unknown := _jobs_of(item) - set(jobs):
            hint = f"The jobs are: {', '.join(sorted(jobs))}."
            problem = f"alarms.{name}.jobs: there is no job {min(unknown)}"
            raise UsageError("configuration", problem, hint=hint)
    return loaded


def _jobs_of(item: LoadedAlarm | FailedAlarm) -> set[str]:
    if isinstance(item, LoadedAlarm) and isinstance(item.alarm, JobAlarm):
        return set(item.alarm.settings.jobs)
    return set()


@dataclass(frozen=True)
class AlarmState:
    """How an alarm stands: ``told_at`` is when it was last delivered to."""

    name: str
    kind: str
    told_at: datetime | None
    problem: str | None = None
    hint: str | None = None
    unusable: bool = False
    """Whether it can't be used at all."""


@dataclass(frozen=True)
class Tested:
    """How the test of an alarm went; ``error`` is ``None`` when it was delivered."""

    name: str
    kind: str
    error: AlarmError | None


class Alarms:
    """Nothing here blocks: each alarm has a thread of its own, and what it can't deliver `status` tells."""

    def __init__(self, settings: Settings, jobs: Collection[str], memory: AlarmMemory, host: str) -> None:
        """Raise UsageError, as `load` does."""
        self._memory = memory
        self._loaded = load(settings, jobs, host)
        memory.keep({name: _jobs_of(item) for name, item in self._loaded.items()})
        self._couriers = {
            name: Courier(item.alarm, memory)
            for name, item in self._loaded.items()
            if isinstance(item, LoadedAlarm)
        }
        for item in self._loaded.values():
            if isinstance(item, FailedAlarm):
                _log.error(f"Alarm {item.name} can't be used: {item.problem}", alarm=item.name, hint=item.hint)

    def succeed(self, previous: Alarms) -> None:
        """Forget how deliveries failed of alarms with other settings than before: a reload solves no other."""
        for name, courier in self._couriers.items():
            before = previous._couriers.get(name)
            if before and not before.delivers_to(courier):
                before.retire()

    def hear(self, signal: JobBegan | JobEnded) -> None:
        """Tell what happened to a job."""
        for courier in self._couriers.values():
            _contained(partial(courier.hear, signal))

    def consider(self, problems: Sequence[Problem], now: datetime) -> None:
        """Tell what is new about the state of the whole."""
        for courier in self._couriers.values():
            _contained(partial(courier.consider, problems, now))

    def states(self) -> list[AlarmState]:
        """How each stands, in the order of their names."""
        return [self._state(name, item) for name, item in sorted(self._loaded.items())]

    async def test(self, name: str | None) -> list[Tested]:
        """Let one, or all, tell that this is a test. Raise UsageError when there is none of that name, or none."""
        names = self._named(name)
        return list(await asyncio.gather(*map(self._test, names)))

    def close(self) -> None:
        """Deliver what waits, and nothing after it."""
        for courier in self._couriers.values():
            courier.close()

    def join(self, seconds: float) -> None:
        """After `close`: wait for the last deliveries, for so long in all. What they don't come to stays owed."""
        deadline = time.monotonic() + seconds
        # In a thread that ends with the process: a disk may hang as well.
        saving = threading.Thread(target=self._memory.save, name="alarms", daemon=True)
        with contextlib.suppress(RuntimeError):  # the host has no thread left
            saving.start()
        for courier in self._couriers.values():
            courier.join(deadline - time.monotonic())
        if saving.is_alive():
            saving.join(max(deadline - time.monotonic(), 0))

    def _state(self, name: str, item: LoadedAlarm | FailedAlarm) -> AlarmState:
        if isinstance(item, FailedAlarm):
            return AlarmState(name, item.kind, None, item.problem, item.hint, unusable=True)
        courier = self._couriers[name]
        state = AlarmState(name, item.kind, courier.told_at)
        if seconds := courier.hanging:
            hint = "A restart of the daemon ends it; its plugin should end by itself."
            return replace(state, problem=f"It has been at a delivery for {seconds:.0f} s.", hint=hint)
        if failure := courier.failure:
            again = f"`arcbackupctl alarms test {name}` tries it now."
            return replace(state, problem=failure.problem, hint=f"{failure.hint} {again}".strip())
        return state

    def _named(self, name: str | None) -> list[str]:
        configured = f"Configured: {', '.join(sorted(self._loaded)) or 'none'}."
        if name is not None and name not in self._loaded:
            raise UsageError("no-such-alarm", f"There is no alarm {name}.", hint=configured)
        if not self._loaded:
            hint = "docs/alarms.md tells how: [alarms.NAME] with a type."
            raise UsageError("no-alarm", "No alarm is configured.", hint=hint)
        return [name] if name else sorted(self._loaded)

    async def _test(self, name: str) -> Tested:
        item = self._loaded[name]
        if isinstance(item, FailedAlarm):
            return Tested(name, item.kind, AlarmError("alarm-failed", f"{item.problem}.", hint=item.hint))
        testing = asyncio.wrap_future(self._couriers[name].test())
        try:
            await asyncio.wait_for(asyncio.shield(testing), _TEST_SECONDS)
        except TimeoutError:
            testing.add_done_callback(lambda future: future.cancelled() or future.exception())
            hint = "It may be at another delivery: `arcbackupctl status`."
            error = AlarmError("alarm-unreachable", f"It didn't end within {_TEST_SECONDS:.0f} s.", hint=hint)
            return Tested(name, item.kind, error)
        except AlarmError as error:
            return Tested(name, item.kind, error)
        return Tested(name, item.kind, None)


def _contained(tell: Callable[[], None]) -> None:
    """Whoever tells is a job's run, or the look at the whole: neither may fail by an alarm."""
    try:
        tell()
    except Exception as error:  # noqa: BLE001 - a plugin can be anything
        _log.error("An alarm could not be told", exc_info=error)


def trouble(states: Sequence[AlarmState]) -> Iterator[Problem]:
    """What is wrong with the alarms themselves."""
    for state in states:
        problem = partial(Problem, hint=state.hint or "", severity=Severity.WARNING, subject=state.name)
        if state.unusable:
            yield problem("alarm-unusable", f"Alarm {state.name} can't be used: {state.problem}.")
        elif state.problem:
            yield problem(UNDELIVERED, f"Alarm {state.name} can't be delivered: {state.problem}")
