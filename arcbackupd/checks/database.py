"""Checks of the database: logging in, its version, its programs, and a trial dump that goes nowhere."""

from __future__ import annotations

import secrets
from datetime import timedelta

from arcbackupd import postgres
from arcbackupd.checks import Verdict, ok, skipped, warning
from arcbackupd.checks.subject import Subject
from arcbackupd.dumps.scan import Scanner
from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.niceness import NORMAL
from arcbackupd.operations.database import Database
from arcbackupd.operations.restore.checks import major
from arcbackupd.operations.restores import RESTORING

SUPPORTED = range(14, 19)
"""The majors of PostgreSQL that backups are tested with."""
_BLOCK = 1 << 20
_TRIAL_SECONDS = 60.0
_LOCK_TIMEOUT = timedelta(seconds=10)


def database(subject: Subject) -> Verdict:
    """Whether one can log in, and to which version."""
    if subject.running() in RESTORING:
        return skipped("A restore is at it.")
    there = subject.database()
    facts = there.facts()
    told = f"{there.name} on PostgreSQL {facts.version}: {facts.tables} tables, {facts.size / 1e6:,.1f} MB"
    if wrong := _refused_over_the_network(there):
        return warning(f"{told}; but POSTGRES_PASSWORD in .env is not the one that the server knows.", wrong)
    if major(facts.version) not in SUPPORTED:
        known = f"{SUPPORTED[0]} to {SUPPORTED[-1]}"
        hint = "Backups are taken all the same; see that one restores: `arcbackupctl verify latest`."
        return warning(f"{told}. Backups are tested with PostgreSQL {known}.", hint)
    if not facts.tables:
        hint = (
            "Nothing is wrong where the observatory was never started. Else POSTGRES_DB in .env names another one."
        )
        return warning(f"{told}: there is nothing to back up yet.", hint)
    return ok(f"{told}.")


def _refused_over_the_network(there: Database) -> str:
    """What to do when the password is refused there; over its own Unix socket the server may not ask for one."""
    for address in there.addresses():
        try:
            there.log_in(address)
        except ArcbackupdError as error:  # what else keeps it from there says nothing about the password
            if error.code == "wrong-password":
                return error.hint
    return ""


def pg_dump(subject: Subject) -> Verdict:
    """Whether there is a pg_dump beside the server, not older than it."""
    if subject.running() in RESTORING:
        return skipped("A restore is at it.")
    there = subject.database()
    theirs, own = there.facts().version, there.pg_dump_version()
    if major(own) < major(theirs):
        hint = (
            "Let the database's container, or engine.local.bin_dir, have the programs of the server's own version."
        )
        raise OperationFailed("older-pg-dump", f"pg_dump {own} can't dump a server of {theirs}.", hint=hint)
    return ok(f"pg_dump {own}.")


def trial_dump(subject: Subject) -> Verdict:
    """Whether a dump of the schema comes through whole, and by which path. It is read, and forgotten."""
    if running := subject.running():
        return skipped(f"A {running} runs, which tells as much.")
    there = subject.database()
    application = f"{postgres.DUMP_APPLICATION}-trial-{secrets.token_hex(4)}"
    scanner = Scanner()
    try:
        with there.open_dump(application, _LOCK_TIMEOUT, niceness=NORMAL, schema_only=True) as output:
            detour = output.begin()
            while block := output.read(_BLOCK, timeout=_TRIAL_SECONDS):
                scanner.feed(block)
            finished = output.finish(timeout=_TRIAL_SECONDS)
    except ArcbackupdError:
        there.end_dumps(application)
        raise
    if finished.status:
        raise there.explain(finished, "pg_dump")
    scan = scanner.finish()
    if scan.problem:
        raise OperationFailed("trial-dump-broken", f"A dump of the schema came out broken: {scan.problem}.")
    return _told(subject, scan.length, detour)


def _told(subject: Subject, length: int, detour: str) -> Verdict:
    text = f"The schema came out whole, {length / 1e3:,.0f} kB of SQL"
    if not subject.in_containers:
        return ok(f"{text}.")
    if subject.settings.engine.data_path == "stream":
        return ok(f"{text}, through the engine, as engine.data_path says.")
    if not detour:
        return ok(f"{text}, by the direct path.")
    hint = (
        "Dumps work, at half the speed. It needs the engine on this very host, and CAP_SYS_PTRACE in the unit;"
        ' engine.data_path = "stream" ends this warning.'
    )
    return warning(f"{text}, but not by the direct path: {detour}.", hint)
