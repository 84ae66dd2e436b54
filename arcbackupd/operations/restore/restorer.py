"""Restores as an operation's steps: what is looked at first, what is done, and what is told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.errors import NoSuchBackup, OperationFailed, Refused
from arcbackupd.log import get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.backups import Backups, Listed
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Notice, Step, Steps
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.operations.restore.checks import Refusal, Request, Situation, look, refusals, warnings
from arcbackupd.operations.restore.journal import STAGING_PREFIX, Journal, JournalFile, replaced_name
from arcbackupd.operations.restore.keeping import Keeping
from arcbackupd.operations.restore.replaced import Replaced, ReplacedDatabases
from arcbackupd.operations.restore.report import LastReport, Plan, PlannedStep, Report
from arcbackupd.operations.restore.run import Ended, carry_out, plan
from arcbackupd.operations.restore.run import take_up as resume
from arcbackupd.operations.restore.server import Server
from arcbackupd.operations.restore.services import Services
from arcbackupd.operations.restore.work import Work
from arcbackupd.settings import Settings
from arcbackupd.stack import Engine

_SWAPPED = ("restored", "rolled-back")
_log = get_logger()


class Restorer:
    """The restores of one installation, one at a time: who calls sees to that."""

    def __init__(self, settings: Settings, engine: Engine, backups: Backups, own_starts: OwnStarts) -> None:
        self._settings = settings
        self._engine = engine
        self._backups = backups
        self._own_starts = own_starts
        self._services = Services(engine, settings.restore.services_timeout)
        self.journal = JournalFile(settings.state_dir / "restore.json")
        """Of the one that has not ended."""
        self.replaced = ReplacedDatabases(settings.state_dir / "replaced.json")
        """What is known of the databases that are kept."""
        self.keeping = Keeping(engine, backups, self.replaced)
        """What becomes of those."""
        self.last = LastReport(settings.state_dir / "last-restore.json")
        """Of the last one that ended."""

    def plan(self, reference: str, request: Request) -> Plan:
        """What a restore would do. Blocking. Raise NoSuchBackup, or OperationFailed when it can't be told."""
        listed = self._backups.examine(reference)
        situation = self._situation(listed.backup)
        work = self._work(self._new_journal("plan", situation, listed.backup, request), situation, Cancellation())
        return Plan(
            kind="restore",
            name=listed.backup.name,
            database=situation.database,
            taken_at=listed.backup.taken_at,
            in_place=request.in_place,
            status=str(listed.compatibility.status),
            steps=_planned(work) if listed.backup.good else (),
            refusals=tuple(self._refusals(situation, request, listed)),
            warnings=tuple(_warnings(situation, listed)),
            migrations=listed.compatibility.only_in_code,
        )

    def plan_rollback(self) -> Plan:
        """What a rollback would do. Blocking. Raise Refused when there is nothing to bring back."""
        situation = self._situation(None)
        replaced = self._newest_replaced(situation.server)
        work = self._work(self._rollback_journal("plan", situation, replaced), situation, Cancellation())
        return Plan(
            kind="rollback",
            name=replaced.snapshot,
            database=situation.database,
            taken_at=replaced.replaced_at,
            in_place=False,
            status=None,
            steps=_planned(work),
            refusals=(),
            warnings=(),
            migrations=(),
        )

    def clean_up(self) -> None:
        """Drop staging databases that nothing is loaded into any more; find replaced ones that were forgotten."""
        server = self._server()
        staging = server.names_like(STAGING_PREFIX)
        journal = self.journal.read()  # after the names: one that begins now is noted before it is made
        for name in staging:
            if journal is None or journal.incoming != name:
                _log.warning(f"Dropping {name}, which an interrupted restore left")
                server.drop(name)
        self.keeping.adopt(server, journal)

    def restore(self, identity: str, name: str, request: Request, cancellation: Cancellation) -> Steps[Report]:
        """Restore a backup. Raise what stands in the way, or went wrong; the error says how things stand then."""
        yield Step("look", f"Looking whether {name} can be restored")
        dropped = yield from self._resolve_unfinished(cancellation, standing_in=True)
        listed = self._backups.examine(name)
        if listed.backup.name != name:
            raise NoSuchBackup("no-such-backup", f"There is no backup named {name}.", hint="`arcbackupctl list`.")
        situation = self._situation(listed.backup)
        for refusal in self._refusals(situation, request, listed):
            raise refusal.error()
        for text in _warnings(situation, listed):
            yield Notice(text)
        journal = self._new_journal(identity, situation, listed.backup, request)
        if dropped:
            journal = _instead_of(dropped, journal)
        return (yield from self._carry_out(self._work(journal, situation, cancellation)))

    def rollback(self, identity: str, cancellation: Cancellation) -> Steps[Report]:
        """Bring back what was replaced last. Raise as `restore` does."""
        yield Step("look", "Looking whether it can be brought back")
        yield from self._resolve_unfinished(cancellation, standing_in=False)
        situation = self._situation(None)
        replaced = self._newest_replaced(situation.server)
        journal = self._rollback_journal(identity, situation, replaced)
        return (yield from self._carry_out(self._work(journal, situation, cancellation)))

    def _carry_out(self, work: Work) -> Steps[Report]:
        with ExitStack() as window:
            work.expect_starts = self._expecting(window)
            ended = yield from carry_out(work)
        return self._end(work, ended)

    def take_up(self, cancellation: Cancellation) -> Steps[Report]:
        """Finish or undo an interrupted one. Raise as `restore` does."""
        journal = self.journal.read()
        if journal is None:
            raise OperationFailed("nothing-interrupted", "No restore was interrupted.")
        work, ended = yield from self._resume(journal, cancellation)
        return self._end(work, ended)

    def _resume(self, journal: Journal, cancellation: Cancellation) -> Steps[tuple[Work, Ended]]:
        work = self._work(journal, self._situation(None, journal.database), cancellation)
        with ExitStack() as window:
            work.expect_starts = self._expecting(window, journal.stopped_at)
            if journal.stopped_at:
                work.expect_starts()
            return work, (yield from resume(work))

    def _expecting(self, window: ExitStack, since: datetime | None = None) -> Callable[[], None]:
        """What begins, once, the time in which starts of the backend are the restore's own."""
        begun = threading.Event()

        def expect() -> None:
            if not begun.is_set():
                begun.set()
                window.enter_context(self._own_starts.expected(since))

        return expect

    def _resolve_unfinished(self, cancellation: Cancellation, *, standing_in: bool) -> Steps[Journal | None]:
        """Finish or undo an interrupted restore first.

        In place there may be no database left to return to: a new restore is ``standing_in`` for that one then,
        whose journal is returned.
        """
        journal = self.journal.read()
        if journal is None:
            return None
        if (
            standing_in
            and journal.in_place
            and journal.live
            and self._server().properties(journal.database) is None
        ):
            self._server().drop(journal.incoming)
            return journal
        work, ended = yield from self._resume(journal, cancellation)
        self._note_end(work, ended)
        if ended.problem and ended.outcome == "unfinished":
            raise ended.problem
        return None

    def _end(self, work: Work, ended: Ended) -> Report:
        """The report of what went well. Raise what didn't."""
        report = self._note_end(work, ended)
        if ended.problem:
            raise ended.problem
        return report

    def _note_end(self, work: Work, ended: Ended) -> Report:
        report = self._report(work, ended)
        self.last.write(report)
        if ended.outcome in _SWAPPED:
            self._backups.anomalies.replaced(report.finished_at)
            _log_ended(report)
        return report

    def _report(self, work: Work, ended: Ended) -> Report:
        journal, now = work.journal, datetime.now(UTC)
        swapped = ended.outcome in _SWAPPED
        kept = self.replaced.find(journal.replaced_as) if journal.replaced_as and swapped else None
        down = (now - journal.stopped_at).total_seconds() if journal.stopped and journal.stopped_at else None
        problem = ended.problem
        return Report(
            operation=journal.operation,
            kind=journal.kind,
            name=journal.backup,
            database=journal.database,
            outcome=ended.outcome,
            started_at=journal.started_at,
            finished_at=now,
            downtime_s=None if down is None else round(down, 3),
            snapshot=journal.snapshot,
            replaced=kept.database if kept else None,
            keep_until=kept.keep_until if kept else None,
            problem=problem.message if problem else None,
            code=problem.code if problem else None,
            hint=problem.hint if problem else None,
        )

    def _new_journal(self, identity: str, situation: Situation, backup: Backup, request: Request) -> Journal:
        live = situation.live
        beside = live is not None and not request.in_place
        return Journal(
            operation=identity,
            kind="restore",
            backup=backup.name,
            database=situation.database,
            live=live,
            incoming=f"{STAGING_PREFIX}{identity}",
            replaced_as=replaced_name(identity) if beside else None,
            safety_backup=request.safety_backup and live is not None,
            create_roles=situation.missing_roles if request.create_missing_roles else (),
        )

    def _rollback_journal(self, identity: str, situation: Situation, replaced: Replaced) -> Journal:
        return Journal(
            operation=identity,
            kind="rollback",
            backup=replaced.snapshot,
            database=situation.database,
            live=situation.live,
            incoming=replaced.database,
            incoming_oid=replaced.oid,
            replaced_as=replaced_name(identity) if situation.live else None,
            safety_backup=True,
        )

    def _work(self, journal: Journal, situation: Situation, cancellation: Cancellation) -> Work:
        return Work(
            journal=journal,
            file=self.journal,
            situation=situation,
            engine=self._engine,
            services=self._services,
            replaced=self.replaced,
            find=self._find,
            snapshot=self._backups.snapshot,
            keep_replaced=self._settings.restore.keep_replaced,
            cancellation=cancellation,
        )

    def _find(self, name: str) -> tuple[Backup, Path]:
        backup = self._backups.examine(name).backup
        if not backup.good:
            why = backup.problem or backup.unreadable or "it was not scanned yet"
            raise OperationFailed("broken-backup", f"{name} can't be restored: {why}.", hint="Restore another one.")
        return backup, self._backups.directory() / name

    def _situation(self, backup: Backup | None, database: str | None = None) -> Situation:
        return look(
            self._server(), database or self._backups.installation().database, backup.roles if backup else ()
        )

    def _server(self) -> Server:
        return Server(self._engine, self._backups.installation())

    def _refusals(self, situation: Situation, request: Request, listed: Listed) -> Iterator[Refusal]:
        directory = self._backups.directory()
        newest = self._backups.newest_good()
        size = newest.size if newest else 0
        return refusals(situation, request, listed.backup, listed.compatibility, directory, size)

    def _newest_replaced(self, server: Server) -> Replaced:
        """The one to bring back, which is there. Raise Refused when there is none."""
        self.keeping.adopt(server, self.journal.read())
        if kept := self.replaced.all():
            return kept[0]
        hint = "`arcbackupctl list` shows what can be restored."
        raise Refused(
            "nothing-to-roll-back", "No replaced database is kept: there is nothing to bring back.", hint=hint
        )


