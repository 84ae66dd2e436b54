"""``verify``: prove by hand that a backup can be restored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from arcbackupd.ctl import render_drill
from arcbackupd.ctl.interrupts import Interrupts, Words
from arcbackupd.ctl.names import references
from arcbackupd.ctl.progress import follow
from arcbackupd.ctl.session import Session, options
from arcbackupd.errors import OperationFailed

_WORDS = Words(
    promise="Ctrl-C ends it and removes what it made; twice leaves it running.",
    asked="end it",
    leaving="To see it: arcbackupctl status",
)


def _running(_status: Mapping[str, Any]) -> None:
    """Its id is the first that the daemon tells: a drill that runs before that is another one."""


@click.command()
@click.argument("reference", metavar="REF", shell_complete=references)
@options
@click.pass_obj
def verify(session: Session, reference: str) -> int:
    """Prove that a backup can be restored: load it aside, compare it, remove it again.

    REF is its number in the list, its name, the beginning of it, or "latest". The live database is not touched; for
    a backup that others may have written, read docs/drills.md first. "inspect --verify" only reads the file.
    """
    interrupts = Interrupts(session, _running, _WORDS)
    with interrupts.heeded(), session.daemon() as daemon:
        replies = daemon.stream("Verify", {"reference": reference})
        drill = follow(session, interrupts.noting(replies))["drill"]
    session.show(drill, partial(render_drill.verified, drill))
    return 0 if drill["outcome"] == "proved" else OperationFailed.exit_status
