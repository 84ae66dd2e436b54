"""What PostgreSQL's own programs are asked, and how: command lines and SQL, as values."""

from __future__ import annotations

from datetime import datetime, timedelta

DUMP_APPLICATION = "arcbackupd-dump"
"""Beginning of the ``application_name`` of every pg_dump that the daemon starts, by which it is found again."""

LOAD_APPLICATION = "arcbackupd-load"
"""Beginning of the ``application_name`` of every psql that loads a dump."""

QUERY_APPLICATION = "arcbackupd"

LOAD_SETTINGS = {
    "synchronous_commit": "off",
    "maintenance_work_mem": "256MB",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "client_min_messages": "warning",
}
"""Of the loading session alone. A crash of the server loses nothing: the transaction that gives the loaded database
its name commits synchronously, and with it everything written to the log before it."""

SEND_AUTOVACUUM_AWAY = """
    SELECT pg_catalog.set_config('deadlock_timeout', '10ms', false)
      FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolsuper
"""
"""A session that waits for autovacuum ends it when deadlock_timeout is over, which is a second, and each foreign
key would wait. Only a superuser may set it."""

NOT_ACCEPTING = (
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "could not connect to server",
    "Connection refused",
    "No such file or directory",
)
"""What psql and pg_dump write when the server isn't there yet, or no more (LC_ALL=C)."""

SERVER_WENT = ("server closed the connection unexpectedly", "terminating connection")
"""What they write when the server ends, or ends their session, while they work."""

LOCK_TIMEOUT = ("canceling statement due to statement timeout", "canceling statement due to lock timeout")
"""What they write when they waited too long for a lock: pg_dump limits nothing else by statement_timeout."""

WRONG_PASSWORD = ("password authentication failed", "no password supplied")

SERVER_FACTS = """
    SELECT current_setting('server_version'), pg_database_size(current_database()),
           (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
"""
"""One row: server version, size of the database in bytes, number of its tables."""

TERMINATE_DUMPS = """
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE pid <> pg_backend_pid() AND datname = current_database() AND application_name LIKE '{prefix}%'
"""
"""Ends the server's side of every pg_dump of this database whose application name begins so; one row: how many."""

BACKEND_SESSIONS = """
    SELECT count(*), (SELECT to_regclass('django_migrations') IS NOT NULL) FROM pg_stat_activity
     WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'
       AND application_name NOT LIKE '{ours}%' AND backend_start >= '{since}' {from_there}
"""
"""One row: sessions that the backend may have begun since its start, and whether there are recorded migrations."""

RECORDED_MIGRATIONS = "SELECT app || '.' || name, applied >= '{since}' FROM django_migrations"
"""Rows of a migration, and whether it was applied since a moment."""

LONGEST_WAIT = """
    WITH dump AS (SELECT array_agg(pid) AS pids FROM pg_stat_activity WHERE application_name = '{application}')
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - waiting.waitstart)), 0)
      FROM pg_locks AS waiting, dump
     WHERE NOT waiting.granted AND cardinality(pg_blocking_pids(waiting.pid)) > 0
       AND pg_blocking_pids(waiting.pid) <@ dump.pids
"""
"""One row: for how many seconds the dump of that name, and nothing besides it, has kept somebody waiting."""


def pg_dump(user: str, database: str, lock_timeout: timedelta, *, schema_only: bool = False) -> tuple[str, ...]:
    """The command that writes a plain dump of the whole database, or of its schema alone, to its output."""
    milliseconds = int(lock_timeout.total_seconds() * 1000)
    return (
        "pg_dump",
        "--format=plain",
        *(("--schema-only",) if schema_only else ()),
        f"--lock-wait-timeout={milliseconds}",
        "--no-password",
        f"--username={user}",
        f"--dbname={_connection(database)}",
    )


def psql(user: str, database: str, sql: str) -> tuple[str, ...]:
    """The command that runs one statement: rows on lines, fields apart by tabs, nothing else, stop at an error."""
    form = ("--quiet", "--no-align", "--tuples-only", "--field-separator=\t")
    return (*_psql(user, database), *form, f"--command={sql.strip()}")


def psql_script(user: str, database: str, *, single_transaction: bool) -> tuple[str, ...]:
    """The command that runs the statements in its input, all of them or, if so wished, none."""
    together = ("--single-transaction",) if single_transaction else ()
    return (*_psql(user, database), "--quiet", "--tuples-only", "--no-align", *together, "--file=-")


def psql_load(user: str, database: str) -> tuple[str, ...]:
    """The command that loads a dump from its input, telling ``COPY n`` and the like of each statement.

    Not ``--single-transaction``: a dump may hold what must not run in one.
    """
    return (*_psql(user, database), "--no-align", "--tuples-only", "--file=-")


def psql_login(user: str, database: str, host: str) -> tuple[str, ...]:
    """The command that only logs in, over the network."""
    return (*_psql(user, database), f"--host={host}", "--quiet", "--output=/dev/null", "--command=SELECT 1")


def _psql(user: str, database: str) -> tuple[str, ...]:
    return (
        "psql",
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        "--no-password",
        f"--username={user}",
        f"--dbname={_connection(database)}",
    )


def terminate_dumps(prefix: str = DUMP_APPLICATION) -> str:
    """SQL that ends the server's side of dumps by application name; the prefix is ours, never a user's text."""
    return TERMINATE_DUMPS.format(prefix=prefix)


def backend_sessions(since: datetime, addresses: tuple[str, ...]) -> str:
    """SQL for the sessions begun since then from these addresses; without any, from anywhere."""
    listed = ", ".join(f"'{address}'" for address in addresses)
    from_there = f"AND client_addr IN ({listed})" if addresses else ""
    return BACKEND_SESSIONS.format(ours=QUERY_APPLICATION, since=since.isoformat(), from_there=from_there)


def recorded_migrations(since: datetime) -> str:
    """SQL for the recorded migrations, and which of them are new since then."""
    return RECORDED_MIGRATIONS.format(since=since.isoformat())


def longest_wait(application: str) -> str:
    """SQL for how long that dump alone has kept somebody waiting; the name is ours, never a user's text."""
    return LONGEST_WAIT.format(application=application)


def _connection(database: str) -> str:
    """A connection string for a database name, so that a name with = or :// in it stays a name."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
