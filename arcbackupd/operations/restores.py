"""Restores of one installation: what can be asked of them and done with them."""

from __future__ import annotations

from typing import Any, NoReturn

from arcbackupd.errors import ArcbackupdError, Busy
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Notice, Step, Steps
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.operations.queue import GIVING_WAY, Operation, OperationQueue, Priority, new_identity
from arcbackupd.operations.restore.checks import Request
from arcbackupd.operations.restore.replaced import Replaced
from arcbackupd.operations.restore.report import Plan, Report
from arcbackupd.operations.restore.restorer import Restorer
from arcbackupd.settings import Settings
from arcbackupd.stack import Engine

RESTORING = ("restore", "rollback")
"""Kinds of operations that nothing else is asked for beside."""
_log = get_logger()


class Restores:
    """Plans, restores, rollbacks, and what they leave behind. One at a time, after what runs."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        queue: OperationQueue,
        backups: Backups,
        own_starts: OwnStarts,
    ) -> None:
        self._queue = queue
        self._restorer = Restorer(settings, engine, backups, own_starts)

    # Looking.

    def plan(self, reference: str, request: Request) -> Plan:
        """What a restore would do. Blocking. Raise NoSuchBackup, or OperationFailed when it can't be told."""
        return self._restorer.plan(reference, request)

    def plan_rollback(self) -> Plan:
        """What a rollback would do. Blocking. Raise Refused when there is nothing to bring back."""
        return self._restorer.plan_rollback()

    def replaced(self) -> list[Replaced]:
        """The databases that are kept, newest first."""
        return self._restorer.replaced.all()

    def last(self) -> Report | None:
        """How the last restore or rollback ended."""
        return self._restorer.last.read()

    def trouble(self) -> ArcbackupdError | None:
        """What stands in the way of the journal itself."""
        try:
            self._restorer.journal.read()
        except ArcbackupdError as error:
            return error
        return None

    def unfinished(self) -> bool:
        """Whether one was interrupted and is neither finished nor undone yet."""
        running = self._queue.of_kind(*RESTORING)
        return running is None and self._restorer.journal.exists()

    # Doing.

    def restore(self, name: str, request: Request) -> Operation[Report]:
        """Queue a restore. Raise Busy when one is at work."""
        self._refuse_beside_another()
        self._queue.supersede(GIVING_WAY, "a restore was asked for")
        identity = new_identity()

        def start(cancellation: Cancellation) -> Steps[Report]:
            return _reported(self._restorer.restore(identity, name, request, cancellation))

        operation = self._queue.submit("restore", start, Priority.RESTORE, identity=identity, backup=name)
        return self._take_snapshots_after(operation)

    def rollback(self) -> Operation[Report]:
        """Queue a rollback; a snapshot of what is brought back is of no use any more. Raise Busy, or Refused."""
        self._refuse_beside_another()
        self._queue.supersede(GIVING_WAY, "a rollback was asked for")
        identity = new_identity()

        def start(cancellation: Cancellation) -> Steps[Report]:
            return _reported(self._restorer.rollback(identity, cancellation))

        operation = self._queue.submit("rollback", start, Priority.RESTORE, identity=identity)
        current = self._queue.current
        if current and current.kind == "snapshot":
            current.cancellation.cancel("a rollback was asked for")
        return self._take_snapshots_after(operation)

    def take_up(self) -> Operation[Report] | None:
        """Queue what finishes or undoes an interrupted one; ``None`` when there is none."""
        if not self.unfinished():
            return None

        def start(cancellation: Cancellation) -> Steps[Report]:
            return _reported(self._restorer.take_up(cancellation))

        self._queue.supersede(GIVING_WAY, "an interrupted restore is finished first")
        # Under the id that the interrupted one had: who waits for that one finds it.
        operation = self._queue.submit(
            "restore", start, Priority.RESTORE, identity=self._restorer.journal.operation()
        )
        return self._take_snapshots_after(operation)

    def take_snapshots(self) -> list[Operation[str | None]]:
        """Queue the backups of replaced databases that should have one and have none."""
        wanted = [kept for kept in self._restorer.replaced.all() if kept.wanted and kept.snapshot is None]
        queued = self._queue.of_kind("snapshot")
        return [] if queued else [self._take_snapshot(kept.database) for kept in wanted]

    def discard(self) -> Operation[list[str]]:
        """Queue the dropping of all databases that are replaced by now, not of one that is replaced meanwhile."""
        kept = {replaced.oid for replaced in self._restorer.replaced.all()}
        return self._queue.submit(
            "discard", lambda _: self._restorer.keeping.drop(lambda r: r.oid in kept), Priority.MANUAL
        )

    def expire(self) -> Operation[list[str]]:
        """Queue the dropping of those whose time is over and whose snapshot is there."""
        return self._queue.submit(
            "discard",
            lambda _: self._restorer.keeping.drop(self._restorer.keeping.is_over),
            Priority.SCHEDULED,
            job="discard",
        )

    def clean_up(self) -> None:
        """Drop staging databases that nothing is loaded into any more; find replaced ones that were forgotten."""
        self._restorer.clean_up()

    def _take_snapshot(self, database: str) -> Operation[str | None]:
        def start(cancellation: Cancellation) -> Steps[str | None]:
            return self._restorer.keeping.snapshot(database, cancellation)

        return self._queue.submit("snapshot", start, Priority.BOOT, job="dump", reason="pre-restore")

    def _refuse_beside_another(self) -> None:
        if other := self._queue.of_kind(*RESTORING):
            refuse_beside(other)

    def _take_snapshots_after(self, operation: Operation[Report]) -> Operation[Report]:
        operation.result.add_done_callback(lambda _: self.take_snapshots())
        return operation


def _reported(steps: Steps[Report]) -> Steps[Report]:
    """Let the journal follow it too."""
    try:
        while True:
            event = next(steps)
            if isinstance(event, Step):
                _log.info(event.text, step=event.name)
            elif isinstance(event, Notice):
                _log.warning(event.text, hint=event.hint)
            yield event
    except StopIteration as stop:
        report: Report = stop.value
        return report
    except ArcbackupdError as error:
        failure(error, message_id=MessageId.RESTORE_FAILED)
        raise


def refuse_beside(other: Operation[Any]) -> NoReturn:
    """Raise Busy for what can't be done beside a restore or rollback."""
    since = f" since {other.started_at:%H:%M:%S} UTC" if other.started_at else ""
    hint = "`arcbackupctl restore --attach` shows it."
    raise Busy("busy", f"A {other.kind} is at work{since}; try again when it has ended.", hint=hint)
