"""``verify``: prove by hand that a backup can be restored."""

from __future__ import annotations

from functools import partial

import click

from arcbackupd.ctl import render_drill
from arcbackupd.ctl.names import references
from arcbackupd.ctl.progress import follow
from arcbackupd.ctl.session import Session, options
from arcbackupd.errors import OperationFailed


@click.command()
@click.argument("reference", metavar="REF", shell_complete=references)
@options
@click.pass_obj
def verify(session: Session, reference: str) -> int:
    """Prove that a backup can be restored: load it aside, compare it, remove it again.

    REF is its number in the list, its name, the beginning of it, or "latest". The live database is not touched; for
    a backup that others may have written, read docs/drills.md first. "inspect --verify" only reads the file.
    """
    try:
        with session.daemon() as daemon:
            drill = follow(session, daemon.stream("Verify", {"reference": reference}))["drill"]
    except KeyboardInterrupt:
        click.echo("\nThe daemon goes on with the drill. To see it: arcbackupctl status", err=True)
        raise
    session.show(drill, partial(render_drill.verified, drill))
    return 0 if drill["outcome"] == "proved" else OperationFailed.exit_status
