"""The databases that restores replaced: kept for a rollback, dropped in time when a backup has what they hold."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger

_log = get_logger()


class Replaced(BaseModel):
    """A database that was replaced.

    ``replaced_at`` is when the services stopped that used it last. ``keep_until`` is ``None`` for one that is
    dropped by hand only. ``snapshot`` is the backup that holds the same, ``wanted`` whether there should be one,
    ``problem`` why there is none.
    """

    model_config = ConfigDict(frozen=True)

    database: str
    oid: int
    replaced_at: AwareDatetime
    keep_until: AwareDatetime | None
    wanted: bool
    snapshot: str | None = None
    problem: str | None = None

    def over(self, now: datetime) -> bool:
        """Whether it may be dropped."""
        return self.snapshot is not None and self.keep_until is not None and self.keep_until <= now


class _Memory(BaseModel):
    databases: tuple[Replaced, ...] = ()


class ReplacedDatabases:
    """What is known of them, newest first, in a file.

    When the file is lost, the databases are found again by their names, and kept until they are dropped by hand.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[Replaced]:
        """All of them, newest first."""
        try:
            known = _Memory.model_validate_json(self._path.read_bytes()).databases
        except (OSError, ValidationError):
            return []
        return sorted(known, key=lambda replaced: replaced.replaced_at, reverse=True)

    def find(self, database: str) -> Replaced | None:
        """The one of that name."""
        return next((replaced for replaced in self.all() if replaced.database == database), None)

    def put(self, replaced: Replaced) -> None:
        """Note one, in place of what was known of it."""
        self._write([replaced, *(r for r in self.all() if r.database != replaced.database)])

    def remove(self, database: str) -> None:
        """Forget one."""
        self._write([replaced for replaced in self.all() if replaced.database != database])

    def _write(self, databases: list[Replaced]) -> None:
        try:
            write_atomically(self._path, _Memory(databases=tuple(databases)).model_dump_json().encode())
        except OSError as error:  # the databases themselves tell of themselves by their names
            _log.warning(f"{self._path} can't be written: {error.strerror}")
