"""The destinations of one configuration: what can be asked of them and done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from arcbackupd.destinations import Destination
from arcbackupd.destinations.plugins import FailedDestination, load_destinations
from arcbackupd.dumps.dumpfile import MEMBER_SIZE
from arcbackupd.errors import ArcbackupdError, Busy, NoSuchBackup, UsageError
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.backups_dir import file_rights
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.events import Notice, Step, Steps
from arcbackupd.operations.offhost.copies import Copies
from arcbackupd.operations.offhost.dumps import StoredDump, manifest_of, stored_dumps
from arcbackupd.operations.offhost.fetch import fetch
from arcbackupd.operations.offhost.memory import DestinationMemory
from arcbackupd.operations.offhost.memory import Failure as UploadFailure
from arcbackupd.operations.offhost.sending import Place, place_directory
from arcbackupd.operations.offhost.staging import Staging
from arcbackupd.operations.offhost.upload import UploadOutcome, UploadPlan, Uploads
from arcbackupd.operations.queue import Operation, OperationQueue, Priority
from arcbackupd.settings import Settings, Upload

T = TypeVar("T")
_TOLD = 20
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
    return _place(settings, destination, Lasting())


def _load(settings: Settings) -> dict[str, Destination[Any] | FailedDestination]:
    tables = {name: (table.type, table.model_extra or {}) for name, table in settings.destinations.items()}
    return load_destinations(tables, settings.state_dir / "off-host")


@dataclass
class Lasting:
    """What outlives a configuration: what runs at each destination, and what is known of each.

    ``changed`` is called whenever something there begins or ends.
    """

    changed: Callable[[], None] = lambda: None
    queues: dict[str, OperationQueue] = field(default_factory=dict)
    memories: dict[str, DestinationMemory] = field(default_factory=dict)

    def queue(self, name: str) -> OperationQueue:
        """That of a destination."""
        return self.queues.setdefault(name, OperationQueue(self.changed))

    def memory(self, directory: Path, location: str) -> DestinationMemory:
        """That of a place: two of one would overwrite each other's notes."""
        return self.memories.setdefault(location, DestinationMemory(directory, location))


def _place(settings: Settings, destination: Destination[Any], lasting: Lasting) -> Place:
    directory = place_directory(settings.state_dir, destination.name)
    memory = lasting.memory(directory, destination.location)
    table = settings.destinations[destination.name]
    return Place(destination, table, memory, Staging(directory / "staging"))


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
    first, second = f"{_whereabouts(one.location)}/", f"{_whereabouts(other.location)}/"
    return first.startswith(second) or second.startswith(first)


def _whereabouts(location: str) -> str:
    """A location without what doesn't tell places apart: links on the way to a directory, TLS, the port of each."""
    url = urlsplit(location)
    if url.scheme == "file":
        return str(Path(unquote(url.path)).resolve()).rstrip("/")
    if url.scheme in ("http", "https"):
        return f"{url.hostname}{url.path}".rstrip("/")
    return location.rstrip("/")


def _wrong(problem: str, hint: str) -> UsageError:
    return UsageError("configuration", problem, hint=hint)


@dataclass(frozen=True)
class DestinationState:
    """How a destination stands, for `status`: times in UTC; ``problem`` why it can't be used at all.

    ``frozen``: why its retention removes nothing.
    """

    name: str
    location: str | None = None
    streams: tuple[str, ...] = ()
    dumps: int = 0
    since: datetime | None = None
    done_at: datetime | None = None
    failure: UploadFailure | None = None
    problems: tuple[str, ...] = ()
    running: str | None = None
    problem: str | None = None
    hint: str | None = None
    frozen: str | None = None


