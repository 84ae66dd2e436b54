"""Transfers as an operation's steps: with progress, given up when asked to, tried again when that may help."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from arcbackupd.destinations import DestinationError, Transfer
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Notice, Progress, Steps

T = TypeVar("T")
PAUSES = (1.0, 5.0, 20.0, 60.0)
"""Seconds before each further try."""
_PROGRESS_SECONDS = 0.25


def moving(
    move: Callable[[Transfer], T], *, total: int | None, limit: int | None, cancellation: Cancellation
) -> Steps[T]:
    """Run what blocks in a thread of its own, and tell how far it is; ``total`` in bytes, if it is known.

    Raise what it raises, and Cancelled when it was asked to stop.
    """
    work = _Work(move, limit, cancellation)
    began = time.monotonic()
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work.run,), name="transfer", daemon=True)
    thread.start()
    try:
        while not work.ended.wait(_PROGRESS_SECONDS):
            elapsed = time.monotonic() - began
            yield Progress(work.moved, None, 0, round(elapsed, 3), total, _to_go(work.moved, total, elapsed))
    finally:  # also when it is abandoned: who comes next must find nobody at work
        work.give_up.set()
        thread.join()
    return work.outcome()


def retrying(attempt: Callable[[], Steps[T]], cancellation: Cancellation) -> Steps[T]:
    """Try until it works, or fails in a way that trying again doesn't help, or has failed too often."""
    for pause in PAUSES:
        try:
            return (yield from attempt())
        except DestinationError as error:
            if not error.passing:
                raise
            yield Notice(f"{error.message} It is tried again in {pause:g} s.", error.hint)
            cancellation.wait(pause)
    return (yield from attempt())


class _Abandoned(Exception):
    """Nobody waits for it any more."""


class _Work(Generic[T]):
    def __init__(self, move: Callable[[Transfer], T], limit: int | None, cancellation: Cancellation) -> None:
        self._move = move
        self._limit = limit
        self._cancellation = cancellation
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.moved = 0
        self.ended = threading.Event()
        self.give_up = threading.Event()

    def run(self) -> None:
        try:
            self._results.append(self._move(Transfer(self._advance, self._limit)))
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
            self._error = error
        self.ended.set()

    def outcome(self) -> T:
        if self._error:
            raise self._error
        return self._results[0]

    def _advance(self, moved: int) -> None:
        self.moved += moved
        self._cancellation.check()
        if self.give_up.is_set():
            raise _Abandoned


def _to_go(moved: int, total: int | None, elapsed: float) -> float | None:
    if not total or not moved:
        return None
    return round(max(total - moved, 0) * elapsed / moved, 1)
