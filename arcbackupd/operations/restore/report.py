"""What is told of a restore: beforehand its plan, afterwards how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger
from arcbackupd.operations.restore.checks import Refusal

_log = get_logger()


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan, with its commands as a shell would take them."""

    name: str
    text: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a restore or rollback would do; the fields are those of the interface's RestorePlan."""

    kind: str
    name: str | None
    database: str
    taken_at: datetime
    in_place: bool
    status: str | None
    steps: tuple[PlannedStep, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    migrations: tuple[str, ...]


class Report(BaseModel):
    """How one ended; the fields are those of the interface's RestoreReport."""

    model_config = ConfigDict(frozen=True)

    operation: str
    kind: str
    name: str | None
    database: str
    outcome: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    downtime_s: float | None = None
    snapshot: str | None = None
    replaced: str | None = None
    keep_until: AwareDatetime | None = None
    problem: str | None = None
    code: str | None = None
    hint: str | None = None


class LastReport:
    """The last one's report, in a file that may be lost."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Report | None:
        """How the last one ended, if it is known."""
        try:
            return Report.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, report: Report) -> None:
        """Remember how one ended."""
        try:
            write_atomically(self._path, report.model_dump_json().encode())
        except OSError as error:
            _log.warning(f"{self._path} can't be written: {error.strerror}")