class OffHost:
    """Each destination has a queue of its own: one that hangs delays neither the others nor a dump."""

    def __init__(self, settings: Settings, backups: Backups, lasting: Lasting) -> None:
        """Raise UsageError, as `load` does."""
        self._settings = settings
        self._backups = backups
        self._lasting = lasting
        self._uploads = Uploads(settings, backups)
        loaded = load(settings)
        self._failed = [item for item in loaded.values() if isinstance(item, FailedDestination)]
        self.places = {
            name: _place(settings, item, lasting)
            for name, item in loaded.items()
            if not isinstance(item, FailedDestination)
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

    def copies(self) -> Copies:
        """Which dumps are where. Blocking."""
        return Copies(self.places.values(), self._settings.upload.dumps.prefix)

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
                    problems=facts.problems,
                    running=self._running(place.name),
                    frozen=self._uploads.why_frozen(place),
                )
            )
        failed = [DestinationState(item.name, problem=item.problem, hint=item.hint) for item in self._failed]
        return sorted([*states, *failed], key=lambda state: state.name)

    def _running(self, name: str) -> str | None:
        current = self.queue(name).current
        return current.kind if current else None

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

    # Doing. What asks a destination is an operation of its queue: nothing else ever waits for it.

    def plan(self, place: Place) -> Operation[UploadPlan]:
        """Queue a look at what an upload would do. Raise Busy while one runs."""
        return self._look(place, "plan", lambda: self._uploads.plan(place))

    def check(self, place: Place) -> Operation[None]:
        """Queue a look whether it can be used now. Raise Busy while something runs there."""
        return self._look(place, "check", place.destination.check)

    def learn(self, name: str, copies: Copies) -> Operation[None] | None:
        """Queue the reading of what a dump holds from where it is; ``None`` when it can't be read there now."""
        for place, dump in copies.of(name):
            if not dump.encrypted and self.queue(place.name).current is None:
                return self._look(place, "inspect", partial(_learn, place, dump))
        return None

    def _look(self, place: Place, kind: str, look: Callable[[], T]) -> Operation[T]:
        queue = self.queue(place.name)
        if running := queue.current:
            hint = "`arcbackupctl status` shows it; try again when it has ended."
            raise Busy("busy", f"{_article(running.kind)} {running.kind} runs at {place.name}.", hint=hint)

        def start(_cancellation: Cancellation) -> Steps[T]:
            yield Step("look", f"Looking at {place.name}")
            return look()

        return queue.submit(kind, start, Priority.MANUAL, destination=place.name)

    def fetch(self, name: str, copies: Copies, identity: str | None = None) -> Operation[str]:
        """Queue the fetching of a dump that is off this host; its result is the name. Raise NoSuchBackup."""
        found = copies.of(name)
        if not found:
            hint = "`arcbackupctl list` shows where each backup is."
            raise NoSuchBackup("no-such-backup", f"There is no backup {name} at any destination.", hint=hint)
        place, dump = min(found, key=lambda copy: copy[1].encrypted)
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
        found = (queue.find(identity) for queue in self._lasting.queues.values())
        return next((operation for operation in found if operation), None)

    def queue(self, name: str) -> OperationQueue:
        """That of a destination."""
        return self._lasting.queue(name)

    def running(self, operation: Operation[Any]) -> Operation[Any] | None:
        """What an operation at a destination waits for."""
        current = self.queue(str(operation.fields["destination"])).current
        return None if current is operation else current


def _learn(place: Place, dump: StoredDump) -> None:
    place.destination.check()
    head = place.destination.read(dump.key, MEMBER_SIZE)
    if manifest := manifest_of(head, dump.file.size):
        place.memory.remember_manifest(dump.key, manifest)


def _article(noun: str) -> str:
    return "An" if noun[0] in "aeiou" else "A"


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
    for problem in outcome.problems[:_TOLD]:
        _log.warning(problem)
    if (more := len(outcome.problems) - _TOLD) > 0:
        _log.warning(f"And {more} more things at {name} are not as they should be, or were left out")
    if outcome.files or outcome.removed:
        gone = f", removed {len(outcome.removed)}" if outcome.removed else ""
        text = f"Uploaded {outcome.files} files to {name}{gone}"
        _log.info(text, message_id=MessageId.UPLOAD_DONE, bytes=outcome.bytes)
    return outcome
