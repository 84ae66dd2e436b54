"""What drills have shown, in a file: which backup was proved restorable, when, and how long that took."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from arcbackupd.dumps.catalogue import Backup, FileIdentity
from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger

_KEPT = 500
"""Records, the newest: more than there are backups in the usual retention."""
_log = get_logger()


class DrillRecord(BaseModel):
    """How one drill ended.

    ``proved``: the backup is restorable. ``failed``: it isn't what it should be. ``error``: it could not be tried,
    which says nothing of the backup. ``duration_s`` is the whole drill, ``load_s`` the part of it that a restore
    takes until its database is ready: loading, indexes, statistics. ``bytes`` are those of the SQL.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    taken_at: AwareDatetime
    content_sha256: str | None
    drilled_at: AwareDatetime
    outcome: Literal["proved", "failed", "error"]
    place: Literal["database", "container"]
    duration_s: float
    load_s: float | None = None
    bytes: int = 0
    problem: str | None = None
    code: str | None = None
    hint: str | None = None
    inode: int = 0
    size: int = 0
    mtime_ns: int = 0
    sql_sha256: str | None = None

    @property
    def proved(self) -> bool:
        """Whether it proved the backup restorable."""
        return self.outcome == "proved"

    def is_of(self, backup: Backup) -> bool:
        """Whether that very file was drilled, under this name or another one.

        An unchanged dump is a further name of the file before it, so that a drill of one is one of both. A file of
        its own has bytes of its own, which may be damaged by themselves, and a manifest says what it likes: equal
        contents prove nothing. Nor does the same file once something was written to it.
        """
        return (self.identity, self.sql_sha256) == (backup.identity, sql_hash(backup))

    @property
    def identity(self) -> FileIdentity:
        """Of the file, as it was drilled."""
        return FileIdentity(self.inode, self.size, self.mtime_ns)


def sql_hash(backup: Backup) -> str | None:
    """SHA-256 of a backup's SQL, as far as it is known."""
    if backup.manifest:
        return backup.manifest.sql_sha256
    return backup.scan.sha256 if backup.scan else None


def record_of(backup: Backup, records: Sequence[DrillRecord]) -> DrillRecord | None:
    """The last drill of a backup, of records newest first, that says something of it."""
    return next((record for record in records if record.outcome != "error" and record.is_of(backup)), None)


class _Memory(BaseModel):
    since: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    records: tuple[DrillRecord, ...] = ()


class DrillRecords:
    """They outlive the daemon; when the file is lost, backups are as unproved as before their first drill."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> Sequence[DrillRecord]:
        """All that is known, newest first."""
        return self._read().records

    def last(self) -> DrillRecord | None:
        """The last drill, however it ended."""
        return next(iter(self.all()), None)

    def last_proved(self) -> DrillRecord | None:
        """The last drill that proved a backup restorable."""
        return next((record for record in self.all() if record.proved), None)

    def since(self) -> datetime:
        """From when on drills are remembered."""
        memory = self._read()
        if not self._path.exists():
            self._write(memory)
        return memory.since

    def note(self, record: DrillRecord) -> None:
        """Remember one."""
        memory = self._read()
        self._write(memory.model_copy(update={"records": (record, *memory.records)[:_KEPT]}))

    def touched(self, drilled: FileIdentity, mtime_ns: int) -> None:
        """A file got another time from us, with a further name, and nothing was written to it."""
        memory = self._read()
        records = tuple(
            record.model_copy(update={"mtime_ns": mtime_ns}) if record.identity == drilled else record
            for record in memory.records
        )
        if records != memory.records:
            self._write(memory.model_copy(update={"records": records}))

    def _read(self) -> _Memory:
        try:
            return _Memory.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return _Memory()

    def _write(self, memory: _Memory) -> None:
        try:
            write_atomically(self._path, memory.model_dump_json().encode())
        except OSError as error:
            _log.warning(f"{self._path} can't be written, so that this drill is forgotten: {error.strerror}")
