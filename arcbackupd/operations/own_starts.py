"""Starts of the backend that the daemon makes itself, by a restore or a rollback: neither held nor dumped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

_REMEMBERED = 16


class OwnStarts:
    """Knows when the daemon itself stops and starts services. Safe to use from several threads.

        with own_starts.expected():
            stop the services, swap, start them again

    Starts of the backend in that time are remembered as seen, also when they are noticed only after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: list[datetime] = []
        self._past: list[tuple[datetime, datetime]] = []

    @contextmanager
    def expected(self, since: datetime | None = None) -> Iterator[None]:
        """Within it every start of the backend is ours. ``since``: a recovery's, when what it finishes began."""
        begin = since or datetime.now(UTC)
        with self._lock:
            self._begun.append(begin)
        try:
            yield
        finally:
            with self._lock:
                self._begun.remove(begin)
                self._past = [*self._past[1 - _REMEMBERED :], (begin, datetime.now(UTC))]

    def include(self, started_at: datetime | None) -> bool:
        """Whether a start at that time is one of ours; without a time, whether one would be now."""
        with self._lock:
            if started_at is None:
                return bool(self._begun)
            now = any(begin <= started_at for begin in self._begun)
            return now or any(begin <= started_at <= end for begin, end in self._past)
