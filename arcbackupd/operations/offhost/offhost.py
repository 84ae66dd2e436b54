"""The destinations of one configuration: what can be asked of them and done with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from arcbackupd.destinations import Destination
from arcbackupd.destinations.plugins import FailedDestination, load_destinations
from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.dumpfile import MEMBER_SIZE
from arcbackupd.errors import ArcbackupdError, NoSuchBackup, UsageError
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.backups_dir import file_rights
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.events import Notice, Steps
from arcbackupd.operations.offhost.dumps import StoredDump, manifest_of, stored_dumps
from arcbackupd.operations.offhost.fetch import fetch
from arcbackupd.operations.offhost.memory import DestinationMemory
from arcbackupd.operations.offhost.memory import Failure as UploadFailure
from arcbackupd.operations.offhost.sending import Place, place_directory
from arcbackupd.operations.offhost.staging import Staging
from arcbackupd.operations.offhost.upload import UploadOutcome, UploadPlan, Uploads
from arcbackupd.operations.queue import Operation, OperationQueue, Priority
from arcbackupd.settings import Settings, Upload

_log = get_logger()


def load(settings: Settings) -> dict[str, Destination[Any] | FailedDestination]:
    """The destinations of a configuration.

    Raise UsageError for wrong settings, for a stream that goes to none, and for secrets beside dumps.
    """
    loaded = _load(settings)
    _check_streams(settings.upload, loaded)
    return loaded


def open_place(settings: Settings, name: str) -> Place:
    """A place to bring something back from. Raise UsageError when it isn't configured, or can't be used."""
    destination = _load(settings).get(name)
    if destination is None:
        raise _unknown(name, settings.destinations)
    if isinstance(destination, FailedDestination):
        raise _unusable(destination)
    return _place(settings, destination)


def _load(settings: Settings) -> dict[str, Destination[Any] | FailedDestination]:
    tables = {name: (table.type, table.model_extra or {}) for name, table in settings.destinations.items()}
    return load_destinations(tables, settings.state_dir / "off-host")


def _place(settings: Settings, destination: Destination[Any]) -> Place:
    directory = place_directory(settings.state_dir, destination.name)
    table = settings.destinations[destination.name]
    return Place(
        destination, table, DestinationMemory(directory, destination.location), Staging(directory / "staging")
    )


def _unknown(name: str, known: Iterable[str]) -> UsageError:
    hint = f"Configured: {', '.join(sorted(known)) or 'none'}."
    return UsageError("no-such-destination", f"There is no destination {name}.", hint=hint)


def _unusable(failed: FailedDestination) -> UsageError:
    return UsageError("destination-failed", f"{failed.name} can't be used: {failed.problem}.", hint=failed.hint)


def _check_streams(upload: Upload, loaded: Mapping[str, Destination[Any] | FailedDestination]) -> None:
    for stream in ("dumps", "secrets", "data"):
        for name in getattr(upload, stream).to:
            if name not in loaded:
                problem = f"upload.{stream}.to: there is no destination {name}"
                raise _wrong(problem, "Write a [destinations.NAME] for it.")
    if upload.secrets.encrypt_to:
        return
    for name in upload.secrets.to:
        if beside := next((other for other in upload.dumps.to if _same_place(loaded[name], loaded[other])), None):
            where = f"as {beside} is" if beside != name else "where the dumps go too"
            raise _wrong(
                f"upload.secrets.to: {name} is the same place {where}: whoever reads a backup there would have the"
                " passwords too",
                "Encrypt them: upload.secrets.encrypt_to with an age recipient (`age-keygen` makes one) whose"
                " identity isn't on this host. Or send them to another place.",
            )


def _same_place(one: Destination[Any] | FailedDestination, other: Destination[Any] | FailedDestination) -> bool:
    if isinstance(one, FailedDestination) or isinstance(other, FailedDestination):
        return one.name == other.name
    first, second = f"{one.location.rstrip('/')}/", f"{other.location.rstrip('/')}/"
    return first.startswith(second) or second.startswith(first)


def _wrong(problem: str, hint: str) -> UsageError:
    return UsageError("configuration", problem, hint=hint)


@dataclass(frozen=True)
class DestinationState:
    """How a destination stands, for `status`: times in UTC; ``problem`` why it can't be used at all."""

    name: str
    location: str | None
    streams: tuple[str, ...]
    dumps: int
    since: datetime | None
    done_at: datetime | None
    failure: UploadFailure | None
    problem: str | None
    hint: str | None


