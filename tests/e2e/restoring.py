"""What tests of restores share: a stack with two states of its database, dumps that misbehave, and what is left.

The quick stack has no backend: its live database is `old`, and `NEW` among its backups is another state of it. What
it has for a service does nothing, is healthy at once and stops at once.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arcbackupd.control.client import Connection
from arcbackupd.dumps.dumpfile import MEMBER_SIZE, manifest_member, read_manifest
from tests.e2e.support import fingerprint
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack

SECONDS = 90.0
"""How long to wait for what takes one."""

BY_HAND = {"dump": {"enabled": False}}
POSTGRES_ARGS = ("-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_prepared_transactions=4")
AT_ONCE = ("--stop-signal=KILL",)
PROMPT = (
    *AT_ONCE,
    "--health-cmd=true",
    "--health-interval=1s",
    "--health-timeout=30s",
)
"""A service that stops at once, and is healthy at once."""

NEW = "backup-20260102-030405.sql.gz"
"""The whole backup, with its manifest, among those of the quick stack."""
FOREIGN = "backup-20260101-000000.sql.gz"
"""The name of one that a test drops in by hand."""

_NEW_STATE = """
    CREATE TABLE marks (name text PRIMARY KEY);
    INSERT INTO marks VALUES ('new');
    CREATE TABLE frames (n serial PRIMARY KEY, hex text NOT NULL);
    INSERT INTO frames (hex) SELECT md5(i::text) FROM generate_series(1, 3000) AS i;
    CREATE TABLE zeniths AS SELECT n, hex FROM frames WHERE n % 10 = 0;
    CREATE INDEX zeniths_hex ON zeniths (hex);
    CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql AS $$ SELECT 2 * $1 $$;
"""
_OLD_STATE = """
    UPDATE marks SET name = 'old';
    DELETE FROM frames WHERE n > 2000;
    CREATE TABLE added (line text);
    INSERT INTO added VALUES ('since'), (E'a tab\\tand a \\\\ backslash');
    DROP TABLE zeniths;
"""
_RESET = """
    DROP ROLE IF EXISTS hold_the_load;
    SELECT format('ALTER DATABASE %I IS_TEMPLATE false', datname), format('DROP DATABASE %I WITH (FORCE)', datname)
      FROM pg_database WHERE datname LIKE 'arcbackupd\\_%' OR datname = '{live}' \\gexec
    CREATE DATABASE {live} TEMPLATE {state};
"""
_LEFT = """
    SELECT datname FROM pg_database WHERE datname LIKE 'arcbackupd%'
     UNION ALL SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'arcbackupd-load%'
"""
_HOLD = """
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'hold_the_load') LOOP
        PERFORM pg_catalog.pg_sleep(0.02);
    END LOOP;
