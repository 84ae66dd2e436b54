"""The command ``doctor``: the daemon's own checks, or else why it doesn't answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from arcbackupd.control.client import socket_path
from arcbackupd.ctl import render_doctor, unreachable
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
        findings, state = _diagnosis(session)
    except (DaemonUnreachable, Refused) as error:
        return _without_daemon(session, error)
    _conclude(session, findings, state, None)
    return _EXIT.get(state, STATUS_UNKNOWN)


def _diagnosis(session: Session) -> tuple[list[Row], str]:
    last: Row = {}
    with session.daemon() as daemon:
        for last in daemon.stream("Diagnose"):
            if finding := last.get("finding"):
                _tell(session, finding)
    return last["findings"], last["state"]


def _without_daemon(session: Session, error: ArcbackupdError) -> int:
    findings = unreachable.findings(socket_path(session.socket), error)
    for finding in findings:
        _tell(session, finding)
    _conclude(session, findings, "failed", error)
    return error.exit_status if isinstance(error, DaemonUnreachable) else STATUS_UNKNOWN


def _tell(session: Session, finding: Row) -> None:
    if not session.json:
        session.say(render_doctor.finding(finding, session.screen()))


def _conclude(session: Session, findings: Sequence[Row], state: str, error: ArcbackupdError | None) -> None:
    if session.json:
        told = {"error": error.as_dict()} if error else {}
        session.say(json.dumps({"state": state, "findings": findings, **told}))
    else:
        session.say(f"\n{render_doctor.conclusion(findings)}")
