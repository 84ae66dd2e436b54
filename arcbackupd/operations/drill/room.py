"""Room on the database's disk: reckoned before a drill, and watched while it goes on.

What a dump becomes can't be told from the dump, and a full disk ends the live database as well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.errors import ArcbackupdError, Refused
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.restore.checks import room_for
from arcbackupd.operations.restore.server import Server

RESERVE = 1 << 30
"""Bytes that a drill leaves free on the database's disk: the live database writes on."""
NO_ROOM = "disk-too-small"
_FASTEST = 500_000_000
"""Bytes that a load may write in a second, with its indexes and the log: a fast disk of its own."""
_SOONEST, _LATEST = 1.0, 30.0


def check_room(server: Server, backup: Backup, live_bytes: int) -> bool:
    """Raise Refused where it isn't enough; return whether it can be told at all.

    What a database is of its SQL varies much with its indexes: the live one's size is the better measure.
    """
    room = room_for(server, backup)
    if room is None:
        return False
    needed = max(room.needed, live_bytes)
    if room.free < needed + RESERVE:
        message = (
            f"There is no room to load {backup.name}: about {needed:,} bytes are needed and {RESERVE:,} are to"
            f" stay free on the database's disk, {room.free:,} are free."
        )
        raise Refused(NO_ROOM, message, hint="Free some space there.")
    return True


@contextmanager
def while_there_is_room(server: Server, backup: Backup, cancellation: Cancellation) -> Iterator[Cancellation]:
    """Give a cancellation for the work within, which ends it when too little stays free. Raise Refused then."""
    ended = threading.Event()
    with cancellation.branch() as within:
        threading.Thread(target=_watch, args=(server, within, ended), name="room", daemon=True).start()
        try:
            with within.heeded():
                yield within
        except Cancelled as error:
            if error.code != NO_ROOM:
                raise
            message = (
                f"The drill of {backup.name} was ended, because {error.why}. The live database was not touched, and"
                " what the drill made is removed."
            )
            raise Refused(NO_ROOM, message, hint="Free some space there, or drill in another place.") from None
        finally:
            ended.set()  # without waiting for the thread: an engine that hangs must not hold up what comes


def pause(free: int) -> float:
    """How long nobody need look again: until the fastest load could have taken what may be taken."""
    return min(max((free - RESERVE) / _FASTEST, _SOONEST), _LATEST)


def _watch(server: Server, within: Cancellation, ended: threading.Event) -> None:
    seconds = _SOONEST
    while not ended.wait(seconds):
        with suppress(ArcbackupdError):  # what is wrong with the server, the load meets too
            free = server.free_space()
            if free < RESERVE:
                why = f"{free:,} bytes are free on the database's disk, where {RESERVE:,} are to stay free"
                within.cancel(why, code=NO_ROOM)
                return
            seconds = pause(free)
