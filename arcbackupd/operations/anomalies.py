"""What backups lost against their history: found from the files themselves, told once, settled by a note.

Only the notes are kept, of what was accepted and of when something else took the database's place. They can be
lost: then a backup that was settled is flagged again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from arcbackupd.dumps.anomalies import HEALTHY, Baseline, Judgement, judge
from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.history import Facts, Limits
from arcbackupd.dumps.names import Kind
from arcbackupd.errors import OperationFailed, Refused
from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.events import Notice
from arcbackupd.settings import Anomalies as AnomalySettings

_NOTES = 200
_log = get_logger()


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    accepted: bool
    origin: str | None = None


class _Notes(BaseModel):
    baselines: tuple[_Note, ...] = ()


class Anomalies:
    """Of the backups of one installation. Safe to use from several threads."""

    def __init__(self, notes: Path, settings: AnomalySettings) -> None:
        self._file = notes
        self._limits = Limits(**settings.model_dump())
        self._lock = threading.Lock()
        self._judged: tuple[object, Mapping[str, Judgement]] = (None, {})
        self._told: frozenset[str] = frozenset()

    def judge(self, backups: Iterable[Backup]) -> Mapping[str, Judgement]:
        """What is to be said of each backup, by name; of some, such as broken ones, nothing is."""
        good = [backup for backup in backups if backup.good]
        with self._lock:
            baselines = self._read()
            key = (baselines, tuple((backup.name, backup.content) for backup in good))
            if key != self._judged[0]:
                facts = (facts_of(backup) for backup in good)
                judged = judge((known for known in facts if known), self._limits, map(_baseline, baselines))
                self._judged = (key, judged)
            return self._judged[1]

    def accept(self, backup: Backup, judgement: Judgement) -> None:
        """Note that what a backup holds is as it should be. Raise Refused when nothing is to be accepted."""
        if not judgement.flagged:
            hint = "`arcbackupctl list` shows which ones are."
            raise Refused("not-flagged", f"{backup.name} is not flagged: there is nothing to accept.", hint=hint)
        try:
            facts = facts_of(backup)
            self._note(backup.taken_at, accepted=True, origin=facts.origin if facts else None)
        except OSError as error:
            hint = "See the rights and the free space of the daemon's state directory."
            message = f"It can't be noted in {self._file}: {error.strerror}. {backup.name} stays flagged."
            raise OperationFailed("not-noted", message, hint=hint) from error
        _log.info(
            f"{backup.name} was accepted: what it holds is as it should be",
            backup=backup.name,
            reason="; ".join(judgement.anomalies),
        )

    def replaced(self, at: datetime) -> None:
        """Note that a restore put something else in the database's place: history begins anew."""
        try:
            self._note(at, accepted=False)
        except OSError as error:
            _log.warning(f"{self._file} can't be written: {error.strerror}. The next backup may be flagged")

    def replaced_since(self, moment: datetime) -> bool:
        """Whether a restore has replaced the database since: what was lost before is settled by that.

        What a wrong clock noted of the future doesn't count, or no loss would be told of until then.
        """
        now = datetime.now(UTC)
        return any(not note.accepted and moment <= note.at <= now for note in self._read())

    def tell(self, name: str, judgement: Judgement) -> Iterator[Notice]:
        """Tell of a backup that was just taken; the journal hears of the same loss once, and not every hour."""
        told, self._told = self._told, judgement.suspects if judgement.flagged else frozenset()
        if not judgement.flagged:
            return
        notice = Notice(f"{name} is flagged: {summary(judgement.anomalies)}.", what_to_do(name))
        if judgement.suspects != told:
            _log.warning(notice.text, hint=notice.hint, backup=name, message_id=MessageId.DUMP_ANOMALY)
        yield notice

    def _read(self) -> tuple[_Note, ...]:
        try:
            return _Notes.model_validate_json(self._file.read_bytes()).baselines
        except (OSError, ValidationError):
            return ()

    def _note(self, at: datetime, *, accepted: bool, origin: str | None = None) -> None:
        with self._lock:
            notes = (*self._read(), _Note(at=at, accepted=accepted, origin=origin))[-_NOTES:]
            write_atomically(self._file, _Notes(baselines=notes).model_dump_json().encode())


def flagged(judged: Mapping[str, Judgement]) -> set[str]:
    """Names of those that are flagged."""
    return {name for name, judgement in judged.items() if judgement.flagged}


def newest_healthy(backups: Iterable[Backup], judged: Mapping[str, Judgement]) -> Backup | None:
    """Of good backups, newest first, the first one that isn't flagged."""
    return next((backup for backup in backups if not judged.get(backup.name, HEALTHY).flagged), None)


def summary(sentences: Sequence[str]) -> str:
    """The first, and how many more there are."""
    more = len(sentences) - 1
    return f"{sentences[0]} (and {more} more)" if more else sentences[0]


def what_to_do(name: str, healthy: str | None = None) -> str:
    """What an operator does about a flagged backup."""
    lost = f"`arcbackupctl restore {healthy}`" if healthy else "`arcbackupctl restore` with an older one"
    return (
        f"`arcbackupctl inspect {name}` tells all. If data were lost: {lost}. If it is right so:"
        f" `arcbackupctl accept {name}`."
    )


def explain_flagged(name: str, anomalies: Sequence[str]) -> str:
    """A paragraph on a newest backup that is flagged."""
    return (
        f"The newest backup, {name}, is flagged: it is whole, but {'; '.join(anomalies)}."
        f" Those that hold what may be missing stay until that is settled. {what_to_do(name)}"
    )


def facts_of(backup: Backup) -> Facts | None:
    """What is known of a backup; ``None`` when its rows aren't.

    Those without a manifest are of an origin of their own, as another program may dump this database too.
    """
    manifest, scan = backup.manifest, backup.scan
    if manifest and manifest.contents:
        origin, length = f"{manifest.host} {manifest.database}", manifest.sql_length
    elif scan and not manifest:
        origin, length = "", scan.length
    else:
        return None
    return Facts(
        name=backup.name,
        taken_at=backup.taken_at,
        origin=origin,
        rows=backup.rows,
        sql_length=length,
        migrations=frozenset(backup.migrations or ()),
        snapshot=backup.kind is Kind.PRE_RESTORE,
    )


def _baseline(note: _Note) -> Baseline:
    return Baseline(note.at, note.accepted, note.origin)
