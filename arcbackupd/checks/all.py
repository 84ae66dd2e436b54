"""The list of all checks, in the order in which they make sense to somebody who repairs."""

from __future__ import annotations

from arcbackupd.checks import Check, containers, database, elsewhere, files, host
from arcbackupd.settings import Settings

CHECKS: tuple[Check, ...] = (
    Check("configuration", "the configuration", files.configuration),
    Check("unit", "the unit and its drop-ins", host.unit),
    Check("enabled", "the start with the host", host.enabled),
    Check("group", "the group", host.group),
    Check("socket", "the control socket", host.socket),
    Check("clock", "the clock", host.clock),
    Check("env", "the installation's .env", files.env),
    Check("engine", "the engine", containers.engine),
    Check("database-container", "the database's container", containers.database_container, ("engine",)),
    Check("backend-container", "the backend's container", containers.backend_container, ("engine",)),
    Check("services", "the services of a restore", containers.services, ("engine",)),
    Check("hold", "the hold at a start of the backend", containers.hold, ("engine",)),
    Check("database", "the login to the database", database.database, ("env", "engine", "database-container")),
    Check("pg-dump", "pg_dump", database.pg_dump, ("database",)),
    Check("directory", "the backups' directory", files.directory, ("env",)),
    Check("space", "the space for backups", files.space, ("env", "directory")),
    Check("trial-dump", "a trial dump of the schema", database.trial_dump, ("pg-dump",)),
    Check("last-backup", "the newest backup", files.last_backup, ("env",)),
    Check("encryption", "the encryption of what goes off the host", elsewhere.recipients),
)


def checks_of(settings: Settings) -> tuple[Check, ...]:
    """All checks for a configuration: one for each of its destinations besides."""
    names = sorted(settings.destinations)
    return CHECKS + tuple(
        Check(f"destination-{name}", f"the destination {name}", elsewhere.destination(name)) for name in names
    )
