"""The installation's database, reached through the engine: queries, facts, dumps and their end."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from arcbackupd import postgres
from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.installation import Installation
from arcbackupd.niceness import NORMAL, Niceness
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.stack import Engine
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import Dialogue, Finished, Output, run

_QUERY_TIMEOUT = 20
_RETRY_SECONDS = 0.5
_SERVER_STARTS = {"not-accepting", "server-went"}
_STACK_STARTS = {"container-stopped", "container-missing", "engine-down"}
_FROM_SERVER = "Error message from server: "
"""How pg_dump quotes the server below an error of its own."""
_AVAILABLE = re.compile(r"\s(\d+)\s+\d+%\s")
"""In the last line of ``df -P``: the blocks available, and the share that is used."""
_NEXT_DUMP = "The next dump comes by itself"
_KILLED = 128
"""Engines, as shells do, add it to the signal that a program in a container was killed by."""


@dataclass(frozen=True)
class ServerFacts:
    """Version of the server, bytes of the database, number of its tables."""

    version: str
    size: int
    tables: int


_LOAD_OPTIONS = " ".join(f"-c {name}={value}" for name, value in postgres.LOAD_SETTINGS.items())


class Database:
    """The database as the installation's ``.env`` names it now, or another one of the same server."""

    def __init__(self, engine: Engine, installation: Installation, name: str | None = None) -> None:
        self._engine = engine
        self._installation = installation
        self.name = name or installation.database

    def wait_until_accepting(
        self, limit: timedelta, cancellation: Cancellation, *, starting: bool = False
    ) -> ServerFacts:
        """Ask until the server answers. Raise what it said last when ``limit`` is over, other errors at once.

        While the whole stack is ``starting``, the database's container needn't be there yet either.
        """
        deadline = time.monotonic() + limit.total_seconds()
        while True:
            try:
                return self.facts()
            except ArcbackupdError as error:
                passing = _SERVER_STARTS | (_STACK_STARTS if starting else set())
                if error.code not in passing or time.monotonic() > deadline:
                    raise
            cancellation.wait(_RETRY_SECONDS)

    def facts(self) -> ServerFacts:
        """What the server says about itself and the database."""
        version, size, tables = self.query(postgres.SERVER_FACTS)[0]
        return ServerFacts(version.split()[0], int(size), int(tables))

    def query(self, sql: str) -> list[list[str]]:
        """Rows of fields as text. Raise OperationFailed with what the server said."""
        output = self._run(postgres.psql(self._installation.user, self.name, sql), timeout=_QUERY_TIMEOUT)
        return [line.split("\t") for line in output.decode("utf-8", "backslashreplace").split("\n")[:-1]]

    def execute(self, *statements: str, timeout: float = _QUERY_TIMEOUT) -> None:
        """Run statements, several of them in one transaction. Raise OperationFailed with what the server said."""
        finished = run(self.script_command(*statements), timeout=timeout, stdin=_script(statements))
        if finished.status:
            raise self.explain(finished, "psql")

    def script_command(self, *statements: str) -> Command:
        """The command that runs such statements from its input."""
        argv = postgres.psql_script(self._installation.user, self.name, single_transaction=len(statements) > 1)
        return self._command(argv, postgres.QUERY_APPLICATION, fed=True)

    def addresses(self) -> tuple[str, ...]:
        """Network addresses at which it can be reached, if any."""
        return self._engine.database_addresses()

    def log_in(self, address: str) -> None:
        """Log in with the installation's password over the network. Raise OperationFailed when that is refused."""
        self._run(postgres.psql_login(self._installation.user, self.name, address), timeout=_QUERY_TIMEOUT)

    def load_command(self, application: str) -> Command:
        """The command that loads a dump from its input, known to the server by an application name."""
        argv = postgres.psql_load(self._installation.user, self.name)
        return self._engine.in_database(argv, self._environment(application, _LOAD_OPTIONS), fed=True)

    def open_load(self, application: str, *, niceness: Niceness = NORMAL) -> Dialogue:
        """Start loading; see `Engine.open_dialogue`."""
        argv = postgres.psql_load(self._installation.user, self.name)
        environment = self._environment(application, _LOAD_OPTIONS)
        return self._engine.open_dialogue(argv, environment, niceness=niceness)

    def psql_version(self) -> str:
        """The version of the psql that loads dumps here."""
        return self._run(("psql", "--version"), timeout=_QUERY_TIMEOUT).decode("ascii", "replace").split()[2]

    def pg_dump_version(self) -> str:
        """The version of the pg_dump that dumps here."""
        return self._run(("pg_dump", "--version"), timeout=_QUERY_TIMEOUT).decode("ascii", "replace").split()[2]

    def free_space(self, directory: str) -> int:
        """Bytes free on the filesystem of a directory of the server's."""
        told = self._run(("df", "-Pk", directory), timeout=_QUERY_TIMEOUT).decode("utf-8", "replace")
        available = _AVAILABLE.search(told)
        if available is None:
            raise OperationFailed("no-df", f"df doesn't tell the free space of {directory}: {told.strip()[-80:]}")
        return int(available[1]) * 1024

    def dump_command(self, application: str, lock_timeout: timedelta) -> Command:
        """The command that writes a dump to its output, known to the server by an application name."""
        return self._command(postgres.pg_dump(self._installation.user, self.name, lock_timeout), application)

    def open_dump(
        self, application: str, lock_timeout: timedelta, *, niceness: Niceness, schema_only: bool = False
    ) -> Output:
        """Start dumping, all of it or the schema alone; see `Engine.open_output`."""
        argv = postgres.pg_dump(self._installation.user, self.name, lock_timeout, schema_only=schema_only)
        return self._engine.open_output(argv, self._environment(application), niceness=niceness)

    def end_dumps(self, application: str = postgres.DUMP_APPLICATION) -> int:
        """End the server's side of dumps whose application name begins so; return how many there were.

        Killing ``docker exec`` leaves pg_dump running in the container, with its locks.
        """
        return int(self.query(postgres.terminate_dumps(application))[0][0])

    def explain(self, finished: Finished, program: str) -> ArcbackupdError:
        """A failure of a PostgreSQL program in English."""
        return self._engine.explain(finished) or _explain(finished, program, self._installation)

    def _run(self, argv: tuple[str, ...], *, timeout: float) -> bytes:
        finished = run(self._command(argv, postgres.QUERY_APPLICATION), timeout=timeout)
        if finished.status:
            raise self.explain(finished, argv[0])
        return finished.output

    def _command(self, argv: tuple[str, ...], application: str, *, fed: bool = False) -> Command:
        return self._engine.in_database(argv, self._environment(application), fed=fed)

    def _environment(self, application: str, options: str = "") -> Mapping[str, str]:
        password = self._installation.password.get_secret_value()
        return {
            "PGPASSWORD": password,
            "PGAPPNAME": application,
            **({"PGOPTIONS": options} if options else {}),
        }


