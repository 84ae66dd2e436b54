"""Where a backup is loaded for a drill: a database beside the live one, or one in a throwaway container."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pydantic import SecretStr

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.installation import Installation
from arcbackupd.log import get_logger, redact
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.drill.notes import Made, Notes
from arcbackupd.operations.drill.running import run_unless_cancelled
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.restore.loading import run_script
from arcbackupd.operations.restore.server import Server
from arcbackupd.postgres import databases as sql
from arcbackupd.stack.process import run
from arcbackupd.stack.throwaway import Throwaways

PREFIX = "arcbackupd_drill_"
"""Of the names of scratch databases."""
CONTAINER_PREFIX = "arcbackupd-drill-"
_IN_CONTAINER = "drill"
_ENGINE_SECONDS = 120.0
_READY = timedelta(minutes=10)
"""For making the data of a new server and starting it, on a slow disk."""
_PAUSE_SECONDS = 0.3
_FIRST_PROCESS = "SELECT pg_catalog.split_part(pg_catalog.pg_read_file('postmaster.pid'), chr(10), 1)"
"""The process id of the server: 1 in a container, but for the one that only makes the data at first."""
_log = get_logger()


class Scratch(Protocol):
    """A place for one drill. What is made is noted first, and so removed whatever happens."""

    def open(self, cancellation: Cancellation) -> Steps[Server]:
        """The server that it is on. Raise OperationFailed when there is none."""

    def live_bytes(self) -> int:
        """Bytes of the live database, which its newest backup takes too; 0 without one. Raise OperationFailed."""

    def create(self, backup: Backup, cancellation: Cancellation) -> Steps[str]:
        """Make the database to load into, like the live one; return its name. Raise OperationFailed."""

    def remove(self, cancellation: Cancellation) -> Steps[None]:
        """Remove all that was made. Raise OperationFailed when something is left."""


@dataclass
class BesideTheLive:
    """A database of the installation's own server."""

    server: Server
    live: str
    notes: Notes

    def __post_init__(self) -> None:
        self._made = Made(kind="database", name=f"{PREFIX}{secrets.token_hex(6)}")

    def open(self, cancellation: Cancellation) -> Steps[Server]:
        """See `Scratch.open`: it is there."""
        cancellation.check()
        yield from ()
        return self.server

    def live_bytes(self) -> int:
        """See `Scratch.live_bytes`."""
        return _bytes(self.server, self.live)

    def create(self, backup: Backup, cancellation: Cancellation) -> Steps[str]:
        """See `Scratch.create`. No role is made here: roles are the whole server's."""
        if missing := self.server.missing_roles(backup.roles):
            hint = "A restore needs --create-missing-roles; a drill in a container makes them there."
            message = f"The server lacks roles that {backup.name} names: {', '.join(missing)}."
            raise OperationFailed("missing-roles", message, hint=hint)
        name = self._made.name
        yield Step("create", f"Creating {name}")
        self.notes.put(self._made)
        statement = self.server.create_statement(name, self.server.properties(self.live))
        yield from _run(self.server, statement, cancellation)
        self._made = self._made.model_copy(update={"oid": self.server.identity(name)})
        self.notes.put(self._made)
        return name

    def remove(self, cancellation: Cancellation) -> Steps[None]:
        """See `Scratch.remove`."""
        if self._made in self.notes.all():
            yield from remove_database(self.server, self._made, self.notes, cancellation)


