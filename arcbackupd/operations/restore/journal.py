"""The journal of a restore: what another process must know to finish or undo it. On disk before it is done."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from arcbackupd.errors import OperationFailed
from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger
from arcbackupd.postgres.databases import Properties

STAGING_PREFIX = "arcbackupd_staging_"
REPLACED_PREFIX = "arcbackupd_replaced_"
_TIME = "%Y%m%d_%H%M%S"
_log = get_logger()


def replaced_name(identity: str) -> str:
    """The name that what a restore replaces now gets."""
    return f"{REPLACED_PREFIX}{datetime.now(UTC).strftime(_TIME)}_{identity[:6]}"


def replaced_at(name: str) -> datetime:
    """When a database of such a name was replaced; now, if the name doesn't tell."""
    text = name.removeprefix(REPLACED_PREFIX).rpartition("_")[0]
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return datetime.now(UTC)


class Journal(BaseModel):
    """Where a restore or rollback stands.

    ``live`` is the database that is replaced, as it was when last looked at; ``None`` where there is none.
    ``incoming`` is the database that gets its name, ``incoming_oid`` its identity as soon as it exists.
    ``replaced_as`` is the name that the live one gets; ``None`` in place, where it is dropped.
    ``step`` is the one that was begun last. ``stopped`` are services to be started again in the end, in the order
    in which they were stopped. ``putting_back``: the load failed in place, and the snapshot is loaded instead.
    ``dropped_before``: an earlier restore in place dropped ``live`` and couldn't put anything in its stead.
    ``swapped_at``: services that started later have seen the new database.
    """

    model_config = ConfigDict(validate_assignment=True)

    format: Literal[1] = 1
    operation: str
    kind: Literal["restore", "rollback"]
    backup: str | None
    database: str
    live: Properties | None
    incoming: str
    incoming_oid: int | None = None
    replaced_as: str | None
    safety_backup: bool
    create_roles: tuple[str, ...] = ()
    started_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    step: str = ""
    stopped: tuple[str, ...] = ()
    stopped_at: AwareDatetime | None = None
    snapshot: str | None = None
    written: str | None = None
    putting_back: bool = False
    dropped_before: bool = False
    swapped_at: AwareDatetime | None = None

    @property
    def in_place(self) -> bool:
        """Whether what is replaced is dropped instead of kept."""
        return self.kind == "restore" and self.replaced_as is None

    @property
    def source(self) -> str | None:
        """The backup that is loaded."""
        return self.snapshot if self.putting_back else self.backup


class JournalFile:
    """One journal at a time, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Journal | None:
        """The journal of a restore that has not ended. Raise OperationFailed when it can't be read."""
        try:
            return Journal.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged, or of a newer arcbackupd"
            hint = (
                "Look at the server's databases (`psql -l`): the one that .env names is in use, those that are "
                f"named {STAGING_PREFIX}… are loaded halfway. Start the services, open the database if it's closed "
                "(ALTER DATABASE … ALLOW_CONNECTIONS true), then remove the file."
            )
            message = f"Where an interrupted restore stands can't be read from {self._path}: {why}."
            raise OperationFailed("restore-journal-unreadable", message, hint=hint) from None

    def operation(self) -> str | None:
        """The id of the operation that has not ended, where it can be read."""
        try:
            journal = self.read()
        except OperationFailed:
            return None
        return journal.operation if journal else None

    def exists(self) -> bool:
        """Whether one has not ended."""
        return self._path.exists()

    def write(self, journal: Journal) -> None:
        """Note where it stands. Raise OperationFailed when that can't be written."""
        try:
            write_atomically(self._path, journal.model_dump_json().encode())
        except OSError as error:
            hint = "See the rights and the free space of the daemon's state directory."
            message = f"The journal of the restore can't be written to {self._path}: {error.strerror}."
            raise OperationFailed("restore-journal-unwritable", message, hint=hint) from error

    def clear(self) -> None:
        """It has ended. A file that can't be removed is looked at once more, to no effect."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning(f"{self._path} can't be removed: {error.strerror}")
