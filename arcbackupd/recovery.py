"""``arcbackupd recover``: everything back on a host that has nothing, where no daemon runs yet.

From what a configuration says, or from a place named on the command line. It brings back `.env`, the Compose files
and the shared data, fetches a dump, and restores it where the database runs and is empty. Begun again, it goes on.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import ValidationError

from arcbackupd.daemon import host_id
from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.errors import ArcbackupdError, OperationFailed, Refused, UsageError
from arcbackupd.installation import read_installation
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.database import Database
from arcbackupd.operations.events import Event, Steps
from arcbackupd.operations.offhost.offhost import open_place
from arcbackupd.operations.offhost.recover import Recovery, SecretFile
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.operations.queue import Operation, OperationQueue
from arcbackupd.operations.restore.checks import Request
from arcbackupd.operations.restores import Restores
from arcbackupd.operations.state_dir import only_one
from arcbackupd.settings import (
    DestinationTable,
    Settings,
    load_settings,
    validation_reasons,
)
from arcbackupd.stack import open_engine

T = TypeVar("T")
_SOURCE = "recovery"
_WAIT = timedelta(seconds=20)
_STREAMS = ("secrets", "data", "dumps")
_PLACES = "A path, s3://BUCKET/PREFIX?endpoint=URL, rclone:REMOTE:PATH, or restic:REPOSITORY."


@dataclass(frozen=True)
class Wanted:
    """What was asked for. ``source``: a place instead of a configured destination, as a URL."""

    destination: str | None = None
    source: str | None = None
    identity: Path | None = None
    install_dir: Path | None = None
    backup: str | None = None
    data: bool = True
    restore: bool = True
    dry_run: bool = False


Tell = Callable[[Event], None]
Say = Callable[[str], None]


def recover(config: Path, wanted: Wanted, tell: Tell, say: Say) -> None:
    """Do it. ``tell`` hears the events, ``say`` gets sentences. Raise ArcbackupdError for what is in the way."""
    settings = _settings(config, wanted)
    began = time.monotonic()
    if wanted.dry_run:
        with tempfile.TemporaryDirectory() as nothing:  # where it may note what will be forgotten
            settings = settings.model_copy(update={"state_dir": Path(nothing)})
            _Recovering(settings, wanted, tell, say).show()
        return
    with only_one(settings.state_dir):
        _Recovering(settings, wanted, tell, say).run()
    say(f"Done in {time.monotonic() - began:.0f} s.")


class _Recovering:
    def __init__(self, settings: Settings, wanted: Wanted, tell: Tell, say: Say) -> None:
        self._settings = settings
        self._wanted = wanted
        self._tell = tell
        self._say = say
        self._engine = open_engine(settings.engine)
        self._cancellation = Cancellation()
        self._identity = _identity(wanted.identity) if wanted.identity else None
        self._backups = self._make_backups(OperationQueue())

    def show(self) -> None:
        """Tell every action, and do none."""
        secrets = self._secrets()
        for file in secrets:
            path = self._settings.install_dir / file.path
            self._say(f"write {path} (mode {file.mode:04o}), {len(file.data):,} bytes")
        shared = self._shared(secrets)
        if (recovery := self._of("data")) and (index := self._drive(recovery.index())):
            files = [each.node for each in index.nodes if each.node.is_file]
            size = sum(node.size for node in files)
            self._say(f"write {len(files):,} files of shared data below {shared}, {size:,} bytes")
        if (recovery := self._of("dumps")) and (dump := recovery.dump(self._wanted.backup)):
            self._say(f"fetch {dump.name} ({dump.file.size:,} bytes) into {shared / 'db_backups'}")
            if self._wanted.restore:
                self._say(f"restore {dump.name}, if the database runs and is empty")

    def run(self) -> None:
        if recovery := self._of("secrets"):
            files = self._secrets()
            written = self._drive(recovery.write_secrets(files))
            self._say(f"{len(written)} files of the installation written, {len(files) - len(written)} were there.")
        shared = read_installation(self._settings.install_dir, with_password=False).shared_data_path
        if recovery := self._of("data"):
            index = self._drive(recovery.index())
            if index:
                count = self._drive(recovery.write_data(index, shared))
                self._say(f"{count:,} files of shared data written.")
            elif not self._drive(recovery.write_tree(shared)):
                self._say("There are no shared data to bring back.")
        shared.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not (recovery := self._of("dumps")):
            return
        dump = recovery.dump(self._wanted.backup)
        if dump is None:
            raise OperationFailed("no-such-backup", "There is no dump to bring back.", hint="See docs/off-host.md.")
        name = self._drive(recovery.fetch_dump(dump, shared / "db_backups"))
        if self._wanted.restore:
            asyncio.run(self._restore(name))

    def _of(self, stream: str) -> Recovery | None:
        """What brings back a stream, from the first place that it goes to."""
        if stream == "data" and not self._wanted.data:
            return None
        name = self._wanted.destination or next(iter(getattr(self._settings.upload, stream).to), None)
        if name is None:
            return None
        # Not `check`, which tidies up there: a place to recover from may be read-only.
        place = open_place(self._settings, name)
        return Recovery(place, self._settings, self._identity, self._cancellation)

    def _secrets(self) -> list[SecretFile]:
        recovery = self._of("secrets")
        found = self._drive(recovery.secrets()) if recovery else []
        if not found and not (self._settings.install_dir / ".env").exists():
            hint = "Write .env and docker-compose.yml anew, as Arcsecond's installer does; then run it again."
            raise OperationFailed("no-secrets", "There is no .env, neither here nor there.", hint=hint)
        return found

    def _shared(self, secrets: list[SecretFile]) -> Path:
        """Where the shared data will be, as the recovered ``.env`` says."""
        directory = self._settings.install_dir
        if (directory / ".env").exists():
            return read_installation(directory, with_password=False).shared_data_path
        with tempfile.TemporaryDirectory() as temporary:
            for file in secrets:
                if file.path == ".env":
                    (Path(temporary) / ".env").write_bytes(file.data)
            path = read_installation(Path(temporary), with_password=False).shared_data_path
            inside = path.is_relative_to(temporary)
            return directory / path.relative_to(temporary) if inside else path

    async def _restore(self, name: str) -> None:
        queue = OperationQueue()
        backups = self._make_backups(queue)
        restores = Restores(self._settings, self._engine, queue, backups, OwnStarts())
        await asyncio.to_thread(self._require_empty, name)
        report = await self._follow(restores.restore(name, Request(safety_backup=False)))
        self._say(f"Restored {name} into {report.database}.")
        if restores.replaced():  # the empty one that the image made
            await self._follow(restores.discard())

    async def _follow(self, operation: Operation[T]) -> T:
        async for event in operation.events():
            self._tell(event)
        return await operation.result

    def _require_empty(self, name: str) -> None:
        """Raise when the database doesn't run, or holds something."""
        try:
            database = Database(self._engine, self._backups.installation())
            facts = database.wait_until_accepting(_WAIT, self._cancellation)
        except ArcbackupdError as error:
            if error.code == "no-database":
                return
            hint = f"{error.hint} Then run it again: it goes on where it was."
            text = f"All files are back, {name} too; only the database can't be restored yet. {error.message}"
            raise OperationFailed(error.code, text, hint=hint) from error
        if facts.tables:
            hint = f"`arcbackupctl restore {name}` replaces it, and keeps what it replaces."
            raise Refused("would-overwrite", f"The database {database.name} has tables already.", hint=hint)

    def _drive(self, steps: Steps[T]) -> T:
        while True:
            try:
                self._tell(next(steps))
            except StopIteration as stop:
                outcome: T = stop.value
                return outcome

    def _make_backups(self, queue: OperationQueue) -> Backups:
        catalogue = Catalogue(self._settings.state_dir / "catalogue.json")
        return Backups(self._settings, self._engine, queue, host_id(), lambda: None, catalogue)


