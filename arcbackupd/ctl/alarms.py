"""The commands about alarms: alarms, alarms test."""

from __future__ import annotations

from functools import partial

import click

from arcbackupd.ctl import render_alarms
from arcbackupd.ctl.names import alarm_names
from arcbackupd.ctl.session import Session, options
from arcbackupd.errors import OperationFailed


@click.group(invoke_without_command=True)
@options
@click.pass_context
def alarms(context: click.Context) -> None:
    """Who is told when something is wrong, and whether that works."""
    if context.invoked_subcommand is None:
        _show(context.obj)


@alarms.command("list")
@options
@click.pass_obj
def list_(session: Session) -> None:
    """All alarms, and how they stand."""
    _show(session)


def _show(session: Session) -> None:
    rows = session.ask("Status").get("alarms") or []
    session.show({"alarms": rows}, partial(render_alarms.alarms, rows))


@alarms.command("test")
@click.argument("name", required=False, shell_complete=alarm_names)
@options
@click.pass_obj
def test(session: Session, name: str | None) -> int:
    """Let NAME, or all, tell that this is a test. A ping is told as a failure: the next good run undoes it."""
    reply = session.ask("TestAlarms", {"name": name}, seconds=None)
    session.show(reply, partial(render_alarms.tests, reply["results"]))
    return OperationFailed.exit_status if any(result["error"] for result in reply["results"]) else 0


COMMANDS: tuple[click.Command, ...] = (alarms,)
