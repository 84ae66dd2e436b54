"""A request to stop, which reaches whatever the operation waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arcbackupd.errors import OperationFailed

BACKEND_STOPPED = "backend-stopped"
SUPERSEDED = "superseded"
GAVE_WAY = "gave-way"
INTERRUPTED = ("cancelled", "stopping", BACKEND_STOPPED)
"""Codes of the errors of operations that were abandoned, or not begun, because daemon or backend stops."""


class Cancelled(OperationFailed):
    """Somebody asked the operation to stop; everything it began was undone."""


class Cancellation:
    """Asked for in one thread, heeded in another."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._error: Cancelled | None = None
        self._interrupt: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self.too_late = threading.Event()
        """Set by an operation that has come so far that it is finished, whoever wants it undone."""

    def cancel(self, why: str, *, code: str = "cancelled", hint: str = "") -> None:
        """Ask to stop, for a reason that completes the sentence "It was abandoned because …"; the first counts."""
        with self._lock:
            if self._error is None:
                message = f"It was abandoned because {why}; nothing was left behind."
                self._error = Cancelled(code, message, hint=hint)
            self._asked.set()
            if self._interrupt:
                self._interrupt()

    def check(self) -> None:
        """Raise Cancelled when it was asked for."""
        if self._error:
            raise self._error

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until it is asked for; then raise Cancelled."""
        self._asked.wait(seconds)
        self.check()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Within it, asking also calls ``interrupt``, which ends what the operation's thread waits for."""
        with self._lock:
            self._interrupt = interrupt
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._interrupt = None
