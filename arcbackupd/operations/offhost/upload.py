"""An upload to one destination: what is missing there of each stream that goes there, then its retention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.retention import Plan, Policy
from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.backups_dir import check_shared_path
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.events import Notice, Step, Steps
from arcbackupd.operations.offhost.data import BACKUPS, SharedData, pending, send_data
from arcbackupd.operations.offhost.dumps import (
    dump_key,
    look,
    missing_dumps,
    plan_pruning,
    prune,
    send_dumps,
)
from arcbackupd.operations.offhost.secrets import have_changed, pack, secret_names, send_secrets
from arcbackupd.operations.offhost.sending import Place, Sending
from arcbackupd.settings import Settings


@dataclass(frozen=True)
class UploadOutcome:
    """What an upload did. ``problems`` are sentences about what is not as it should be there, or was left out."""

    destination: str
    files: int
    bytes: int
    removed: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class UploadPlan:
    """What an upload would do: the dumps it would put there, of so many bytes, and remove, by their keys.

    ``secrets``: whether they would go there; ``files`` of shared data, of ``file_bytes``, are new or have changed:
    ``None`` where only the destination itself can tell.
    """

    destination: str
    location: str
    streams: tuple[str, ...]
    put: tuple[str, ...]
    remove: tuple[str, ...]
    bytes: int
    secrets: bool
    files: int | None
    file_bytes: int | None


@dataclass(frozen=True)
class Uploads:
    """What all uploads of one configuration share."""

    settings: Settings
    backups: Backups

    def streams(self, place: Place) -> tuple[str, ...]:
        """Names of the streams that go to a place."""
        upload = self.settings.upload
        return tuple(name for name in ("dumps", "secrets", "data") if place.name in getattr(upload, name).to)

    def plan(self, place: Place) -> UploadPlan:
        """What an upload would do now. Looks at the destination, and changes nothing. Raise DestinationError."""
        upload, streams = self.settings.upload, self.streams(place)
        place.destination.check()
        missing: list[Backup] = []
        remove: tuple[str, ...] = ()
        if "dumps" in streams:
            place.memory.looked(place.destination.list(upload.dumps.prefix))
            missing = missing_dumps(self.backups.read(), place.memory, upload.dumps, self.backups.host)
            remove = self._pruning(place).pruned
        data = pending(place, self._shared(place)) if "data" in streams else (0, 0)
        return UploadPlan(
            destination=place.name,
            location=place.destination.location,
            streams=streams,
            put=tuple(dump_key(backup, upload.dumps) for backup in missing),
            remove=remove,
            bytes=sum(backup.size for backup in missing),
            secrets="secrets" in streams and self._secrets_changed(place),
            files=data[0] if data else None,
            file_bytes=data[1] if data else None,
        )

    def _secrets_changed(self, place: Place) -> bool:
        there = {file.key for file in place.destination.list(self.settings.upload.secrets.prefix)}
        return have_changed(place, pack(self.settings.install_dir), there)

    def upload(self, place: Place, cancellation: Cancellation) -> Steps[UploadOutcome]:
        """Bring a place up to date, stream by stream: one that fails doesn't keep the others from theirs.

        Raise the first error of any.
        """
        place.memory.begun()
        sending = Sending(place, cancellation)
        errors: list[ArcbackupdError] = []
        removed: list[str] = []
        try:
            yield Step("check", f"Looking at {place.name}")
            place.destination.check()
            place.staging.clear()
            for step in self._steps(sending, removed):
                try:
                    yield from step()
                except Cancelled:
                    raise
                except ArcbackupdError as error:
                    yield Notice(error.message, error.hint)
                    errors.append(error)
        except ArcbackupdError as error:
            errors.append(error)
        except Exception:
            place.memory.ended(_unforeseen(), sending.problems)
            raise
        if not (errors and isinstance(errors[-1], Cancelled)):
            place.memory.ended(errors[0] if errors else None, sending.problems)
        if errors:
            raise errors[0]
        return UploadOutcome(place.name, sending.sent, sending.sent_bytes, tuple(removed), tuple(sending.problems))

    def _steps(self, sending: Sending, removed: list[str]) -> Iterator[Callable[[], Steps[Any]]]:
        upload, name = self.settings.upload, sending.place.name
        if name in upload.secrets.to:
            yield lambda: send_secrets(sending, upload.secrets, self.settings.install_dir)
        if name in upload.dumps.to:
            yield lambda: self._dumps(sending, removed)
        if name in upload.data.to:
            yield lambda: self._data(sending, removed)

    def _dumps(self, sending: Sending, removed: list[str]) -> Steps[None]:
        stream = self.settings.upload.dumps
        yield from look(sending, stream)
        backups = self.backups
        yield from send_dumps(sending, stream, backups.read(), backups.directory(), backups.host)
        removed.extend((yield from prune(sending, self._pruning(sending.place))))

    def _data(self, sending: Sending, removed: list[str]) -> Steps[None]:
        upload = self.settings.upload

        def dumps() -> Steps[None]:
            if sending.place.name in upload.dumps.to:
                yield from self._dumps(sending, removed)

        yield from send_data(sending, upload.data, self._shared(sending.place), dumps)

    def _shared(self, place: Place) -> SharedData:
        """The shared data, without what of the installation, the daemon or the destination is among them."""
        backups = self.backups.directory()
        check_shared_path(backups)
        root, install_dir = backups.parent.resolve(), self.settings.install_dir
        destination = urlsplit(place.destination.location)
        inside = [
            root / BACKUPS,
            self.settings.state_dir,
            *(install_dir / name for name in secret_names(install_dir)),
            *([Path(unquote(destination.path))] if destination.scheme == "file" else []),
        ]
        relative = (path.resolve().relative_to(root) for path in inside if path.resolve().is_relative_to(root))
        return SharedData(root, frozenset(map(str, relative)), self.backups.host)

    def why_frozen(self, place: Place) -> str | None:
        """Why the retention of a place removes no dump there, as far as is known here; ``None`` when it does."""
        return self._pruning(place).frozen if "dumps" in self.streams(place) else None

    def _pruning(self, place: Place) -> Plan:
        policy = Policy(**place.table.retention.model_dump())
        prefix, backups = self.settings.upload.dumps.prefix, self.backups
        flagged = backups.flags(backups.read())
        return plan_pruning(place.memory, prefix, policy, backups.host, backups.clock_doubt, flagged)


def _unforeseen() -> OperationFailed:
    hint = "This is a defect of arcbackupd; the journal has the details: `journalctl -u arcbackupd`."
    return OperationFailed("internal", "It failed in a way nobody foresaw.", hint=hint)
