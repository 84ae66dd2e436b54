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
    """Somebody asked the operation to stop; everything it began was undone. ``why`` completes "because …"."""

    def __init__(self, code: str, why: str, *, state: str = "nothing was left behind.", hint: str = "") -> None:
        super().__init__(code, f"It was abandoned because {why}; {state}", hint=hint)
        self.why = why


class Cancellation:
    """Asked for in one thread, heeded in another."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._error: Cancelled | None = None
        self._interrupt: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self.too_late = threading.Event()
        """Set by an operation that has come so far that it is finished, whoever wants it undone."""

    def cancel(self, why: str, *, code: str = "cancelled", hint: str = "") -> None:
        """Ask to stop, for a reason that completes the sentence "It was abandoned because …"; the first counts."""
        with self._lock:
            if self._error is None:
                self._error = Cancelled(code, why, hint=hint)
            self._asked.set()
            if self._interrupt:
                self._interrupt()

    def ask(self, why: str) -> None:
        """Ask for a person, who comes in vain once it is too late."""
        with self._lock:
            if not self.too_late.is_set():
                self.cancel(why)

    def commit(self) -> None:
        """There is no way back from here. Raise Cancelled when somebody asked for it before."""
        with self._lock:
            self.check()
            self.too_late.set()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """What fails within once it was asked for tells of that, and of nothing else. Raise Cancelled."""
        try:
            yield
        except OperationFailed:
            self.check()
            raise

    def check(self) -> None:
        """Raise Cancelled when it was asked for."""
        if self._error:
            raise self._error

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until it is asked for; then raise Cancelled."""
        self._asked.wait(seconds)
        self.check()

    @contextmanager
    def branch(self) -> Iterator[Cancellation]:
        """Within it, another one for the work there, which is asked for with this one and by itself."""
        branch = Cancellation()

        def pass_on() -> None:
            if error := self._error:
                branch.cancel(error.why, code=error.code, hint=error.hint)

        with self.interrupting(pass_on):
            yield branch

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
