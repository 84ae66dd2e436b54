"""One drill: load a backup into its scratch database, analyze and compare it, remove all of it again."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.loading import knows_restrict
from arcbackupd.errors import ArcbackupdError, OperationFailed, Refused
from arcbackupd.log import get_logger
from arcbackupd.niceness import Niceness
from arcbackupd.operations.cancellation import SUPERSEDED, Cancellation, Cancelled
from arcbackupd.operations.drill import compare
from arcbackupd.operations.drill.records import DrillRecord, sql_hash
from arcbackupd.operations.drill.room import check_room, while_there_is_room
from arcbackupd.operations.drill.scratch import Scratch
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.restore.checks import major
from arcbackupd.operations.restore.loading import Loaded, Loading, analyze, load, run_script
from arcbackupd.operations.restore.server import Server

_OF_THE_DUMP = frozenset({
    "analyze-failed", "broken-backup", "constraints-invalid", "damaged-dump", "indexes-invalid", "load-failed",
    "migrations-differ", "missing-roles", "rows-differ", "unsafe-dump",
})  # fmt: skip
"""Codes of the errors that a restore of this backup would meet too; all others say nothing of it."""
_WENT = ("server-went", "program-killed", "not-accepting", "container-stopped", "container-missing")
"""Codes of the errors of a server that ended, whose hints are about the installation's."""
_log = get_logger()


@dataclass
class Drill:
    """A drill of a backup, whose file is at ``path``."""

    backup: Backup
    path: Path
    place: Literal["database", "container"]
    scratch: Scratch
    niceness: Niceness
    began: float = field(default_factory=time.monotonic)
    drilled_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    load_s: float | None = None

    def record(self, error: ArcbackupdError | None) -> DrillRecord:
        """How it ended."""
        known = self.backup.manifest
        failed = error is not None and error.code in _OF_THE_DUMP
        return DrillRecord(
            name=self.backup.name,
            taken_at=self.backup.taken_at,
            content_sha256=self.backup.content,
            drilled_at=self.drilled_at,
            outcome="proved" if error is None else "failed" if failed else "error",
            place=self.place,
            duration_s=round(time.monotonic() - self.began, 3),
            load_s=self.load_s,
            bytes=known.sql_length if known else self.backup.scan.length if self.backup.scan else 0,
            problem=error.message if error else None,
            code=error.code if error else None,
            hint=self._hint(error) if error else None,
            inode=self.backup.identity.inode,
            size=self.backup.size,
            mtime_ns=self.backup.identity.mtime_ns,
            sql_sha256=sql_hash(self.backup),
        )

    def _hint(self, error: ArcbackupdError) -> str:
        if self.place == "container" and error.code in _WENT:
            return "Its throwaway container ended, perhaps for want of memory: `journalctl -k` tells."
        return error.hint


def prove(drill: Drill, cancellation: Cancellation) -> Steps[DrillRecord]:
    """Carry it out; return how it ended. Raise Cancelled, and Refused when there is no room, or none any more.

    What was made is removed, unless something more urgent ended the drill: that can't wait, and it is noted.
    """
    drill.niceness.adopt()
    try:
        with cancellation.heeded():
            yield from _prove(drill, cancellation)
    except Cancelled as error:
        if error.code != SUPERSEDED:
            yield from _remove(drill, Cancellation())
        raise
    except Refused:
        yield from _remove(drill, cancellation)
        raise
    except ArcbackupdError as error:
        record = drill.record(error)
    else:
        record = drill.record(None)
    removed = yield from _remove(drill, cancellation)
    return record if record.proved else _reassuring(record, removed=removed)


def _reassuring(record: DrillRecord, *, removed: bool) -> DrillRecord:
    """What whoever reads of a drill that went wrong has to know first."""
    left = "and what it made is removed" if removed else "and what it made is removed as soon as that can be done"
    told = f"The drill didn't touch the live database, {left}."
    return record.model_copy(update={"hint": f"{record.hint} {told}" if record.hint else told})


def _prove(drill: Drill, cancellation: Cancellation) -> Steps[None]:
    backup = drill.backup
    if not backup.good:
        why = backup.problem or backup.unreadable or "it was not scanned yet"
        raise OperationFailed("broken-backup", f"{backup.name} can't be restored: {why}.")
    server = yield from drill.scratch.open(cancellation)
    if check_room(server, backup, drill.scratch.live_bytes()):
        with while_there_is_room(server, backup, cancellation) as within:
            yield from _try(drill, server, within)
    else:
        yield from _try(drill, server, cancellation)


def _try(drill: Drill, server: Server, cancellation: Cancellation) -> Steps[None]:
    backup = drill.backup
    database = yield from drill.scratch.create(backup, cancellation)
    loaded = yield from _load(drill, server, database, cancellation)
    yield Step("compare", "Comparing rows, migrations, constraints and indexes")
    last_word = secrets.token_hex(16)
    script = compare.script(backup, last_word)
    answers = yield from run_script(server, database, script, cancellation, drill.niceness)
    compare.check(backup, compare.read(answers, last_word), loaded)


def _load(drill: Drill, server: Server, database: str, cancellation: Cancellation) -> Steps[Loaded]:
    began = time.monotonic()
    backup = drill.backup
    restricted = knows_restrict(server.psql_version())
    loading = Loading(
        drill.path, backup, server, database, major(server.version()), restricted, drill.niceness
    )  # fmt: skip
    yield Step("load", f"Loading {backup.name}")
    loaded = yield from load(loading, cancellation)
    yield Step("analyze", "Analyzing its tables")
    try:
        yield from analyze(server, database, cancellation)
    except OperationFailed as error:
        if error.code != "program-failed":
            raise
        raise OperationFailed("analyze-failed", f"{backup.name} was loaded, but: {error.message}") from error
    drill.load_s = round(time.monotonic() - began, 3)
    return loaded


def _remove(drill: Drill, cancellation: Cancellation) -> Steps[bool]:
    """Whether all is gone. What can't be removed now is tried again; the drill has shown what it has shown."""
    try:
        yield from drill.scratch.remove(cancellation)
    except Cancelled:
        return False
    except ArcbackupdError as error:
        _log.warning(f"What a drill made is left: {error.message}", hint=error.hint)
        return False
    return True
