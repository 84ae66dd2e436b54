"""Dumps that others wait for, on a real server: who waits for whom decides, and for how long."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from arcbackupd import postgres
from arcbackupd.installation import read_installation
from arcbackupd.operations.cancellation import GAVE_WAY, Cancellation, Cancelled
from arcbackupd.operations.database import Database
from arcbackupd.operations.yielding import yielding
from arcbackupd.settings import Engine, LocalEngine
from arcbackupd.stack import open_engine
from tests.harness.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.harness.process import wait_until

DUMP = "arcbackupd-dump-0123456789ab"
LONG = 60.0
READING = f"SET application_name = '{DUMP}'; BEGIN; LOCK TABLE t IN ACCESS SHARE MODE; SELECT pg_sleep(600)"
ALTERING = "SET application_name = 'migration'; ALTER TABLE t ADD COLUMN more int"


class Site:
    """A database with a table, and sessions that hold it or wait for it."""

    def __init__(self, server: EmbeddedPostgres, name: str, database: Database) -> None:
        self.server, self.name, self.database = server, name, database

    def waited(self) -> float:
        """Return for how long the dump alone has kept somebody waiting."""
        return float(self.database.query(postgres.longest_wait(DUMP))[0][0])

    @contextmanager
    def session(self, sql: str, *, until: str) -> Iterator[None]:
        """Run SQL beside the test, from when a query gives true; end it then."""
        thread = threading.Thread(target=self._run, args=(sql,))
        thread.start()
        try:
            wait_until(lambda: self.server.psql(f"SELECT {until}", self.name) == "t", until, seconds=LONG)
            yield
        finally:
            ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> {}"
            self.server.psql(ending.format(self.name, "pg_backend_pid()"))
            thread.join()

    def _run(self, sql: str) -> None:
        with suppress(EmbeddedPostgresError):  # it is ended
            self.server.psql(sql, self.name, timeout=LONG)


LOCKED = "EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND mode = '{}' AND granted = {})"
READ = LOCKED.format("AccessShareLock", "true")
WAITING = LOCKED.format("AccessExclusiveLock", "false")


@pytest.fixture
def site(embedded_postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Site]:
    """Return a database of its own."""
    server, name = embedded_postgres, f"yielding_{os.getpid()}_{os.urandom(3).hex()}"
    server.create_database(name)
    server.psql("CREATE TABLE t (id int)", name)
    (tmp_path / ".env").write_text(
        f"SHARED_DATA_PATH=.\nPOSTGRES_DB={name}\nPOSTGRES_USER={server.superuser}\nPOSTGRES_PASSWORD=not needed\n"
    )
    local = LocalEngine(bin_dir=server.bin_dir, host=str(server.socket_dir), os_user=server.user or "root")
    database = Database(open_engine(Engine(kind="local", local=local)), read_installation(tmp_path))
    yield Site(server, name, database)
    server.psql(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_dump_that_keeps_somebody_waiting_is_cancelled_and_says_why(site: Site) -> None:
    cancellation, interrupted = Cancellation(), threading.Event()
    with (
        site.session(READING, until=READ),
        site.session(ALTERING, until=WAITING),
        suppress(Cancelled),
        cancellation.interrupting(interrupted.set),
        yielding(site.database, DUMP, timedelta(milliseconds=500), cancellation),
    ):
        assert interrupted.wait(LONG)
    with pytest.raises(Cancelled, match="a lock that the dump alone held") as raised:
        cancellation.check()
    assert raised.value.code == GAVE_WAY
    assert "dump.yield_after" in raised.value.hint


def test_only_a_wait_for_the_dump_alone_counts(site: Site) -> None:
    other = READING.replace(DUMP, "somebody else")
    with site.session(READING, until=READ):
        assert site.waited() == 0
        with site.session(ALTERING, until=WAITING):
            wait_until(lambda: site.waited() > 0, "a wait that counts", seconds=LONG)
    with site.session(other, until=READ), site.session(ALTERING, until=WAITING):
        assert site.waited() == 0


def test_where_two_hold_the_lock_the_dump_is_not_to_blame(site: Site) -> None:
    other = READING.replace(DUMP, "somebody else")
    two = "(SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessShareLock') = 2"
    with site.session(READING, until=READ), site.session(other, until=two), site.session(ALTERING, until=WAITING):
        assert site.waited() == 0


@pytest.mark.parametrize("limit", [None, timedelta(hours=1)])
def test_otherwise_it_is_left_alone(site: Site, limit: timedelta | None) -> None:
    cancellation = Cancellation()
    with yielding(site.database, DUMP, limit, cancellation):
        pass
    cancellation.check()
