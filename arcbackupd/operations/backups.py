"""The backups of one installation: what can be asked of them and done with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from arcbackupd.dumps.anomalies import HEALTHY, Judgement
from arcbackupd.dumps.catalogue import Backup, Catalogue
from arcbackupd.dumps.compatibility import Badge, Compatibility, compare
from arcbackupd.dumps.manifest import Reason
from arcbackupd.dumps.names import Kind, is_ahead
from arcbackupd.dumps.reference import resolve
from arcbackupd.dumps.retention import Policy
from arcbackupd.dumps.writer import DirectoryLock, sweep_partials
from arcbackupd.errors import ArcbackupdError
from arcbackupd.installation import Installation, read_installation
from arcbackupd.log import failure, get_logger, redact
from arcbackupd.messages import MessageId
from arcbackupd.operations.anomalies import Anomalies, flagged
from arcbackupd.operations.backend import Backend, CodeMigrations
from arcbackupd.operations.backups_dir import disk_error
from arcbackupd.operations.before import BootDump
from arcbackupd.operations.cancellation import BACKEND_STOPPED, SUPERSEDED, Cancellation
from arcbackupd.operations.database import Database
from arcbackupd.operations.drill.records import DrillRecord, DrillRecords, record_of
from arcbackupd.operations.events import Notice, Steps
from arcbackupd.operations.prune import PruneOutcome, RetentionPlan, logged, plan_outlook, plan_prune, prune
from arcbackupd.operations.queue import GIVING_WAY, Operation, OperationQueue, Priority
from arcbackupd.operations.take import TakeContext, TakeOutcome, take
from arcbackupd.operations.verify import Verified, verify_file
from arcbackupd.settings import Settings
from arcbackupd.stack import Engine

_PRIORITIES = {Reason.BOOT: Priority.BOOT, Reason.MANUAL: Priority.MANUAL, Reason.SCHEDULED: Priority.SCHEDULED}
_NO_FAILURE = (SUPERSEDED, BACKEND_STOPPED)
"""Codes of the errors of dumps that were given up because there is, or will be, a better one."""
LOCAL = "local"
"""Where a backup is that is on this host."""
_log = get_logger()


@dataclass(frozen=True)
class Listed:
    """A backup as `list` tells of it: its place, newest first from 1, and how it fits the running code."""

    index: int
    backup: Backup
    compatibility: Compatibility
    stored: tuple[str, ...] = (LOCAL,)
    """Where it is: here, and the destinations that have it."""
    judgement: Judgement = HEALTHY
    """What it lost against its history."""
    drill: DrillRecord | None = None
    """The last drill that says something of it."""

    @property
    def here(self) -> bool:
        """Whether it is on this host."""
        return LOCAL in self.stored


class Elsewhere(Protocol):
    """What is known of copies off this host."""

    def where(self, backup: Backup) -> tuple[str, ...]:
        """The destinations that have a backup."""

    def only_there(self, here: Container[str]) -> list[Backup]:
        """The backups that are at a destination, and under none of those names here."""


class Backups:
    """Everything that reads the installation does so now: operators rotate passwords and move directories."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        queue: OperationQueue,
        host: str,
        clock_doubt: Callable[[], str | None],
        catalogue: Catalogue,
    ) -> None:
        """``catalogue`` is one that others use too: what two of them note would overwrite each other."""
        self._settings = settings
        self._engine = engine
        self._queue = queue
        self.clock_doubt = clock_doubt
        """Why the clock can't be trusted; ``None`` while it can."""
        self._noticed: set[str] = set()
        self.host = host
        """Identity of this host, as manifests have it."""
        self.backend = Backend(engine, settings.engine.manage, settings.state_dir / "migrations.json")
        """The backend whose migrations decide on compatibility."""
        self.catalogue = catalogue
        """What is known of the files."""
        self.anomalies = Anomalies(settings.state_dir / "anomalies.json", settings.anomalies)
        """What is right about backups that lost much."""
        self.elsewhere: Callable[[], Elsewhere] | None = None
        """What is known of copies off this host, if any are made."""
        self.drills = DrillRecords(settings.state_dir / "drills.json")
        """What drills have shown of them."""
        self.last_dump_failure: str | None = None
        """Why the last dump since the start failed, whoever asked for it; ``None`` when it didn't."""

    def succeed(self, previous: Backups) -> None:
        """Take over what the operations of the configuration before have learned."""
        self._noticed = previous._noticed
        self.last_dump_failure = previous.last_dump_failure

    # Looking.

    def installation(self) -> Installation:
        """The installation's ``.env`` as it is now. Raise OperationFailed when it can't be used."""
        installation = read_installation(self._settings.install_dir)
        redact(installation.password.get_secret_value())
        return installation

    def directory(self) -> Path:
        """Where the backups are. Raise OperationFailed when ``.env`` can't be used."""
        return read_installation(self._settings.install_dir, with_password=False).backups_dir

    def list(self) -> list[Listed]:
        """All backups with their badges, those off this host too: newest first, and last those named in the future.

        Blocking, and slow when the backend has to be asked.
        """
        here = self.catalogue.read(self.directory())
        names = {backup.name for backup in here}
        elsewhere = self.elsewhere() if self.elsewhere else None
        there = elsewhere.only_there(names) if elsewhere else []
        judged = self.anomalies.judge([*here, *there])
        # Who asks for the latest shall not get, for a month say, what a clock named that ran ahead by one.
        backups = sorted([*here, *there], key=_recency, reverse=True)
        code = self.backend.migrations() if backups else CodeMigrations(None)

        def stored(backup: Backup) -> tuple[str, ...]:
            local = (LOCAL,) if backup.name in names else ()
            return local + (elsewhere.where(backup) if elsewhere else ())

        drills = self.drills.all()
        return [
            Listed(
                index,
                backup,
                _compatibility(backup, code),
                stored(backup),
                judged.get(backup.name, HEALTHY),
                record_of(backup, drills),
            )
            for index, backup in enumerate(backups, 1)
        ]

    def find(self, reference: str) -> Listed:
        """The backup that a reference means. Raise NoSuchBackup when it means none, or several."""
        listed = self.list()
        name = resolve(reference, [entry.backup.name for entry in listed])
        return next(entry for entry in listed if entry.backup.name == name)

    def examine(self, reference: str, between: Callable[[], None] = lambda: None) -> Listed:
        """The backup that a reference means, scanned now if nothing is known of it yet. Raise NoSuchBackup.

        The scan of a large one takes minutes: what ``between`` its blocks raises ends it.
        """
        listed = self.find(reference)
        if listed.backup.state != "unscanned":
            return listed
        self.catalogue.scan(self.directory(), listed.backup, time.time(), between)
        return self.find(listed.backup.name)

    def read(self) -> Sequence[Backup]:
        """All backups, newest first, without their badges."""
        return self.catalogue.read(self.directory())

    def judged(self, here: Sequence[Backup] | None = None) -> Mapping[str, Judgement]:
        """What each backup lost against its history, by name; those that are only off this host are history too."""
        here = self.read() if here is None else here
        there = self.elsewhere().only_there({backup.name for backup in here}) if self.elsewhere else []
        return self.anomalies.judge([*here, *there])

    def newest_good(self) -> Backup | None:
        """The newest backup that is proved complete, other than the snapshots of restores."""
        return next(self.good(), None)

    def newest_automatic(self) -> Backup | None:
        """The newest good one that the daemon took by itself."""
        return next((backup for backup in self.good() if backup.reason.automatic), None)

    def plan_prune(self) -> RetentionPlan:
        """What pruning now would do."""
        return plan_prune(self.catalogue, self.directory(), self._policy(), self.host, self.clock_doubt, self.flags)

    def flags(self, here: Sequence[Backup]) -> set[str]:
        """Names of those that are flagged for what they lost against their history, off this host too."""
        return flagged(self.judged(here))

    def outlook(self, every: timedelta) -> dict[str, datetime]:
        """When each backup will go, by name, if a good dump comes ``every`` so often; see `dumps.outlook`."""
        return plan_outlook(self.catalogue, self.directory(), self._policy(), self.host, every, self.flags)

    def verify(self, backup: Backup) -> Steps[Verified]:
        """Read a backup whole and check it against its hashes."""
        return verify_file(self.directory() / backup.name, backup)

    # Doing.

    async def settled(self) -> None:
        """Wait until no dump runs or waits any more."""
        while dumping := self._queue.of_kind("dump"):
            await asyncio.wait([dumping.result])

    def take(self, reason: Reason, boot: BootDump | None = None) -> Operation[TakeOutcome]:
        """Queue a dump; its outcome is the operation's ``result``, and the journal's.

        One for a ``boot`` of the backend, which stands still meanwhile, takes over from any other that runs.
        """

        def start(cancellation: Cancellation) -> Steps[TakeOutcome]:
            return self._logged_take(self._take(reason, cancellation, boot))

        if boot:
            why, hint = "the backend started, whose own dump comes now", "That one has the same, and is newer."
            self._queue.supersede(("dump",), why, hint)
        if reason is not Reason.SCHEDULED:
            self._queue.supersede(GIVING_WAY, f"a {reason} dump is wanted now", "The next drill comes by itself.")
        return self._queue.submit("dump", start, _PRIORITIES[reason], job="dump", reason=str(reason))

    def snapshot(self, database: str, moment: datetime, cancellation: Cancellation) -> Steps[TakeOutcome]:
        """Take the pre-restore backup of a database, named after the moment from which its data are."""
        context = self._take_context()
        subject = Database(self._engine, context.installation, database)
        steps = take(replace(context, database=subject, taken_at=moment), Reason.PRE_RESTORE, cancellation)
        outcome = yield from self._with_notices(steps)
        _log_taken(outcome)
        return outcome

    def prune(self) -> Operation[PruneOutcome]:
        """Queue a pruning."""

        def start(cancellation: Cancellation) -> Steps[PruneOutcome]:
            return logged(self._prune(cancellation))

        return self._queue.submit("prune", start, Priority.SCHEDULED, job="prune")

    def scan_one(self) -> bool:
        """Scan one dump that has no manifest, if one waits; return whether there was one. Blocking."""
        scanned = self.catalogue.scan_pending(self.directory(), time.time())
        if scanned:
            _log.info(
                "Scanned a dump that has no manifest",
                backup=scanned.name,
                problem=scanned.problem or scanned.unreadable,
            )
        return scanned is not None

    def clean_up(self) -> None:
        """Undo what a daemon that was killed left behind: partial files, and dumps still running on the server."""
        installation = self.installation()
        if installation.world_readable:
            _log.warning(
                ".env can be read by everyone on this host", hint="`chmod 600 .env` in the install directory"
            )
        directory = installation.backups_dir
        if not directory.is_dir():
            return
        try:
            with DirectoryLock(directory) as lock:
                # Held for both: the dump of somebody who called at once must not be taken for an abandoned one.
                if lock.acquire():
                    self._clean_up(directory, Database(self._engine, installation))
        except OSError as error:
            raise disk_error(error, directory) from error

    def _clean_up(self, directory: Path, database: Database) -> None:
        for name in sweep_partials(directory):
            _log.warning("Removed what an interrupted dump left", backup=name)
        if ended := database.end_dumps():
            _log.warning(f"Ended {ended} abandoned pg_dump on the database server")

    def _take(self, reason: Reason, cancellation: Cancellation, boot: BootDump | None = None) -> Steps[TakeOutcome]:
        """Reads the installation as its first step, so that what is wrong there is told like everything else."""
        context = replace(self._take_context(), boot=boot)
        return (yield from take(context, reason, cancellation))

    def _prune(self, cancellation: Cancellation) -> Steps[PruneOutcome]:
        directory, policy, doubt = self.directory(), self._policy(), self.clock_doubt
        return (yield from prune(self.catalogue, directory, policy, self.host, doubt, cancellation, self.flags))

    def _logged_take(self, steps: Steps[TakeOutcome]) -> Steps[TakeOutcome]:
        try:
            outcome = yield from self._with_notices(steps)
        except ArcbackupdError as error:
            if error.code in _NO_FAILURE:
                _log.info(error.message, hint=error.hint, error_code=error.code)
            else:
                failure(error, message_id=MessageId.DUMP_FAILED)
                self.last_dump_failure = error.message
            raise
        self.last_dump_failure = None
        if outcome.outcome == "used":
            _log.info(f"{outcome.name} was taken just before this start and stands for it", backup=outcome.name)
        elif outcome.name:
            _log_taken(outcome)
            with suppress(ArcbackupdError):  # it is published, whatever becomes of its directory
                yield from self.anomalies.tell(outcome.name, self.judged().get(outcome.name, HEALTHY))
        return outcome

    def _with_notices(self, steps: Steps[TakeOutcome]) -> Steps[TakeOutcome]:
        """Let what is noticed reach the journal too, but not every hour anew."""
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                outcome: TakeOutcome = stop.value
                return outcome
            if isinstance(event, Notice) and event.text not in self._noticed:
                self._noticed.add(event.text)
                _log.warning(event.text, hint=event.hint)
            yield event

    def good(self) -> Iterator[Backup]:
        """Those proved complete, newest first, other than the snapshots of restores."""
        backups = self.catalogue.read(self.directory())
        # A name in the future, from a clock that was wrong, must not hide for as long that no dump succeeds.
        return (b for b in backups if b.good and b.kind is Kind.BACKUP and not is_ahead(b.taken_at))

    def _policy(self) -> Policy:
        return Policy(**self._settings.retention.model_dump())

    def _take_context(self) -> TakeContext:
        installation = self.installation()
        return TakeContext(
            installation=installation,
            database=Database(self._engine, installation),
            settings=self._settings.dump,
            catalogue=self.catalogue,
            host=self.host,
            backend_image=self.backend.image,
            touched=self.drills.touched,
        )


def _recency(backup: Backup) -> tuple[bool, datetime, Kind]:
    return not is_ahead(backup.taken_at), backup.taken_at, backup.kind


def _compatibility(backup: Backup, code: CodeMigrations) -> Compatibility:
    if backup.unreadable:
        return Compatibility(Badge.UNKNOWN, annotation=backup.unreadable)
    scanned = backup.state != "unscanned"
    return compare(
        backup.migrations, code.names, broken=backup.problem, scanned=scanned, why_no_code=code.why_unknown
    )


def _log_taken(outcome: TakeOutcome) -> None:
    unchanged = outcome.outcome == "unchanged"
    _log.info(
        f"Took {outcome.name}" + (", unchanged since the last one" if unchanged else ""),
        message_id=MessageId.DUMP_UNCHANGED if unchanged else MessageId.DUMP_PUBLISHED,
        backup=outcome.name,
        bytes=outcome.size,
        sql_bytes=outcome.sql_length,
        duration_s=outcome.duration_s,
    )
