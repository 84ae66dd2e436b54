"""What an upload to one destination works with, and how a file gets there."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from arcbackupd.destinations import Destination, DestinationError, StoredFile, Transfer
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Steps
from arcbackupd.operations.offhost.memory import DestinationMemory
from arcbackupd.operations.offhost.moving import moving, retrying
from arcbackupd.operations.offhost.staging import StagedFile, Staging
from arcbackupd.settings import DestinationTable

_CONFLICT = "destination-conflict"
_TIME = "%Y%m%d-%H%M%S"
_AHEAD = timedelta(days=1)


@dataclass(frozen=True)
class Place:
    """A destination that can be used, with its general settings and what is known of it."""

    destination: Destination[Any]
    table: DestinationTable
    memory: DestinationMemory
    staging: Staging

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.destination.name


@dataclass
class Sending:
    """An upload to one place. What it can't do of its work it notes in ``problems``, a sentence each."""

    place: Place
    cancellation: Cancellation
    sent: int = 0
    """Files."""
    sent_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def destination(self) -> Destination[Any]:
        """Where to."""
        return self.place.destination

    def send(self, source: BinaryIO, key: str, recipients: Sequence[str]) -> Steps[StagedFile]:
        """Put an open file there, encrypted to recipients if there are any. Raise DestinationError.

        Where the very bytes are there already, as after an answer that was lost, that is well.
        """
        staged = yield from self.stage(source, recipients)
        try:
            yield from self.put(staged, key)
        finally:
            staged.discard()
        return staged

    def stage(self, source: BinaryIO, recipients: Sequence[str]) -> Steps[StagedFile]:
        """Make the file that will be stored."""

        def stage(transfer: Transfer) -> StagedFile:
            return self.place.staging.add(source, recipients, transfer.advance)

        return (yield from moving(stage, total=None, limit=None, cancellation=self.cancellation))

    def put(self, staged: StagedFile, key: str) -> Steps[None]:
        """Put a staged file there."""
        try:
            yield from self._moved(lambda transfer: self.destination.put(staged.path, key, transfer), staged.size)
        except DestinationError as error:
            if error.code != _CONFLICT or not (yield from self._is_there(staged, key)):
                raise
        self._count([staged])

    def put_all(self, files: Sequence[tuple[StagedFile, str]]) -> Steps[None]:
        """Put many of them, in one go where that works."""
        left = list(files)
        if len(left) > 1:
            pairs = [(staged.path, key) for staged, key in left]
            total = sum(staged.size for staged, _ in left)
            with suppress(DestinationError):  # which of them, and why, telling them apart will show
                yield from self._moving(lambda transfer: self.destination.put_all(pairs, transfer), total)
                self._count([staged for staged, _ in left])
                return
        for staged, key in left:
            yield from self.put(staged, key)

    def read(self, key: str, length: int) -> Steps[bytes]:
        """The first bytes of a file that is there."""
        head: bytes = yield from self._moved(lambda _: self.destination.read(key, length), length)
        return head

    def _count(self, staged: Sequence[StagedFile]) -> None:
        self.sent += len(staged)
        self.sent_bytes += sum(file.size for file in staged)

    def _is_there(self, staged: StagedFile, key: str) -> Steps[bool]:
        with tempfile.TemporaryFile(dir=staged.path.parent) as copy:
            yield from self._moved(lambda transfer: self._get(key, copy, transfer), staged.size)
            copy.seek(0)
            return hashlib.file_digest(copy, "sha256").hexdigest() == staged.sha256

    def _get(self, key: str, target: BinaryIO, transfer: Transfer) -> None:
        target.seek(0)
        target.truncate()
        self.destination.get(key, target, transfer)

    def _moved(self, move: Callable[[Transfer], Any], total: int) -> Steps[Any]:
        return (yield from retrying(lambda: self._moving(move, total), self.cancellation))

    def _moving(self, move: Callable[[Transfer], Any], total: int) -> Steps[Any]:
        limit = self.place.table.bandwidth_limit
        return (yield from moving(move, total=total, limit=limit, cancellation=self.cancellation))


def free_key(before: str, moment: datetime, after: str, taken: Container[str]) -> str:
    """A key with a time in it, that of the next free second."""
    while (key := f"{before}{moment.strftime(_TIME)}{after}") in taken:
        moment += timedelta(seconds=1)
    return key


def newest_key(files: Iterable[StoredFile], before: str, after: tuple[str, ...]) -> str | None:
    """The one with the latest time in its name, of those that `free_key` makes.

    One that is later than the destination's own clock was at its arrival comes from a clock that ran ahead.
    """
    dated = [
        (moment, file.key)
        for file in files
        if file.key.startswith(before)
        and file.key.endswith(after)
        and (moment := _time_of(file.key[len(before) :]))
        and moment <= file.modified_at + _AHEAD
    ]
    return max(dated)[1] if dated else None


def _time_of(text: str) -> datetime | None:
    try:
        return datetime.strptime(text.partition(".")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def place_directory(state_dir: Path, name: str) -> Path:
    """Where what is known of a destination is kept."""
    return state_dir / "off-host" / name