def _warnings(situation: Situation, listed: Listed) -> Iterator[str]:
    anomalies = listed.judgement.anomalies if listed.judgement.flagged else ()
    return warnings(situation, listed.backup, listed.compatibility, anomalies)


def _instead_of(dropped: Journal, journal: Journal) -> Journal:
    """The journal of a restore that stands in for one that dropped the database and got no further."""
    owed = dropped.model_dump(include={"live", "stopped", "stopped_at", "snapshot"})
    return journal.model_copy(
        update={**owed, "live": dropped.live, "replaced_as": None, "safety_backup": False, "dropped_before": True}
    )


def _planned(work: Work) -> tuple[PlannedStep, ...]:
    return tuple(PlannedStep(step.name, step.text, tuple(step.commands())) for step in plan(work))


def _log_ended(report: Report) -> None:
    down = f"; the services were down for {report.downtime_s:.1f} s" if report.downtime_s is not None else ""
    back = (
        f" Until {report.keep_until:%Y-%m-%d %H:%M} UTC `arcbackupctl rollback` undoes it."
        if report.keep_until
        else ""
    )
    what = f"Restored {report.name}" if report.outcome == "restored" else "Rolled back the last restore"
    _log.info(
        f"{what} into {report.database}{down}.{back}",
        message_id=MessageId.RESTORE_DONE,
        backup=report.name,
        replaced=report.replaced,
        downtime_s=report.downtime_s,
    )
