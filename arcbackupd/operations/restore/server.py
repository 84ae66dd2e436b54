"""The databases of the installation's server, worked on from the maintenance database."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from datetime import timedelta

from arcbackupd.errors import ArcbackupdError
from arcbackupd.installation import Installation
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.database import Database
from arcbackupd.postgres import DUMP_APPLICATION, LOAD_APPLICATION
from arcbackupd.postgres import databases as sql
from arcbackupd.postgres.databases import Properties
from arcbackupd.stack import Engine

_LONG_SECONDS = 600
"""For a statement that moves files or waits for a checkpoint."""
_SWAP_TRIES = 20
_END_TRIES = 50
_EXACT_STATISTICS = 15
"""First major whose sessions write down what they did before they end, instead of sending it to a collector."""
_PAUSE_SECONDS = 0.2
_IN_USE = "is being accessed by other users"


class Server:
    """Every method raises OperationFailed with what the server said."""

    def __init__(self, engine: Engine, installation: Installation) -> None:
        self._engine = engine
        self._installation = installation
        self._maintenance = self.database(sql.MAINTENANCE)

    def database(self, name: str) -> Database:
        """One of its databases."""
        return Database(self._engine, self._installation, name)

    def version(self) -> str:
        """The server's version, ``16.10``."""
        return self._maintenance.facts().version

    def psql_version(self) -> str:
        """The version of the psql beside the server."""
        return self._maintenance.psql_version()

    def properties(self, name: str) -> Properties | None:
        """What a database is; ``None`` when there is none, or only what a DROP that was interrupted left of it."""
        rows = self.query(sql.PROPERTIES.format(name=sql.literal(name)))
        found = Properties.model_validate(json.loads(rows[0])) if rows else None
        return None if found and found.datconnlimit == sql.INVALID else found

    def names_like(self, prefix: str) -> list[str]:
        """All databases whose name begins so, newest first."""
        return self.query(sql.names_like(prefix))

    def create_statement(self, name: str, like: Properties | None) -> str:
        """SQL that creates a database like another one, or a default one."""
        return sql.create(name, like) if like else sql.create_default(name, self._installation.user)

    def create(self, name: str, like: Properties | None) -> int:
        """Create a database like another one, or a default one; return its identity."""
        self._maintenance.execute(self.create_statement(name, like), timeout=_LONG_SECONDS)
        return int(self.query(sql.identity(name))[0])

    def identity(self, name: str) -> int | None:
        """The identity of a database, also of what an interrupted DROP left of it; ``None``: there is none."""
        return next(map(int, self.query(sql.identity(name))), None)

    def is_template(self, name: str) -> bool:
        """Whether a database is a template, which can't be dropped."""
        found = self.properties(name)
        return found is not None and found.datistemplate

    def drop(self, name: str) -> None:
        """Drop a database if it exists, whoever is connected to it."""
        self._maintenance.execute(sql.drop(name), timeout=_LONG_SECONDS)

    def drop_live(self, live: Properties) -> None:
        """Drop a database that may be a template, or closed."""
        if live.datistemplate:
            self._maintenance.execute(f"ALTER DATABASE {sql.identifier(live.datname)} IS_TEMPLATE false")
        self.drop(live.datname)

    def open(self, name: str) -> None:
        """Accept connections to a database."""
        self._maintenance.execute(sql.allow_connections(name, True))

    def close(self, name: str) -> None:
        """Accept no more connections to a database, and end those that it has."""
        self._maintenance.execute(sql.allow_connections(name, False))
        for _ in range(_END_TRIES):  # until they have gone, and written down what they did
            if not self.end_sessions(name):
                break
            time.sleep(_PAUSE_SECONDS)

    def end_sessions(self, *names: str) -> int:
        """End all sessions of databases; return how many there were."""
        return int(self.query(sql.end_sessions(names))[0])

    def end_application(self, name: str) -> int:
        """End the sessions of one application name; return how many there were."""
        return int(self.query(sql.end_application(name))[0])

    def swap(self, statements: Sequence[str], names: Sequence[str], cancellation: Cancellation) -> None:
        """Rename in one transaction; sessions that were just beginning when it was closed are ended first."""
        for tries in range(_SWAP_TRIES):
            self.end_sessions(*names)
            try:
                self._maintenance.execute(*statements, timeout=_LONG_SECONDS)
            except ArcbackupdError as error:
                if _IN_USE not in error.message or tries == _SWAP_TRIES - 1:
                    raise
                cancellation.wait(_PAUSE_SECONDS)
            else:
                return

    def rehearse(self, statements: Sequence[str]) -> None:
        """Run statements in a transaction that is rolled back."""
        self._maintenance.execute(";\n".join(["BEGIN", *statements, "ROLLBACK"]))

    def drop_invalid(self, name: str) -> None:
        """Drop what a DROP that was interrupted left of a database."""
        if self.query(sql.invalid(name)):
            self.drop(name)

    def create_roles(self, names: Sequence[str]) -> None:
        """Create roles that don't exist yet."""
        missing = self.missing_roles(names)
        if missing:
            self._maintenance.execute(*map(sql.create_role, missing))

    def missing_roles(self, names: Sequence[str]) -> list[str]:
        """Those of the names that no role has."""
        return self.query(sql.missing_roles(names)) if names else []

    def prepared_transactions(self, name: str) -> list[str]:
        """Names of a database's prepared transactions."""
        return self.query(sql.prepared_transactions(name))

    def replication(self, name: str) -> list[str]:
        """A database's subscriptions and active logical slots, in words."""
        return self.query(sql.replication(name))

    def written(self, name: str) -> str:
        """What changes whenever anything is written to a database; its sessions that go on may lag behind."""
        return self.query(sql.written(name, statistics_are_exact=self._major() >= _EXACT_STATISTICS))[0]

    def _major(self) -> int:
        return int(self.version().partition(".")[0])

    def size(self, name: str) -> int:
        """Bytes of a database."""
        return int(self.query(sql.size(name))[0])

    def free_space(self) -> int:
        """Bytes free where the server keeps its data."""
        return self._maintenance.free_space(self.query(sql.DATA_DIRECTORY)[0])

    def shown(self, *statements: str, database: str = sql.MAINTENANCE) -> str:
        """Statements as a shell would run them."""
        text = " ".join(f"{' '.join(statement.split())};" for statement in statements)
        return f"printf %s {shlex.quote(text)} | {self.database(database).script_command(*statements).shown()}"

    def shown_load(self, path: str, database: str) -> str:
        """The load of a dump as a shell would run it."""
        return f"gunzip -c {shlex.quote(path)} | {self.database(database).load_command(LOAD_APPLICATION).shown()}"

    def shown_dump(self, database: str) -> str:
        """A dump as a shell would run it."""
        command = self.database(database).dump_command(DUMP_APPLICATION, timedelta(minutes=1))
        return f"{command.shown()} | gzip"

    def query(self, statement: str) -> list[str]:
        """The first field of each row, asked in the maintenance database."""
        return [row[0] for row in self._maintenance.query(statement)]
