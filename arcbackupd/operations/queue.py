"""One operation at a time, each in a thread of its own; whoever wants to may listen to its events."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Generic, Literal, TypeVar

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.log import bound, get_logger
from arcbackupd.operations.cancellation import SUPERSEDED, Cancellation
from arcbackupd.operations.events import Event, Progress, Steps

DRILL, REAP = "drill", "drill-cleanup"
GIVING_WAY = (DRILL, REAP)
"""Kinds of operations that have nothing to lose: a restore, and a dump that somebody waits for, end them."""
_SUBSCRIPTION_LIMIT = 256
_log = get_logger()
Result = TypeVar("Result")


class Priority(IntEnum):
    """Who goes first when several wait."""

    RESTORE = -1
    BOOT = 0
    MANUAL = 1
    SCHEDULED = 2
    PATIENT = 3
    """Asked for by somebody, and in the way of nothing else."""


def new_identity() -> str:
    """An id for an operation."""
    return secrets.token_hex(6)


@dataclass(eq=False)
class Operation(Generic[Result]):
    """One piece of work, queued, running or ended. Its events can be followed with `OperationQueue.follow`."""

    kind: str
    start: Callable[[Cancellation], Steps[Result]]
    priority: Priority
    fields: dict[str, object]
    """What every journal entry of it carries."""
    id: str
    state: Literal["queued", "running", "done", "failed"] = "queued"
    started_at: datetime | None = None
    last_event: Event | None = None
    told: deque[Event] = field(default_factory=lambda: deque(maxlen=_SUBSCRIPTION_LIMIT // 2))
    """What it told so far, without what was only on the way."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    result: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its thread has done its work, whatever became of ``result``."""
    _listeners: set[asyncio.Queue[Event | None]] = field(default_factory=set)

    def tell(self, event: Event) -> None:
        """Hand an event to everyone who listens; whoever is slow misses progress, never holds up the work."""
        self.last_event = event
        if not isinstance(event, Progress):
            self.told.append(event)
        for queue in self._listeners:
            if not queue.full() or not isinstance(event, Progress):
                _put_bounded(queue, event)

    def end(self) -> None:
        """No more events come."""
        for queue in self._listeners:
            _put_bounded(queue, None)

    async def events(self) -> AsyncIterator[Event]:
        """Its events from the beginning, but for progress that is past; ends with the operation."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_SUBSCRIPTION_LIMIT)
        for told in self.told:
            queue.put_nowait(told)
        if isinstance(self.last_event, Progress):
            queue.put_nowait(self.last_event)
        if self.result.done():
            queue.put_nowait(None)
        self._listeners.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)


class OperationQueue:
    """Runs operations in the order of their priority. To be used in the event loop's thread."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        """``changed`` is called whenever an operation begins or ends."""
        self._changed = changed
        self._waiting: list[tuple[Priority, int, Operation[Any]]] = []
        self._count = itertools.count()
        self._current: Operation[Any] | None = None
        self._stopping = ""

    @property
    def current(self) -> Operation[Any] | None:
        """The operation that runs."""
        return self._current

    def submit(
        self,
        kind: str,
        start: Callable[[Cancellation], Steps[Result]],
        priority: Priority,
        *,
        identity: str | None = None,
        **fields: object,
    ) -> Operation[Result]:
        """Queue an operation; ``start`` makes its steps when its turn has come. Its outcome is its ``result``.

        ``identity``: an id from `new_identity`, for steps that must know it.
        """
        operation = Operation(kind, start, priority, {"operation": kind, **fields}, identity or new_identity())
        # An operation nobody waits for (a client that left) must not make asyncio complain about its failure.
        operation.result.add_done_callback(lambda future: future.cancelled() or future.exception())
        if self._stopping:
            self._refuse(operation)
        else:
            heapq.heappush(self._waiting, (priority, next(self._count), operation))
            self._next()
        return operation

    def of_kind(self, *kinds: str) -> Operation[Any] | None:
        """An operation of one of these kinds that runs or waits."""
        return next((operation for operation in self._all() if operation.kind in kinds), None)

    def waiting(self, kind: str) -> Operation[Any] | None:
        """An operation of a kind that hasn't begun."""
        return next((operation for _, _, operation in self._waiting if operation.kind == kind), None)

    def find(self, identity: str) -> Operation[Any] | None:
        """The operation of that id, while it runs or waits."""
        return next((operation for operation in self._all() if operation.id == identity), None)

    def supersede(self, kinds: Collection[str], why: str, hint: str = "") -> None:
        """Have the operation that runs give up, if it is one of these kinds: what comes now can't wait for it."""
        if self._current and self._current.kind in kinds:
            self._current.cancellation.cancel(why, code=SUPERSEDED, hint=hint)

    def _all(self) -> list[Operation[Any]]:
        return [*([self._current] if self._current else []), *(operation for _, _, operation in self._waiting)]

    async def stop(self, why: str, grace: float) -> None:
        """Start nothing more; let the running operation end within ``grace`` seconds, then abandon it."""
        self._stopping = why
        for _, _, operation in self._waiting:
            self._refuse(operation)
        self._waiting.clear()
        if self._current is None:
            return
        running = self._current
        try:
            await asyncio.wait_for(running.ended.wait(), grace)
        except TimeoutError:
            running.cancellation.cancel(why)
            await running.ended.wait()

    def _refuse(self, operation: Operation[Any]) -> None:
        asked = operation.priority in (Priority.RESTORE, Priority.MANUAL, Priority.PATIENT)
        hint = "Ask for it again" if asked else "It isn't lost: the schedule goes on"
        hint += " when the daemon runs again."
        operation.state = "failed"
        error = OperationFailed("stopping", f"It was not begun because {self._stopping}.", hint=hint)
        if not operation.result.done():  # as in _ended
            operation.result.set_exception(error)
        operation.end()

    def _next(self) -> None:
        if self._current is None and self._waiting:
            _, _, operation = heapq.heappop(self._waiting)
            self._current = operation
            operation.state = "running"
            operation.started_at = datetime.now(UTC)
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._work, args=(operation, loop), name=operation.kind, daemon=True).start()
            self._changed()

    def _work(self, operation: Operation[Any], loop: asyncio.AbstractEventLoop) -> None:
        """In the operation's own thread, so that its niceness is its own too."""
        with bound(**operation.fields):
            try:
                outcome = _drive(operation, loop)
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for the result
                loop.call_soon_threadsafe(self._ended, operation, None, _without_frames(_presentable(error)))
            else:
                loop.call_soon_threadsafe(self._ended, operation, outcome, None)

    def _ended(self, operation: Operation[Any], outcome: object, error: ArcbackupdError | None) -> None:
        self._current = None
        operation.state = "failed" if error else "done"
        if operation.result.done():  # whoever awaited it was cancelled, and it with them
            pass
        elif error:
            operation.result.set_exception(error)
        else:
            operation.result.set_result(outcome)
        operation.ended.set()
        operation.end()
        self._changed()
        self._next()


def _drive(operation: Operation[Result], loop: asyncio.AbstractEventLoop) -> Result:
    steps = operation.start(operation.cancellation)
    while True:
        try:
            event = next(steps)
        except StopIteration as stop:
            outcome: Result = stop.value
            return outcome
        loop.call_soon_threadsafe(operation.tell, event)


def _presentable(error: BaseException) -> ArcbackupdError:
    if isinstance(error, ArcbackupdError):
        return error
    _log.error("An operation failed in a way nobody foresaw", exc_info=error)
    hint = "This is a defect of arcbackupd; the journal has the details: `journalctl -u arcbackupd`."
    return OperationFailed("internal", f"It failed unexpectedly ({type(error).__name__}).", hint=hint)


def _without_frames(error: ArcbackupdError) -> ArcbackupdError:
    """It, no longer holding what its frames were at: a dump's blocks, in circles that are seldom collected."""
    link: BaseException | None = error
    while link:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _put_bounded(queue: asyncio.Queue[Event | None], event: Event | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
