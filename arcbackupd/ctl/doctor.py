"""The command ``doctor``: the daemon's own checks, or else why it doesn't answer."""

from __future__ import annotations

from functools import partial

import click

from arcbackupd.control.client import socket_path
from arcbackupd.ctl import render_doctor
from arcbackupd.ctl.render import Row
from arcbackupd.ctl.session import STATUS_UNKNOWN, Session, options
from arcbackupd.errors import ArcbackupdError, DaemonUnreachable, Refused

_EXIT = {"ok": 0, "warning": 1, "failed": 2}


@click.command()
@options
@click.pass_obj
def doctor(session: Session) -> int:
    """Check all that backups need, and say what to do.

    Exit status: 0 all is well, 1 warning, 2 something failed, 3 it can't be told, 5 daemon not reachable.
    """
    session.is_status = True
    try:
        reply = _diagnosis(session)
    except (DaemonUnreachable, Refused) as error:
        return _without_daemon(session, error)
    _conclude(session, {"state": reply.get("state"), "findings": reply.get("findings")})
    return _EXIT.get(str(reply.get("state")), STATUS_UNKNOWN)


def _diagnosis(session: Session) -> Row:
    reply: Row = {}
    with session.daemon() as daemon:
        for reply in daemon.stream("Diagnose"):
            if finding := reply.get("finding"):
                _tell(session, finding)
    return reply


def _without_daemon(session: Session, error: ArcbackupdError) -> int:
    from arcbackupd.ctl import unreachable  # needed on this way only

    findings = unreachable.findings(socket_path(session.socket), error)
    for finding in findings:
        _tell(session, finding)
    _conclude(session, {"state": "failed", "findings": findings, "error": error.as_dict()})
    return error.exit_status if isinstance(error, DaemonUnreachable) else STATUS_UNKNOWN


def _tell(session: Session, finding: Row) -> None:
    """Show a finding as soon as it is there; with --json, all of them come at the end."""
    if not session.json:
        session.show(finding, partial(render_doctor.finding, finding))


def _conclude(session: Session, document: Row) -> None:
    session.show(document, lambda _: f"\n{render_doctor.conclusion(document['findings'])}")
