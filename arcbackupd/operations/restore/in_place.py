"""The steps of a restore in place alone: what they drop is in a backup, to the last row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from arcbackupd.errors import Refused
from arcbackupd.operations.events import Steps
from arcbackupd.operations.restore.steps import Close, same_live
from arcbackupd.operations.restore.work import RestoreStep
from arcbackupd.postgres import databases as sql

_UNWRITTEN_TRIES = 3


class TakeSnapshot(RestoreStep):
    """The pre-restore backup, in place: before what it holds is dropped."""

    name = "snapshot"

    @property
    def text(self) -> str:
        return f"Taking a safety backup of {self.work.journal.database}"

    def commands(self) -> Sequence[str]:
        return [self.work.server.shown_dump(self.work.journal.database)]

    def run(self) -> Steps[None]:
        work = self.work
        work.note(written=work.server.written(work.journal.database))
        moment = work.journal.stopped_at or datetime.now(UTC)
        outcome = yield from work.snapshot(work.journal.database, moment, work.cancellation)
        work.note(snapshot=outcome.name)


class TakeSnapshotAgain(TakeSnapshot):
    """Nothing that was written between the first one and the end of the services may be lost."""

    name = "snapshot-again"

    @property
    def text(self) -> str:
        return "Taking the safety backup once more, if anything was written since"

    def run(self) -> Steps[None]:
        if self.work.server.written(self.work.journal.database) != self.work.journal.written:
            yield from super().run()


class CloseUnwritten(Close):
    """What somebody wrote since the safety backup is backed up too, before it can be dropped."""

    def run(self) -> Steps[None]:
        yield from super().run()
        server, database = self.work.server, self.work.journal.database
        tries = 0
        while server.written(database) != self.work.journal.written:
            if tries == _UNWRITTEN_TRIES:
                raise _still_written(database)
            tries += 1
            server.open(database)
            yield from TakeSnapshot(self.work).run()
            server.close(database)


def _still_written(database: str) -> Refused:
    hint = "Stop what writes to it (pg_stat_activity shows it), or restore without --in-place."
    return Refused("still-written", f"Something that is no service goes on writing to {database}.", hint=hint)


class Drop(RestoreStep):
    """The live database, in place."""

    name = "drop"

    @property
    def text(self) -> str:
        return f"Dropping {self.work.journal.database}"

    def commands(self) -> Sequence[str]:
        return [self.work.server.shown(sql.drop(self.work.journal.database))]

    def run(self) -> Steps[None]:
        live = same_live(self.work)
        self.work.cancellation.commit()
        self.work.server.drop_live(live)
        yield from ()
