"""How often a drill looks at the room on the database's disk, and what it says when there is none any more."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from arcbackupd.dumps.catalogue import Backup, FileIdentity
from arcbackupd.dumps.names import Kind
from arcbackupd.errors import OperationFailed, Refused
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.drill.room import RESERVE, pause, while_there_is_room

AT = datetime(2026, 1, 1, tzinfo=UTC)
BACKUP = Backup("backup-20260101-000000.sql.gz", Kind.BACKUP, AT, FileIdentity(1, 100, 1), AT, AT, 1)


class Full:
    """A server whose disk is full."""

    def free_space(self) -> int:
        return 0


@pytest.mark.parametrize(("free", "seconds"), [(0, 1), (RESERVE, 1), (RESERVE + 5 * 10**9, 10), (10**12, 30)])
def test_it_looks_again_before_the_fastest_load_could_have_taken_what_may_be_taken(
    free: int, seconds: float
) -> None:
    assert pause(free) == seconds


def load_without_room() -> None:
    with while_there_is_room(cast("Any", Full()), BACKUP, Cancellation()) as within:
        with suppress(Cancelled):
            within.wait(60)
        raise OperationFailed("load-failed", "psql was killed.")


def test_what_fails_once_there_is_no_room_says_nothing_of_the_backup() -> None:
    with pytest.raises(Refused, match="0 bytes are free"):
        load_without_room()
