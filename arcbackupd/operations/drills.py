"""Restore drills of one installation: what can be asked for, when they are put off, and what they leave behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.errors import ArcbackupdError, OperationFailed, Refused, UsageError
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.niceness import NORMAL, Niceness
from arcbackupd.operations.backups import Backups, Listed
from arcbackupd.operations.cancellation import SUPERSEDED, Cancellation, Cancelled
from arcbackupd.operations.drill.notes import Notes
from arcbackupd.operations.drill.prove import Drill, prove
from arcbackupd.operations.drill.records import DrillRecord
from arcbackupd.operations.drill.scratch import (
    BesideTheLive,
    InContainer,
    Scratch,
    containers_left,
    remove_container,
    remove_database,
)
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.queue import DRILL, REAP, Operation, OperationQueue, Priority
from arcbackupd.operations.restore.server import Server
from arcbackupd.operations.restores import RESTORING, Restores, refuse_beside
from arcbackupd.postgres.databases import MAINTENANCE
from arcbackupd.settings import Settings
from arcbackupd.stack import Engine
from arcbackupd.stack.throwaway import Throwaways

NOTHING_TO_DRILL = "nothing-to-drill"
_SERVER_COMES = timedelta(minutes=2)
_PAUSE_SECONDS = 0.5
_log = get_logger()


class Drills:
    """One at a time, and after what runs; every dump that somebody waits for, and every restore, ends one."""

    def __init__(
        self, settings: Settings, engine: Engine, queue: OperationQueue, backups: Backups, restores: Restores
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._queue = queue
        self._backups = backups
        self._restores = restores
        self._notes = Notes(settings.state_dir / "drill.json")
        # Another daemon on this host, with a state directory of its own, has containers of its own.
        owner = hashlib.sha256(f"{backups.host} {settings.state_dir}".encode()).hexdigest()[:32]
        self._throwaways = engine.throwaways(owner)

    def scheduled(self) -> Operation[DrillRecord]:
        """Queue a drill of the newest good backup. Its result is Refused when it is put off."""

        def start(cancellation: Cancellation) -> Steps[DrillRecord]:
            niceness = Niceness(self._settings.dump.niceness, self._settings.dump.io_class)
            return self._drill(None, niceness, cancellation)

        return self._submit(start, Priority.SCHEDULED)

    def verify(self, reference: str) -> Operation[DrillRecord]:
        """Queue a drill of one backup. Raise Busy beside a restore."""
        if other := self._queue.of_kind(*RESTORING):
            refuse_beside(other)

        def start(cancellation: Cancellation) -> Steps[DrillRecord]:
            return self._drill(reference, NORMAL, cancellation)

        return self._submit(start, Priority.PATIENT)

    def reap(self) -> None:
        """Queue the removal of what drills left that didn't come to their end, if there may be something."""
        in_containers = self._settings.drill.place == "container"  # which are found without our notes, too
        if not (in_containers or self._notes.all()):
            return
        operation = self._queue.submit(REAP, self._reap, Priority.SCHEDULED, job="drill")
        operation.result.add_done_callback(self._reap_again)

    def _submit(
        self, start: Callable[[Cancellation], Steps[DrillRecord]], priority: Priority
    ) -> Operation[DrillRecord]:
        operation = self._queue.submit(DRILL, start, priority, job="drill")
        operation.result.add_done_callback(lambda _: self.reap())
        return operation

    def _reap_again(self, reaped: asyncio.Future[None]) -> None:
        error = None if reaped.cancelled() else reaped.exception()
        if isinstance(error, ArcbackupdError) and error.code == SUPERSEDED:
            self.reap()
        elif isinstance(error, ArcbackupdError) and self._notes.all():
            _log.warning(f"What an interrupted drill left could not be removed: {error.message}", hint=error.hint)

    # In the operation's thread.

    def _drill(self, reference: str | None, niceness: Niceness, cancellation: Cancellation) -> Steps[DrillRecord]:
        yield Step("look", "Looking which backup to drill, and whether now")
        if reference is None:
            self._refuse_now()
        backup = self._newest() if reference is None else self._examined(reference, cancellation).backup
        directory = self._backups.directory()
        place = self._settings.drill.place
        drill = Drill(backup, directory / backup.name, place, self._scratch(), niceness)
        try:
            record = yield from prove(drill, cancellation)
        except Cancelled as error:
            _log.info(f"The drill of {backup.name} was interrupted because {error.why}", backup=backup.name)
            raise
        self._backups.drills.note(record)
        _tell(record)
        return record

    def _scratch(self) -> Scratch:
        installation = self._backups.installation()
        live = Server(self._engine, installation)
        if self._settings.drill.place == "database":
            return BesideTheLive(live, installation.database, self._notes)
        if self._throwaways is None:  # the settings refuse it
            raise UsageError("configuration", "There are no containers to drill in.")
        return InContainer(self._throwaways, installation, live, self._notes)

    def _examined(self, reference: str, cancellation: Cancellation) -> Listed:
        listed = self._backups.examine(reference, cancellation.check)
        if not listed.here:
            name = listed.backup.name
            raise Refused(
                "only-off-host", f"{name} is not on this host.", hint=f"`arcbackupctl fetch {name}` first."
            )
        return listed

    def _newest(self) -> Backup:
        """The newest good backup; beside the live database one that this host says it took: see docs/drills.md."""
        container = self._settings.drill.place == "container"
        for backup in self._backups.good():
            if container or (backup.manifest and backup.manifest.host == self._backups.host):
                return backup
        message = "There is no good backup to drill" + ("." if container else " that this host took.")
        raise Refused(NOTHING_TO_DRILL, message, hint="`arcbackupctl backup` takes one now.")

    def _refuse_now(self) -> None:
        if why := next(self._in_the_way(), ""):
            raise Refused("drill-postponed", f"The drill is left out, because {why}.", hint="The next one comes.")

    def _in_the_way(self) -> Iterator[str]:
        if self._restores.unfinished() or self._queue.of_kind(*RESTORING):
            yield "a restore or rollback is under way"
        if any(kept.wanted and not kept.snapshot and not kept.problem for kept in self._restores.replaced()):
            yield "the safety backup of a restore is still to be taken"
        busy, limit = os.getloadavg()[1] / (os.cpu_count() or 1), self._settings.drill.max_load
        if busy > limit:
            yield f"the host is busy: its load is {busy:.1f} for each processor, and drill.max_load is {limit:g}"

    def _reap(self, cancellation: Cancellation) -> Steps[None]:
        yield Step("reap", "Removing what an interrupted drill left")
        databases = [made for made in self._notes.all() if made.kind == "database"]
        if self._throwaways:
            self._reap_containers(self._throwaways, cancellation)
        if databases:
            server = Server(self._engine, self._backups.installation())
            server.database(MAINTENANCE).wait_until_accepting(_SERVER_COMES, cancellation, starting=True)
            for made in databases:
                _log.warning(f"Dropping {made.name}, which an interrupted drill left")
                yield from remove_database(server, made, self._notes, cancellation)

    def _reap_containers(self, throwaways: Throwaways, cancellation: Cancellation) -> None:
        """Found by their label, should the notes be lost, and by the notes, should the label be another one now."""
        if left := self._containers_left(throwaways, cancellation):
            _log.warning(f"Removing {len(left)} containers that an interrupted drill left")
        for identity in left:
            remove_container(throwaways, identity, cancellation)
        for made in self._notes.all():
            if made.kind == "container":
                remove_container(throwaways, made.name, cancellation)
                self._notes.remove(made.name)

    def _containers_left(self, throwaways: Throwaways, cancellation: Cancellation) -> list[str]:
        """Waits for an engine that restarts, if it surely has something of a drill's."""
        deadline = time.monotonic() + _SERVER_COMES.total_seconds()
        while True:
            try:
                return containers_left(throwaways, cancellation)
            except OperationFailed:
                if not self._notes.all() or time.monotonic() > deadline:
                    raise
            cancellation.wait(_PAUSE_SECONDS)


def _tell(record: DrillRecord) -> None:
    if record.proved:
        _log.info(
            f"{record.name} is proved restorable, in {record.duration_s:.1f} s",
            message_id=MessageId.DRILL_PROVED,
            backup=record.name,
            bytes=record.bytes,
            duration_s=record.duration_s,
            load_s=record.load_s,
        )
        return
    what = "failed its restore drill" if record.outcome == "failed" else "could not be drilled"
    error = OperationFailed(
        record.code or "failed", f"{record.name} {what}: {record.problem}", hint=record.hint or ""
    )
    failure(error, message_id=MessageId.DRILL_FAILED, backup=record.name)