@dataclass
class InContainer:
    """A server of its own, for as long as the drill lasts."""

    throwaways: Throwaways
    installation: Installation
    live: Server
    notes: Notes

    def __post_init__(self) -> None:
        self._name = f"{CONTAINER_PREFIX}{secrets.token_hex(6)}"
        password = secrets.token_urlsafe(24)
        redact(password)
        # Not the installation's password: it is read by whoever may inspect the container.
        self._own = self.installation.model_copy(
            update={"database": _IN_CONTAINER, "password": SecretStr(password)}
        )
        self._server = Server(self.throwaways.engine(self._name), self._own)

    def open(self, cancellation: Cancellation) -> Steps[Server]:
        """See `Scratch.open`."""
        cancellation.check()
        yield Step("container", f"Starting {self._name}, without network, from the image of the database")
        self.notes.put(Made(kind="container", name=self._name))
        command = self.throwaways.run(self._name, self._own.user, self._own.password.get_secret_value())
        # To its end, whatever comes: an engine goes on making what it was asked for when its client is killed, and
        # the container would come after everybody has looked for it.
        finished = run(command, timeout=_ENGINE_SECONDS)
        cancellation.check()
        if finished.status:
            raise _not_started(self._name, finished.error)
        self._wait(cancellation)
        return self._server

    def _wait(self, cancellation: Cancellation) -> None:
        """Until the server itself answers, and not the one that makes its data."""
        tries = int(_READY.total_seconds() / _PAUSE_SECONDS)
        for _ in range(tries):
            if not self.throwaways.runs(self._name):
                raise _not_started(self._name, self._last_words(cancellation))
            try:
                if self._server.query(_FIRST_PROCESS) == ["1"]:
                    return
            except ArcbackupdError as error:
                last = error.message
            else:
                last = "its server isn't the container's first process"
            cancellation.wait(_PAUSE_SECONDS)
        raise _not_started(self._name, last)

    def _last_words(self, cancellation: Cancellation) -> str:
        command = self.throwaways.last_words(self._name)
        said = run_unless_cancelled(command, cancellation, seconds=_ENGINE_SECONDS, errors_too=True)
        return said.output.decode("utf-8", "replace")

    def live_bytes(self) -> int:
        """See `Scratch.live_bytes`."""
        return _bytes(self.live, self.installation.database)

    def create(self, backup: Backup, cancellation: Cancellation) -> Steps[str]:
        """See `Scratch.create`. Roles that the backup names are made, as a restore would if it was told to."""
        yield Step("create", f"Creating its database and {len(backup.roles)} roles")
        live = self.live.properties(self.installation.database)
        like = live and live.model_copy(update={"owner": self._own.user, "tablespace": "pg_default"})
        self._server.create_roles(backup.roles)
        yield from _run(self._server, self._server.create_statement(_IN_CONTAINER, like), cancellation)
        return _IN_CONTAINER

    def remove(self, cancellation: Cancellation) -> Steps[None]:
        """See `Scratch.remove`."""
        if any(made.name == self._name for made in self.notes.all()):
            yield Step("drop", f"Removing {self._name}")
            remove_container(self.throwaways, self._name, cancellation)
            self.notes.remove(self._name)


def remove_database(server: Server, made: Made, notes: Notes, cancellation: Cancellation) -> Steps[None]:
    """Drop a scratch database if it is the one that was made; a hostile dump may have given its name to another."""
    there = server.identity(made.name)
    if there is not None and made.oid not in (None, there):
        hint = "Look at the server's databases (`psql -l`), and where that backup comes from."
        _log.error(f"{made.name} is another database than the one that a drill made: it is left alone", hint=hint)
    elif there is not None:
        yield Step("drop", f"Dropping {made.name}")
        # In a statement of its own, which fails for one whose DROP was interrupted: that can't be one any more.
        if server.is_template(made.name):
            yield from _run(server, f"ALTER DATABASE {sql.identifier(made.name)} IS_TEMPLATE false", cancellation)
        yield from _run(server, sql.drop(made.name), cancellation)
    notes.remove(made.name)


def remove_container(throwaways: Throwaways, name: str, cancellation: Cancellation) -> None:
    """Remove a container, which may be gone already, with its volumes. Raise OperationFailed."""
    command = throwaways.remove(name)
    finished = run_unless_cancelled(command, cancellation, seconds=_ENGINE_SECONDS, errors_too=True)
    said = finished.output.decode("utf-8", "replace").strip()
    if finished.status and "no such" not in said.lower():
        hint = f"By hand: `{command.shown()}`."
        raise OperationFailed("container-left", f"{name} could not be removed: {said}.", hint=hint)


def containers_left(throwaways: Throwaways, cancellation: Cancellation) -> list[str]:
    """Ids of the containers that this daemon's drills left. Raise OperationFailed when that can't be asked."""
    finished = run_unless_cancelled(throwaways.left(), cancellation, seconds=_ENGINE_SECONDS)
    if finished.status:
        raise OperationFailed("engine-failed", f"Throwaway containers can't be listed: {finished.error}")
    return finished.output.decode().split()


def _bytes(server: Server, name: str) -> int:
    return server.size(name) if server.properties(name) else 0


def _run(server: Server, statement: str, cancellation: Cancellation) -> Steps[None]:
    """One statement that may take long; a cancellation doesn't wait for its end."""
    yield from run_script(server, sql.MAINTENANCE, f"{statement};\n".encode(), cancellation)


def _not_started(name: str, said: str) -> OperationFailed:
    last = " ".join(said.split())[-500:]
    hint = (
        "The database's image must start by itself, given POSTGRES_USER and POSTGRES_PASSWORD, as postgres:16 does."
    )
    return OperationFailed("container-failed", f"{name} doesn't start: {last or 'it says nothing'}.", hint=hint)
