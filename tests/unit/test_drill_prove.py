"""What a drill says of a backup when somebody asked to stop."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from arcbackupd.dumps.catalogue import Backup, FileIdentity
from arcbackupd.dumps.names import Kind
from arcbackupd.niceness import NORMAL
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.drill.prove import Drill, prove
from arcbackupd.operations.events import Steps

AT = datetime(2026, 1, 1, tzinfo=UTC)
BROKEN = replace(
    Backup("backup-20260101-000000.sql.gz", Kind.BACKUP, AT, FileIdentity(1, 100, 1), AT, AT, 1),
    problem="it is cut short",
)


class Nothing:
    """A place in which nothing was made."""

    def remove(self, _cancellation: Cancellation) -> Steps[None]:
        yield from ()


def drill() -> Drill:
    return Drill(BROKEN, Path("/nonexistent"), "database", cast("Any", Nothing()), NORMAL)


def test_what_fails_once_somebody_asked_to_stop_says_nothing_of_the_backup() -> None:
    cancellation = Cancellation()
    cancellation.cancel("the daemon stops")
    with pytest.raises(Cancelled, match="the daemon stops"):
        list(prove(drill(), cancellation))


def test_else_it_is_what_the_drill_has_shown() -> None:
    steps = prove(drill(), Cancellation())
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value.code == "broken-backup"