class OffHost:
    """Each destination has a queue of its own: one that hangs delays neither the others nor a dump."""

    def __init__(self, settings: Settings, backups: Backups, queues: dict[str, OperationQueue]) -> None:
        """``queues`` outlive the configuration: what one of them runs isn't begun a second time beside it.

        Raise UsageError, as `load` does.
        """
        self._settings = settings
        self._backups = backups
        self._queues = queues
        self._uploads = Uploads(settings, backups)
        loaded = load(settings)
        self._failed = [item for item in loaded.values() if isinstance(item, FailedDestination)]
        self.places = {
            name: _place(settings, item) for name, item in loaded.items() if not isinstance(item, FailedDestination)
        }
        """Those that can be used, by name."""
        for failed in self._failed:
            _log.error(
                f"Destination {failed.name} can't be used: {failed.problem}",
                destination=failed.name,
                hint=failed.hint,
            )

    # Looking.

    @property
    def used(self) -> list[Place]:
        """Those that a stream goes to."""
        return [place for place in self.places.values() if self._uploads.streams(place)]

    def stored(self) -> dict[str, list[tuple[Place, StoredDump]]]:
        """Where each dump is, by its name, as of the last looks."""
        found: dict[str, list[tuple[Place, StoredDump]]] = defaultdict(list)
        for place in self.places.values():
            for dump in stored_dumps(place.memory, self._settings.upload.dumps.prefix):
                found[str(dump.name)].append((place, dump))
        return found

    def where(self, backups: Iterable[Backup]) -> dict[str, tuple[str, ...]]:
        """Where each of some backups is, by name: what has its content, under its name or another's."""
        stored = self.stored()
        contents: dict[str, set[str]] = defaultdict(set)
        for copies in stored.values():
            for place, dump in copies:
                if dump.manifest:
                    contents[dump.manifest.content_sha256].add(place.name)
        named = {name: {place.name for place, _ in copies} for name, copies in stored.items()}
        return {
            b.name: tuple(sorted({*named.get(b.name, ()), *contents.get(b.content or "", ())})) for b in backups
        }

    def only_there(self, here: Iterable[str]) -> list[Backup]:
        """The dumps that are at a destination and not here; of several copies the one that is best known."""
        names = set(here)
        return [
            min((dump for _, dump in copies), key=lambda dump: dump.manifest is None).backup
            for name, copies in self.stored().items()
            if name not in names
        ]

    def states(self) -> list[DestinationState]:
        """How each destination stands."""
        prefix = self._settings.upload.dumps.prefix
        states = []
        for place in self.places.values():
            facts = place.memory.facts
            states.append(
                DestinationState(
                    name=place.name,
                    location=place.destination.location,
                    streams=self._uploads.streams(place),
                    dumps=sum(1 for _ in stored_dumps(place.memory, prefix)),
                    since=facts.since,
                    done_at=facts.done_at,
                    failure=facts.failure,
                    problem=None,
                    hint=None,
                )
            )
        failed = [DestinationState(f.name, None, (), 0, None, None, None, f.problem, f.hint) for f in self._failed]
        return sorted([*states, *failed], key=lambda state: state.name)

    def find(self, name: str | None) -> list[Place]:
        """The place of that name, or all that a stream goes to. Raise UsageError when there is none."""
        if name is None:
            if not self.used:
                hint = "docs/off-host.md tells how: [destinations.NAME], and upload.dumps.to."
                raise UsageError("no-destination", "No destination is configured.", hint=hint)
            return self.used
        if place := self.places.get(name):
            return [place]
        if failed := next((item for item in self._failed if item.name == name), None):
            raise _unusable(failed)
        raise _unknown(name, self.places)

    def plan(self, place: Place) -> UploadPlan:
        """What an upload would do. Blocking. Raise DestinationError."""
        return self._uploads.plan(place)

    def learn(self, name: str) -> None:
        """Read what a dump holds from where it is, if it can be read there. Blocking. Raise DestinationError."""
        for place, dump in self.stored().get(name, []):
            if dump.encrypted or dump.manifest:
                continue
            place.destination.check()
            head = place.destination.read(dump.key, MEMBER_SIZE)
            if manifest := manifest_of(head, dump.file.size):
                place.memory.remember_manifest(dump.key, manifest)
                return

    # Doing.

    def fetch(self, name: str, identity: str | None = None) -> Operation[str]:
        """Queue the fetching of a dump that is off this host; its result is the name. Raise NoSuchBackup."""
        copies = self.stored().get(name)
        if not copies:
            hint = "`arcbackupctl list` shows where each backup is."
            raise NoSuchBackup("no-such-backup", f"There is no backup {name} at any destination.", hint=hint)
        place, dump = min(copies, key=lambda copy: copy[1].encrypted)
        rights = file_rights(self._settings.dump)
        directory = self._backups.directory()

        def start(cancellation: Cancellation) -> Steps[str]:
            return fetch(place, dump, directory, rights, identity, cancellation)

        return self.queue(place.name).submit("fetch", start, Priority.MANUAL, backup=name, destination=place.name)

    def upload(self, place: Place) -> Operation[UploadOutcome]:
        """Queue an upload; one that waits already is that."""
        queue = self.queue(place.name)
        if waiting := queue.waiting("upload"):
            return waiting

        def start(cancellation: Cancellation) -> Steps[UploadOutcome]:
            return _logged(self._uploads.upload(place, cancellation), place.name)

        return queue.submit("upload", start, Priority.SCHEDULED, job="upload", destination=place.name)

    def find_operation(self, identity: str) -> Operation[Any] | None:
        """The operation of that id, while it runs or waits."""
        found = (queue.find(identity) for queue in self._queues.values())
        return next((operation for operation in found if operation), None)

    def queue(self, name: str) -> OperationQueue:
        """That of a destination."""
        return self._queues.setdefault(name, OperationQueue())


def _logged(steps: Steps[UploadOutcome], name: str) -> Steps[UploadOutcome]:
    try:
        while True:
            event = next(steps)
            if isinstance(event, Notice):
                _log.warning(event.text, hint=event.hint)
            yield event
    except StopIteration as stop:
        outcome: UploadOutcome = stop.value
    except Cancelled as error:
        _log.info(error.message)
        raise
    except ArcbackupdError as error:
        failure(error, message_id=MessageId.UPLOAD_FAILED)
        raise
    for problem in outcome.problems:
        _log.warning(problem)
    if outcome.files or outcome.removed:
        gone = f", removed {len(outcome.removed)}" if outcome.removed else ""
        text = f"Uploaded {outcome.files} files to {name}{gone}"
        _log.info(text, message_id=MessageId.UPLOAD_DONE, bytes=outcome.bytes)
    return outcome