def _settings(config: Path, wanted: Wanted) -> Settings:
    changed: dict[str, Any] = {}
    if wanted.install_dir:
        changed["install_dir"] = wanted.install_dir.absolute()
    if wanted.source:
        changed["destinations"] = {_SOURCE: table_of(wanted.source)}
    if config.exists() or not wanted.source:
        settings = load_settings(config)
    else:
        with tempfile.NamedTemporaryFile(suffix=".toml") as empty:
            settings = load_settings(Path(empty.name))
    if wanted.source:
        streams = {name: getattr(settings.upload, name).model_copy(update={"to": (_SOURCE,)}) for name in _STREAMS}
        # What only this host needs to encrypt doesn't matter to reading.
        changed["upload"] = settings.upload.model_copy(update=streams)
    return settings.model_copy(update=changed)


def table_of(source: str) -> DestinationTable:
    """A place on the command line as the table that would say it. Raise UsageError.

    ``/mnt/nas/arcsecond``, ``s3://bucket/prefix?endpoint=https://…&region=…``, ``rclone:REMOTE:PATH`` or
    ``restic:REPOSITORY``; keys and passwords come from the environment that S3 and restic know.
    """
    try:
        return DestinationTable.model_validate(_keys(source))
    except ValidationError as error:
        reasons = "; ".join(validation_reasons(error))
        raise UsageError("usage", f"{source} is no place to recover from: {reasons}.", hint=_PLACES) from None


def _keys(source: str) -> dict[str, Any]:
    kind, _, rest = source.partition(":")
    if source.startswith("/"):
        return {"type": "directory", "path": source, "mount": False}
    if kind == "s3" and rest.startswith("//"):
        url = urlsplit(source)
        bucket = {"bucket": url.netloc, "prefix": unquote(url.path.strip("/"))}
        return {"type": "s3", **bucket, **dict(parse_qsl(url.query))}
    if kind == "rclone" and rest:
        return {"type": "rclone", "remote": rest}
    if kind == "restic" and rest:
        password = {"password": os.environ["RESTIC_PASSWORD"]} if "RESTIC_PASSWORD" in os.environ else {}
        return {"type": "restic", "repository": rest, **password}
    raise UsageError("usage", f"{source} is no place to recover from.", hint=_PLACES)


def _identity(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError("usage", f"The identity can't be read from {path}: {why}.") from None
