"""Names of backups: ``backup-YYYYMMDD-HHMMSS.sql.gz`` and ``pre-restore-YYYYMMDD-HHMMSS.sql.gz``, UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

_NAME = re.compile(r"(backup|pre-restore)-(\d{8}-\d{6})\.sql\.gz", re.ASCII)
_TIME = "%Y%m%d-%H%M%S"
_AHEAD = timedelta(minutes=1)
"""A dump whose second was taken is named after a later one."""
_TIME_LENGTH = len("YYYYMMDD-HHMMSS")  # years before 1000 come out shorter


class Kind(StrEnum):
    """What a dump's name begins with."""

    BACKUP = "backup"
    PRE_RESTORE = "pre-restore"


@dataclass(frozen=True, order=True)
class BackupName:
    """A backup's name, taken apart. Orders by time, then by kind."""

    taken_at: datetime
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}-{self.taken_at.strftime(_TIME).zfill(_TIME_LENGTH)}.sql.gz"


def parse_name(text: str) -> BackupName | None:
    """Take a file name apart; ``None`` when it is no backup's name (also for a date that doesn't exist)."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    try:
        taken_at = datetime.strptime(match[2], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return BackupName(taken_at, Kind(match[1]))


def is_ahead(taken_at: datetime) -> bool:
    """Whether that time lies in the future: the clock was wrong as it was written, or is now."""
    return taken_at > datetime.now(UTC) + _AHEAD
