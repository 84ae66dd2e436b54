"""Take a dump: stream, compress, hash and scan it, prove it, publish it.

docs/architecture.md, "The way of a dump", follows it through the house.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from arcbackupd import __version__
from arcbackupd.dumps.catalogue import Backup, Catalogue, FileIdentity
from arcbackupd.dumps.dumpfile import BLOCK, detach_contents, manifest_member
from arcbackupd.dumps.manifest import Contents, Manifest, Reason
from arcbackupd.dumps.names import BackupName, Kind
from arcbackupd.dumps.scan import Scan, Scanner
from arcbackupd.dumps.writer import (
    FileRights,
    NoLinks,
    PartialDump,
    free_name,
    link_unchanged,
    make_durable,
)
from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.installation import Installation
from arcbackupd.niceness import NORMAL, Niceness
from arcbackupd.operations.backups_dir import check_room, disk_error, file_rights, locked, prepare_directory
from arcbackupd.operations.before import BootDump
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.database import Database, ServerFacts
from arcbackupd.operations.events import Notice, Progress, Step, Steps
from arcbackupd.operations.yielding import yielding
from arcbackupd.postgres import DUMP_APPLICATION
from arcbackupd.settings import Dump as DumpSettings
from arcbackupd.stack.process import Finished, Output

_PROGRESS_SECONDS = 0.25
_END_SECONDS = 60


@dataclass(frozen=True)
class TakeOutcome:
    """How it ended: ``published`` a new file, ``unchanged`` (another name for the previous one), ``skipped``.

    Or ``used``: one that was there already is just as good.

    ``size`` is that of the file and ``sql_length`` that of the SQL, in bytes; ``name`` is ``None`` when skipped.
    """

    outcome: str
    name: str | None
    reason: Reason
    size: int = 0
    sql_length: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True)
class TakeContext:
    """What taking a dump needs: where, from what, how, and who we are.

    ``taken_at`` is the moment that a snapshot holds, when that isn't the present one.
    """

    installation: Installation
    database: Database
    settings: DumpSettings
    catalogue: Catalogue
    host: str
    backend_image: Callable[[], str | None]
    taken_at: datetime | None = None
    boot: BootDump | None = None
    """The start of the backend that the dump is taken for."""
    touched: Callable[[FileIdentity, int], None] = lambda _file, _mtime_ns: None
    """Told when a file that was found good gets a further name, and with it another mtime."""


def take(context: TakeContext, reason: Reason, cancellation: Cancellation) -> Steps[TakeOutcome]:
    """Take a dump for a reason. Raise ArcbackupdError when there is none; nothing is left behind then."""
    if context.boot:
        context.boot.begin(cancellation)
    directory = context.installation.backups_dir
    yield Step("wait", "Waiting for the database")
    limit = context.settings.wait_for_database
    facts = context.database.wait_until_accepting(limit, cancellation, starting=reason is Reason.BOOT)
    if facts.tables == 0 and reason.automatic:
        yield Notice(f"The database {context.database.name} has no tables yet; there is nothing to dump.")
        return TakeOutcome("skipped", None, reason)
    if context.boot:
        context.boot.ask(context.database)
        if standing := _standing(context, context.boot):
            yield Step("use", f"{standing} was taken just before this start and stands for it")
            return TakeOutcome("used", standing, reason)
    rights = file_rights(context.settings)
    prepare_directory(directory, rights)
    with (yield from locked(directory, cancellation)):
        context.database.end_dumps()  # one that was abandoned while the server couldn't be asked to end it
        newest = _newest_good(context.catalogue.read(directory))
        check_room(directory, newest.size if newest else 0)
        try:
            return (yield from _dump(context, reason, facts, newest, rights, cancellation))
        except OSError as error:
            raise disk_error(error, directory) from error


def _dump(
    context: TakeContext,
    reason: Reason,
    facts: ServerFacts,
    newest: Backup | None,
    rights: FileRights,
    cancellation: Cancellation,
) -> Steps[TakeOutcome]:
    started = datetime.now(UTC)
    clock = time.monotonic()
    directory = context.installation.backups_dir
    moment = (context.taken_at or started).replace(microsecond=0)
    name = free_name(directory, BackupName(moment, _kind(reason)))
    niceness = _niceness(context, reason)
    niceness.adopt()
    level = context.settings.compression_level
    yield Step("dump", f"Dumping {context.database.name}")
    with PartialDump(directory, name, level=level, rights=rights, niceness=niceness) as partial:
        scan = yield from _stream(context, reason, partial, newest, cancellation)
        yield Step("prove", "Proving it complete")
        manifest = _manifest(context, reason, started, facts, scan, partial.compressed_length)
        stored, behind = detach_contents(manifest)
        size = partial.seal(manifest_member(stored), behind)
        yield Step("publish", "Publishing it")
        outcome, published = yield from _publish(context, reason, partial, name, manifest, newest)
        make_durable(directory)
    return TakeOutcome(outcome, str(published), reason, size, scan.length, round(time.monotonic() - clock, 3))


def _stream(
    context: TakeContext,
    reason: Reason,
    partial: PartialDump,
    newest: Backup | None,
    cancellation: Cancellation,
) -> Steps[Scan]:
    """Let pg_dump write, through the scanner, into the file; prove both its end and its text."""
    application = f"{DUMP_APPLICATION}-{secrets.token_hex(6)}"
    niceness = _niceness(context, reason)
    try:
        with yielding(context.database, application, context.settings.yield_after, cancellation):
            output = context.database.open_dump(application, context.settings.lock_timeout, niceness=niceness)
            with output, cancellation.interrupting(output.kill):
                if why := output.begin():
                    yield Notice(f"The dump comes through the engine's stream, the slower path: {why}.")
                return (yield from _read_dump(context, output, partial, newest, cancellation))
    except BaseException as failure:
        _end_on_server(context.database, application, failure)
        raise


def _read_dump(
    context: TakeContext,
    output: Output,
    partial: PartialDump,
    newest: Backup | None,
    cancellation: Cancellation,
) -> Steps[Scan]:
    scanner = Scanner()
    stall = context.settings.stall_timeout.total_seconds()
    began = told = time.monotonic()
    expected = newest.manifest.sql_length if newest and newest.manifest else None
    while block := output.read(BLOCK, timeout=stall):
        if context.boot and not scanner.length:
            context.boot.read_first()
        scanner.feed(block)
        partial.write(block)
        if (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
            told = now
            elapsed = round(now - began, 3)
            yield Progress(scanner.length, scanner.table, scanner.rows_read, elapsed, expected)
    cancellation.check()
    finished = output.finish(timeout=_END_SECONDS)
    partial.complete()
    return _proved(context.database, finished, scanner.finish())


def _proved(database: Database, finished: Finished, scan: Scan) -> Scan:
    """The scan, when pg_dump ended well and its text is complete; raise OperationFailed otherwise."""
    if finished.status:
        raise database.explain(finished, "pg_dump")
    if scan.problem:
        said = f" It said: {finished.error.splitlines()[-1]}" if finished.error else ""
        raise OperationFailed(
            "incomplete",
            f"pg_dump ended as if all were well, but its dump isn't whole: {scan.problem}.{said}",
            hint="Something ended it from outside, such as a restart of the container or of the engine. "
            "The next dump comes by itself; `arcbackupctl backup` takes one now.",
        )
    return scan


def _end_on_server(database: Database, application: str, failure: BaseException) -> None:
    """End what the server still does for an abandoned dump; the first failure stays the one that is told."""
    try:
        database.end_dumps(application)
    except ArcbackupdError as error:
        failure.add_note(f"The server's side of it could not be ended: {error.message}")


def _manifest(
    context: TakeContext, reason: Reason, started: datetime, facts: ServerFacts, scan: Scan, compressed: int
) -> Manifest:
    doubt = context.boot.doubt(scan.migrations) if context.boot else ""
    return Manifest(
        kind=_kind(reason),
        reason=reason,
        started_at=started,
        finished_at=datetime.now(UTC),
        host=context.host,
        arcbackupd_version=__version__,
        database=context.installation.database,
        server_version=scan.server_version or facts.version,
        pg_dump_version=scan.pg_dump_version or "unknown",
        backend_image=context.backend_image(),
        sql_length=scan.length,
        sql_sha256=scan.sha256,
        content_sha256=scan.content_sha256,
        compressed_length=compressed,
        contents=Contents(rows=scan.rows, migrations=scan.migrations, roles=scan.roles),
        before_migrations=not doubt if context.boot else None,
        not_surely_before=doubt or None,
    )


def _publish(
    context: TakeContext,
    reason: Reason,
    partial: PartialDump,
    name: BackupName,
    manifest: Manifest,
    newest: Backup | None,
) -> Steps[tuple[str, BackupName]]:
    """Give the dump its name; an unchanged one becomes another name of the previous file."""
    same = (
        newest and newest.manifest and newest.content == manifest.content_sha256 and _still_there(context, newest)
    )
    if newest and same and context.settings.link_unchanged and reason in (Reason.SCHEDULED, Reason.MANUAL):
        try:
            published = link_unchanged(context.installation.backups_dir, newest.name, name)
        except NoLinks as error:
            yield Notice(f"An unchanged dump is stored whole: the filesystem can't link it ({error}).")
        else:
            context.catalogue.remember_reason(str(published), reason)
            linked = context.installation.backups_dir / str(published)
            context.touched(newest.identity, linked.lstat().st_mtime_ns)
            return "unchanged", published
    return "published", partial.publish(name)


def _still_there(context: TakeContext, newest: Backup) -> bool:
    """Whether the file is still the one that was found good: the dump took its time."""
    try:
        status = (context.installation.backups_dir / newest.name).lstat()
    except FileNotFoundError:
        return False
    return FileIdentity(status.st_ino, status.st_size, status.st_mtime_ns) == newest.identity


def _standing(context: TakeContext, boot: BootDump) -> str | None:
    """A dump that is there already and is as good as one taken now."""
    backups = context.catalogue.read(context.installation.backups_dir)
    return next((backup.name for backup in backups if boot.stands_for(backup)), None)


def _newest_good(backups: list[Backup]) -> Backup | None:
    """The newest good dump that has a manifest, whoever else dumps in between; without one, the newest good."""
    good = [backup for backup in backups if backup.good and backup.kind is Kind.BACKUP]
    return next((backup for backup in good if backup.manifest), good[0] if good else None)


def _kind(reason: Reason) -> Kind:
    return Kind.PRE_RESTORE if reason is Reason.PRE_RESTORE else Kind.BACKUP


def _niceness(context: TakeContext, reason: Reason) -> Niceness:
    """Of a dump that nobody waits for, what the settings say."""
    if reason is not Reason.SCHEDULED:
        return NORMAL
    return Niceness(context.settings.niceness, context.settings.io_class)
