"""What becomes of a replaced database: it is backed up, kept for a while, and dropped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.cancellation import INTERRUPTED, Cancellation
from arcbackupd.operations.events import Notice, Step, Steps
from arcbackupd.operations.restore.journal import REPLACED_PREFIX, Journal, replaced_at
from arcbackupd.operations.restore.replaced import Replaced, ReplacedDatabases
from arcbackupd.operations.restore.server import Server
from arcbackupd.stack import Engine

_log = get_logger()


class Keeping:
    """The replaced databases of one installation."""

    def __init__(self, engine: Engine, backups: Backups, databases: ReplacedDatabases) -> None:
        self._engine = engine
        self._backups = backups
        self._databases = databases

    def snapshot(self, database: str, cancellation: Cancellation) -> Steps[str | None]:
        """Back a replaced database up; return the name, or ``None``: then it stays until it is discarded."""
        kept = self._databases.find(database)
        if kept is None or kept.snapshot:
            return kept.snapshot if kept else None
        try:
            outcome = yield from self._backups.snapshot(database, kept.replaced_at, cancellation)
        except ArcbackupdError as error:
            if error.code in INTERRUPTED:
                yield Notice(f"The safety backup of {database} waits: {error.message}")
                return None
            hint = "It is kept until `arcbackupctl discard-replaced`; `arcbackupctl rollback` brings it back."
            message = f"No safety backup could be taken of what was replaced ({database}): {error.message}"
            self._databases.put(kept.model_copy(update={"problem": error.message}))
            failure(OperationFailed(error.code, message, hint=hint), message_id=MessageId.SNAPSHOT_FAILED)
            yield Notice(message, hint)
            return None
        if present := self._databases.find(database):
            self._databases.put(present.model_copy(update={"snapshot": outcome.name, "problem": None}))
        return outcome.name

    def drop(self, which: Callable[[Replaced], bool]) -> Steps[list[str]]:
        """Drop those; return their names."""
        dropped = []
        for kept in [kept for kept in self._databases.all() if which(kept)]:
            yield Step("discard", f"Dropping {kept.database}")
            server = Server(self._engine, self._backups.installation())
            present = server.properties(kept.database)
            if present and present.oid == kept.oid:
                server.drop_live(present)
                dropped.append(kept.database)
                _log.info(
                    f"Dropped {kept.database}, which a restore replaced", message_id=MessageId.REPLACED_DROPPED
                )
            self._databases.remove(kept.database)
        return dropped

    def is_over(self, kept: Replaced) -> bool:
        """Whether one may be dropped: its time is over, and the backup that holds the same is there and good."""
        if not kept.over(datetime.now(UTC)) or self._backups.clock_doubt():
            return False
        return any(backup.name == kept.snapshot and backup.good for backup in self._backups.read())

    def adopt(self, server: Server, journal: Journal | None) -> None:
        """Forget those that are gone, and find those again of which nothing is known any more."""
        names = server.names_like(REPLACED_PREFIX)
        found = {name: server.properties(name) for name in names}
        for kept in self._databases.all():
            present = found.get(kept.database)
            if present is None or present.oid != kept.oid:
                self._databases.remove(kept.database)
        for name, present in found.items():
            busy = journal is not None and name in (journal.incoming, journal.replaced_as)
            if present and not busy and self._databases.find(name) is None:
                at = replaced_at(name)
                self._databases.put(
                    Replaced(database=name, oid=present.oid, replaced_at=at, keep_until=None, wanted=False)
                )
