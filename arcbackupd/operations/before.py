"""Whether the dump of a backend's start was surely taken before its migrations, and how that is known."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from arcbackupd import postgres
from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.manifest import Reason
from arcbackupd.dumps.names import Kind
from arcbackupd.operations.cancellation import BACKEND_STOPPED, Cancellation
from arcbackupd.operations.database import Database
from arcbackupd.operations.hold import Hold
from arcbackupd.operations.holder import Holder
from arcbackupd.stack import ContainerRun
from arcbackupd.stack.command import TimedOut

_NOT_ASKED = "the database could not be asked what had happened since the backend's start"
_YOUNG = timedelta(minutes=1)


@dataclass(frozen=True)
class Recorded:
    """What the database told when it was asked: sessions of the backend's, its recorded migrations.

    ``new`` are those of the migrations that were applied after the backend's start. Without a table of migrations
    there are none.
    """

    sessions: int
    migrations: frozenset[str]
    new: frozenset[str]


class BootDump:
    """The dump of one start of the backend, as far as the backend goes: its hold, and what proves its worth.

    Used by the dump's thread, the watch and the one that hears the engine's events.
    """

    def __init__(self, run: ContainerRun, holder: Holder) -> None:
        self.run = run
        self._holder = holder
        self._hold: Hold | None = None
        self._recorded: Recorded | None = None
        self._reading = False
        self._stopped = False
        self._doubt = _NOT_ASKED
        self._cancellation = Cancellation()

    @property
    def held(self) -> bool:
        """Whether the backend has stood still since its start, and does now."""
        hold = self._find_hold()
        return hold is not None and hold.is_on

    def begin(self, cancellation: Cancellation) -> None:
        """A dump begins, the first one or another one; what a former one found doesn't count."""
        self._cancellation = cancellation
        if self._stopped:
            self.backend_stops()
        self._reading, self._doubt, self._recorded = False, _NOT_ASKED, None

    def ask(self, database: Database) -> None:
        """Ask the database, once it answers, what the backend has done so far; let a backend go that was too fast.

        Raise ArcbackupdError.
        """
        self._hold = self._find_hold()
        if self.run.started_at:
            # It may time out, by a lock on the table say; the dump needn't wait for what it is proved by.
            with contextlib.suppress(TimedOut):
                self._recorded = recorded(database, self.run, self.run.started_at)
        if self._hold is None:
            self._doubt = self._holder.why_not(self.run)
        elif self._recorded:
            self._doubt = doubt_at_first(self._recorded)
            if self._doubt:
                self._holder.release(self._doubt)

    def read_first(self) -> None:
        """Pg_dump wrote its first bytes: by then it has its snapshot, and its locks on all tables."""
        self._reading = True
        if self._hold and not self._doubt and not self._hold.is_on:
            self._doubt = "its hold was over before pg_dump had begun to read"

    def doubt(self, migrations: tuple[str, ...] | None) -> str:
        """Why it isn't sure that the dump with these migrations was taken before; empty when it is."""
        if self._doubt or self._recorded is None:
            return self._doubt or _NOT_ASKED
        same = self._recorded.migrations == frozenset(migrations or ())
        return "" if same else "migrations were recorded between the start of the hold and the dump"

    def stands_for(self, backup: Backup) -> bool:
        """Whether a dump that is there already is as good: a young one, surely of the state before this start."""
        if self._recorded is None or self.run.started_at is None:
            return False
        return is_from_before(backup, self.run.started_at, self._recorded)

    def is_of(self, container: str, moment: datetime) -> bool:
        """Whether what happens to a container at a moment happens to this run of it, not to one before."""
        return self.run.container == container and (self.run.started_at is None or self.run.started_at <= moment)

    def backend_stops(self) -> None:
        """Somebody ends the backend: a hold for a dump that hasn't begun to read isn't worth its time any more.

        A dump beside a backend that wasn't held goes on: one that crashes again and again must get a dump, too.
        """
        if not self._reading and (self._hold or self._find_hold()):
            self._stopped = True
            self._cancellation.cancel("the backend is being stopped", code=BACKEND_STOPPED)

    def release(self, why: str) -> None:
        """Let the backend go, if it is still held for this start."""
        if self._find_hold():
            self._holder.release(why)

    def _find_hold(self) -> Hold | None:
        return self._holder.hold_of(self.run.container, self.run.started_at)


def recorded(database: Database, run: ContainerRun, started_at: datetime) -> Recorded:
    """Ask for sessions and migrations. Raise ArcbackupdError."""
    [[sessions, there]] = database.query(postgres.backend_sessions(started_at, run.addresses))
    rows = database.query(postgres.recorded_migrations(started_at)) if there == "t" else []
    names = frozenset(name for name, _ in rows)
    return Recorded(int(sessions), names, frozenset(name for name, is_new in rows if is_new == "t"))


def doubt_at_first(known: Recorded) -> str:
    """Why the backend may have begun to migrate before it was held."""
    if known.sessions:
        return "the backend was connected to the database already"
    if known.new:
        return "migrations were applied after the backend's start already"
    return ""


def is_from_before(backup: Backup, started_at: datetime, known: Recorded) -> bool:
    """Whether a backup ended within a minute before that start, with the migrations that the database had then."""
    return (
        backup.good
        and backup.manifest is not None
        and backup.kind is Kind.BACKUP
        and backup.reason in (Reason.SCHEDULED, Reason.MANUAL)
        and started_at - _YOUNG <= backup.taken_at
        and backup.modified_at <= started_at
        and frozenset(backup.migrations or ()) == known.migrations - known.new
    )
