"""What is remembered of each alarm across restarts. It can be lost: then what goes on is told again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from arcbackupd.alarms import JobEnded
from arcbackupd.alarms.news import Told
from arcbackupd.files import write_atomically


class Failure(BaseModel):
    """Why the last delivery failed."""

    model_config = ConfigDict(frozen=True)

    problem: str
    hint: str
    code: str


class Record(BaseModel):
    """What is remembered of an alarm: what it was told last, and how its deliveries go."""

    model_config = ConfigDict(frozen=True)

    told: Told = Told()
    delivered_at: AwareDatetime | None = None
    """When the last delivery that went well did."""
    failure: Failure | None = None
    """Why the last one didn't, if it didn't."""
    owed: dict[str, JobEnded] = {}
    """How the last run of a job ended, as long as that isn't delivered."""


_FILE = TypeAdapter(dict[str, Record])


class AlarmMemory:
    """Of all alarms; safe to use from several threads. Only `save` touches the disk, and only it may take long."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "alarms.json"
        self._changing = threading.Lock()
        self._writing = threading.Lock()
        self._records = self._read()
        """Replaced whole by every change, so that it is read without a lock."""
        self._saved = self._records

    def of(self, name: str) -> Record:
        """What is remembered of an alarm."""
        return self._records.get(name, Record())

    def tell(self, name: str, told: Told) -> None:
        """It was told this."""
        self._change(name, lambda _record: {"told": told})

    def deliver(self, name: str, now: datetime) -> None:
        """A delivery went well."""
        self._change(name, lambda _record: {"delivered_at": now, "failure": None})

    def fail(self, name: str, failure: Failure | None) -> None:
        """A delivery failed; ``None``: it isn't known any more whether they do."""
        self._change(name, lambda _record: {"failure": failure})

    def owe(self, name: str, ended: JobEnded) -> None:
        """It is to be told how a run ended; what it was to be told of an earlier run of that job is past."""
        self._change(name, lambda record: {"owed": {**record.owed, ended.job: ended}})

    def settle(self, name: str, ended: JobEnded) -> None:
        """It was told that; what it is to be told of a later run stays."""
        self._change(name, lambda record: {"owed": {job: one for job, one in record.owed.items() if one != ended}})

    def keep(self, jobs_of: Mapping[str, Collection[str]]) -> None:
        """Forget the alarms that aren't among these, and the runs of jobs that theirs aren't any more."""
        with self._changing:
            kept = ((name, self.of(name), jobs) for name, jobs in jobs_of.items() if name in self._records)
            self._records = {
                name: record.model_copy(
                    update={"owed": {job: one for job, one in record.owed.items() if job in jobs}}
                )
                for name, record, jobs in kept
            }

    def save(self) -> None:
        """Write down what has changed."""
        with self._writing:
            records = self._records
            if records is self._saved:
                return
            # It can be lost; whoever else writes there says why.
            with suppress(OSError):
                write_atomically(self._path, _FILE.dump_json(records))
                self._saved = records

    def _change(self, name: str, change: Callable[[Record], dict[str, object]]) -> None:
        with self._changing:
            record = self.of(name)
            self._records = {**self._records, name: record.model_copy(update=change(record))}

    def _read(self) -> dict[str, Record]:
        try:
            return _FILE.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):  # lost, or of another version
            return {}
