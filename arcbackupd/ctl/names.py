"""Names for the shell to complete, from the daemon: soon, or none."""

from __future__ import annotations

import click

from arcbackupd.control.client import Connection
from arcbackupd.ctl.session import Session
from arcbackupd.errors import ArcbackupdError

_SECONDS = 0.5


def references(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of backups, and ``latest``."""
    return _beginning(incomplete, ["latest", *_names(context, "List", "backups")])


def backup_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of backups: nothing that may mean another one later."""
    return _beginning(incomplete, _names(context, "List", "backups"))


def job_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of jobs."""
    return _beginning(incomplete, _names(context, "Jobs", "jobs"))


def alarm_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of alarms."""
    return _beginning(incomplete, _names(context, "Status", "alarms"))


def destination_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of destinations."""
    return _beginning(incomplete, _names(context, "Status", "destinations"))


def _beginning(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _names(context: click.Context, method: str, key: str) -> list[str]:
    session = context.find_object(Session)
    try:
        with Connection(session.socket if session else None, dial_seconds=_SECONDS) as daemon:
            return [row["name"] for row in daemon.call(method, seconds=_SECONDS)[key]]
    except (ArcbackupdError, LookupError, TypeError):
        return []
