"""The services that use the database: stopped before it is swapped, started and waited for after."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from arcbackupd.errors import OperationFailed
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Progress, Step, Steps
from arcbackupd.stack import Engine, ServiceState
from arcbackupd.stack.command import Command
from arcbackupd.stack.events import parse_time
from arcbackupd.stack.process import run

NOT_UP = "services-not-up"
"""Code of the error that services which were started don't come up; everything else about them may pass."""
_COMMAND_SECONDS = 600
_LOOK_SECONDS = 0.2
_SETTLED_SECONDS = 5.0
"""How long a service without a health check must have run without a new start to count as up."""
_PROGRESS_SECONDS = 1.0


def stop_order(states: Sequence[ServiceState]) -> list[str]:
    """Names, whatever needs another one before it; otherwise in the given order. A circle is cut somewhere."""
    by_name = {state.name: state for state in states}
    order: list[str] = []

    def visit(name: str, seen: frozenset[str]) -> None:
        if name in order or name in seen:
            return
        for state in states:
            if name in state.needs and state.name in by_name:
                visit(state.name, seen | {name})
        order.append(name)

    for state in states:
        visit(state.name, frozenset())
    return order


class Services:
    """Those of the configuration. Every method raises OperationFailed when the engine can't do its part."""

    def __init__(self, engine: Engine, limit: timedelta) -> None:
        """``limit``: how long services may take to come up."""
        self._engine = engine
        self._limit = limit

    def running(self) -> list[str]:
        """Those that run, in the order in which to stop them."""
        return stop_order([state for state in self._engine.services() if state.running])

    def running_since_before(self, moment: datetime | None) -> list[str]:
        """Those of the running ones that may have started before a moment, in the order in which to stop them."""
        running = [state for state in self._engine.services() if state.running]
        early = {state.name for state in running if not _started_after(state, moment)}
        return [name for name in stop_order(running) if name in early]

    def stop(self, names: Iterable[str]) -> Steps[None]:
        """Stop services, one after another."""
        for name in names:
            yield Step("stop-service", f"Stopping {name}")
            self._do(self._engine.stop_service(name), f"{name} could not be stopped")

    def start(self, names: Sequence[str], cancellation: Cancellation) -> Steps[None]:
        """Start services in the opposite order, and wait until they are up.

        Raise OperationFailed, naming those that don't come up, when all others are started; the engine goes on
        with what it is doing.
        """
        failed = {}
        existing = {state.name for state in self._engine.services()}
        for name in reversed([name for name in names if name in existing]):
            yield Step("start-service", f"Starting {name}")
            try:
                self._do(self._engine.start_service(name), f"{name} could not be started")
            except OperationFailed as error:
                failed[name] = error.message.rstrip(".")
        waiting = [name for name in names if name in existing and name not in failed]
        failed |= yield from self._wait(waiting, cancellation)
        if failed:
            raise _not_up(failed)

    def _wait(self, names: Sequence[str], cancellation: Cancellation) -> Steps[dict[str, str]]:
        """Wait until services are up; return those that aren't, and why."""
        if not names:
            return {}
        yield Step("wait-services", f"Waiting until {_listed(names)} {'is' if len(names) == 1 else 'are'} up")
        began = told = time.monotonic()
        since: dict[str, tuple[str, float]] = {}
        while True:
            over = time.monotonic() - began > self._limit.total_seconds()
            try:
                states = {state.name: state for state in self._engine.services()}
            except OperationFailed:  # the engine may be as busy as they are
                if over:
                    raise
                cancellation.wait(_LOOK_SECONDS)
                continue
            pending = {name: why for name in names if (why := _not_yet_up(states.get(name), since))}
            if not pending or over or all(why.startswith("it ended") for why in pending.values()):
                return pending
            if time.monotonic() - told >= _PROGRESS_SECONDS:
                told = time.monotonic()
                yield Progress(0, None, 0, round(told - began, 3))
            cancellation.wait(_LOOK_SECONDS)

    def _do(self, command: Command, failure: str) -> None:
        finished = run(command, timeout=_COMMAND_SECONDS)
        if finished.status:
            said = finished.error.splitlines()[-1] if finished.error else f"status {finished.status}"
            hint = f"Try it by hand: `{' '.join(command.argv)}`."
            raise OperationFailed("service-failed", f"{failure}: {said}.", hint=hint)


def _started_after(state: ServiceState, moment: datetime | None) -> bool:
    try:
        return moment is not None and parse_time(state.started_at) > moment
    except ValueError:  # of a service manager that doesn't tell
        return False


def _not_yet_up(state: ServiceState | None, since: dict[str, tuple[str, float]]) -> str:
    """Why a service isn't up, "" when it is; ``since`` remembers from when on each one's present run was seen."""
    if state is None:
        return "it ended: its container is gone"
    if not state.running:
        return "it ended"
    if state.health:
        return "" if state.health == "healthy" else f"its health check says {state.health}"
    known = since.get(state.name)
    if known is None or known[0] != state.started_at:
        known = since[state.name] = (state.started_at, time.monotonic())
    if state.restarting:
        return "it ends, and is started again by the engine"
    return "" if time.monotonic() - known[1] >= _SETTLED_SECONDS else "it has just been started"


def _not_up(failed: dict[str, str]) -> OperationFailed:
    why = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    first = next(iter(failed))
    hint = f"`docker logs {first}` tells why; when it is mended, `docker start {' '.join(failed)}`."
    return OperationFailed(NOT_UP, f"Not every service came up again. {why}.", hint=hint)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