def _script(statements: tuple[str, ...]) -> bytes:
    return "".join(f"{statement};\n" for statement in statements).encode()


def _explain(finished: Finished, program: str, installation: Installation) -> ArcbackupdError:
    said = finished.error
    if any(text in said for text in postgres.WRONG_PASSWORD):
        hint = "Make POSTGRES_PASSWORD in .env the one that the server knows; it is read anew every time."
        return OperationFailed(
            "wrong-password", f"The database refuses the password of {installation.user}.", hint=hint
        )
    if any(text in said for text in postgres.NOT_ACCEPTING):
        hint = "If it doesn't come up by itself, its log tells why: `docker logs` of the database container."
        return OperationFailed("not-accepting", "The database does not accept connections.", hint=hint)
    if "does not exist" in said and f'database "{installation.database}"' in said:
        hint = "Correct POSTGRES_DB in .env."
        return OperationFailed("no-database", f"There is no database {installation.database}.", hint=hint)
    if any(text in said for text in postgres.LOCK_TIMEOUT):
        hint = "Something holds an exclusive lock, a migration perhaps; the next dump comes by itself."
        return OperationFailed("lock-timeout", "The dump waited too long for a lock on a table.", hint=hint)
    if "server version mismatch" in said:
        hint = "Let engine.local.bin_dir name the programs of the server's own version, or a newer one."
        return OperationFailed("older-pg-dump", f"{program} is older than the database server.", hint=hint)
    if any(text in said for text in postgres.SERVER_WENT):
        hint = "It was stopped, restarted or crashed: its log tells, `docker logs` of the database container."
        hint += f" {_NEXT_DUMP}." if program == "pg_dump" else ""
        return OperationFailed("server-went", f"The database server ended while {program} was at work.", hint=hint)
    return _program_failed(program, finished.status, said)


def _program_failed(program: str, status: int, said: str) -> ArcbackupdError:
    killed_by = -status if status < 0 else status - _KILLED
    if not said and killed_by > 0:
        hint = "Its container was stopped, or memory ran out: see `docker ps -a` and `journalctl -k`."
        hint += f" {_NEXT_DUMP}; `arcbackupctl backup` takes one now." if program == "pg_dump" else ""
        return OperationFailed("program-killed", f"{program} was killed by signal {killed_by}.", hint=hint)
    said = f": {_essence(said)}" if said else ""
    return OperationFailed(
        "program-failed", f"{program} ended with {status}{said}.", hint="The database's log may tell more."
    )


def _essence(said: str) -> str:
    """What tells: the first error, or else the last line, and what the server itself said of it."""
    lines = said.splitlines()
    first = next((line for line in lines if "error:" in line.lower()), lines[-1]).strip().rstrip(".")
    server = next((line.partition(_FROM_SERVER)[2].strip() for line in lines if _FROM_SERVER in line), "")
    return f"{first}: {server.rstrip('.')}" if server else first