END $$;
"""
"""SQL at which a load waits for as long as there is that role: every database of a server sees its roles."""


@dataclass(frozen=True)
class Quick:
    """A quick stack; `old` and `new` are its two states' fingerprints, `kept` is the backup of the new one."""

    stack: ArcsecondStack
    service: str
    old: dict[str, str]
    new: dict[str, str]
    kept: Path

    @property
    def journal(self) -> Path:
        """Return the file that says where a restore stands; it is there only while one isn't ended."""
        return self.stack.state_dir / "restore.json"

    @property
    def sql(self) -> str:
        """Return the SQL of the backup."""
        return gzip.decompress(self.kept.read_bytes()).decode()

    def reset(self) -> Quick:
        """Put everything back: the live database is `old`, `NEW` the only backup, the daemon remembers nothing."""
        stack = self.stack
        for path in (stack.backups, stack.state_dir):
            shutil.rmtree(path, ignore_errors=True)
        stack.write_env()
        if not stack.state(stack.database)["Running"]:
            stack.start_container(stack.database)
            stack.wait_database()
        if stack.state(self.service)["Status"] != "running":
            stack.start_container(self.service)
        self.make_live("state_old")
        stack.backups.mkdir()
        shutil.copyfile(self.kept, stack.backups / NEW)
        return self

    def make_live(self, state: str) -> None:
        """Replace the live database by a copy of another one, and drop all that the daemon made."""
        self.stack.psql(_RESET.format(live=self.stack.db, state=state), "postgres")

    def databases(self) -> set[str]:
        """Return the names of the databases that the daemon made."""
        names = self.stack.psql("SELECT datname FROM pg_database WHERE datname LIKE 'arcbackupd%'", "postgres")
        return set(names.split())

    def started_at(self) -> str:
        """Return when the service was last started: the same for as long as it is never stopped."""
        state = self.stack.state(self.service)
        assert state["Running"]
        return str(state["StartedAt"])

    def drop_in(self, sql: str, name: str = FOREIGN) -> str:
        """Drop a dump in by hand; return its name."""
        (self.stack.backups / name).write_bytes(gzip.compress(sql.encode()))
        return name

    def drop_in_held(self) -> str:
        """Drop in a dump of the new state whose load waits while there is `held`."""
        return self.drop_in(inserted(self.sql, _HOLD))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the loads of such dumps."""
        self.stack.psql("CREATE ROLE hold_the_load", "postgres")
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Let held loads go on."""
        self.stack.psql("DROP ROLE IF EXISTS hold_the_load", "postgres")

    def wait_held(self) -> None:
        """Wait until a load is being held."""
        sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%hold_the_load%' AND wait_event = 'PgSleep'"
        wait_until(lambda: self.stack.psql(sql, "postgres") == "1", "a load to be held", seconds=SECONDS)

    def assert_tidy(self, daemon: Daemon) -> None:
        """See that nothing is left when all has ended: `status` knows what there is beside the live database.

        A safety backup of what was replaced may still be at work when a rollback has ended.
        """
        wait_until(lambda: call(daemon, "Status")["operation"] is None, "the end of all work", seconds=SECONDS)
        status = call(daemon, "Status")
        left = self.stack.psql(_LEFT, "postgres").split()
        assert sorted(left) == sorted(kept["database"] for kept in status["replaced"])
        assert "restore-unfinished" not in [problem["code"] for problem in status["problems"]]
        assert not self.journal.exists()
        assert daemon.leftovers() == []


@contextmanager
def quick_stack(engine: Engine, major: int = 16, more: str = "") -> Iterator[Quick]:
    """Run a quick stack; `more` is SQL for what both states have besides."""
    with ArcsecondStack(engine, major, with_backend=False, postgres_args=POSTGRES_ARGS) as stack:
        stack.psql(_NEW_STATE + more)
        new = fingerprint(stack)
        with Daemon(stack, jobs=BY_HAND) as daemon:
            kept = stack.directory / NEW
            shutil.copyfile(daemon.path(daemon.json("backup")["name"]), kept)
        stack.psql(f"CREATE DATABASE state_new TEMPLATE {stack.db}", "postgres")
        stack.psql(_OLD_STATE)
        old = fingerprint(stack)
        stack.psql(f"CREATE DATABASE state_old TEMPLATE {stack.db}", "postgres")
        arguments = PROMPT if engine.kind == "docker" else AT_ONCE  # podman's probes need systemd
        service = stack.add_service("quick", ["sleep", "infinity"], arguments=arguments)
        yield Quick(stack, service, old, new, kept)


def call(daemon: Daemon, method: str, **parameters: object) -> dict[str, Any]:
    """Call the daemon without a client."""
    with Connection(str(daemon.stack.control_socket)) as connection:
        return connection.call(method, parameters)


# Dumps


def inserted(sql: str, text: str, after: str = "\n\\.\n") -> str:
    """Return a dump with more text in its middle: after the end of its first table's rows."""
    head, separator, tail = sql.partition(after)
    assert separator
    return head + separator + text + tail


def with_manifest(whole: bytes, path: Path, **changes: Any) -> None:
    """Write a backup whose manifest claims something else."""
    path.write_bytes(whole)
    with path.open("rb") as file:
        manifest = read_manifest(file, len(whole))
    assert manifest is not None
    path.write_bytes(manifest_member(manifest.model_copy(update=changes)) + whole[MEMBER_SIZE:])


def forged(real: bytes, sql: str, path: Path) -> None:
    """Write a backup of other SQL with a manifest that vouches for it, so that no scan looks at it."""
    data, text = gzip.compress(sql.encode(), 1), sql.encode()
    told = {
        "sql_length": len(text),
        "sql_sha256": hashlib.sha256(text).hexdigest(),
        "compressed_length": len(data),
    }
    path.write_bytes(real)
    with path.open("rb") as file:
        manifest = read_manifest(file, len(real))
    assert manifest is not None
    path.write_bytes(manifest_member(manifest.model_copy(update=told)) + data)
