"""A dump that others wait for gives way: its locks keep an ALTER TABLE waiting, and that all who come after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from arcbackupd import postgres
from arcbackupd.errors import ArcbackupdError
from arcbackupd.operations.cancellation import GAVE_WAY, Cancellation
from arcbackupd.operations.database import Database

_LOOKS = 6
"""How often within the time that somebody may be kept waiting the server is asked."""
_SHORTEST_SECONDS = 0.1


@contextmanager
def yielding(
    database: Database, application: str, yield_after: timedelta | None, cancellation: Cancellation
) -> Iterator[None]:
    """Within it, the dump of that name is cancelled when it alone keeps somebody waiting for so long."""
    if yield_after is None:
        yield
        return
    over = threading.Event()
    arguments = (database, application, yield_after.total_seconds(), cancellation, over)
    thread = threading.Thread(target=_watch, args=arguments, name="yielding", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(
    database: Database, application: str, limit: float, cancellation: Cancellation, over: threading.Event
) -> None:
    pause = limit / _LOOKS
    while not over.wait(pause):
        waited = _longest_wait(database, application)
        if waited >= limit:
            hint = "The next dump comes by itself. dump.yield_after says how long others may be kept waiting."
            why = f"something had waited {waited:.0f} s for a lock that the dump alone held"
            cancellation.cancel(why, code=GAVE_WAY, hint=hint)
            return
        pause = max(min(limit / _LOOKS, limit - waited), _SHORTEST_SECONDS)


def _longest_wait(database: Database, application: str) -> float:
    try:
        return float(database.query(postgres.longest_wait(application))[0][0])
    except ArcbackupdError:  # the dump meets the same trouble, and tells of it
        return 0.0
