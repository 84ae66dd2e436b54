"""The commands about copies off this host: upload and fetch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from arcbackupd.ctl import render_offhost
from arcbackupd.ctl.names import destination_names, references
from arcbackupd.ctl.progress import follow
from arcbackupd.ctl.session import Session, options
from arcbackupd.errors import OperationFailed, UsageError

_IDENTITY_LIMIT = 32_768


@click.command()
@click.argument("destination", required=False, shell_complete=destination_names)
@click.option("--dry-run", is_flag=True, help="Only show what would be put there and removed.")
@options
@click.pass_obj
def upload(session: Session, destination: str | None, dry_run: bool) -> int:
    """Upload what is missing off this host, to DESTINATION or to all."""
    parameters = {"destination": destination}
    if dry_run:
        reply = session.ask("PlanUpload", parameters, seconds=None)
        session.show(reply, partial(render_offhost.plans, reply["plans"]))
        return 0
    try:
        with session.daemon() as daemon:
            reply = follow(session, daemon.stream("Upload", parameters))
    except KeyboardInterrupt:
        click.echo("\nThe daemon goes on with the upload. To see it: arcbackupctl status", err=True)
        raise
    session.show(reply, partial(render_offhost.results, reply["results"]))
    return OperationFailed.exit_status if any(result["error"] for result in reply["results"]) else 0


@click.command()
@click.argument("reference", metavar="REF", shell_complete=references)
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The age identity (private key) that an encrypted one needs.",
)
@options
@click.pass_obj
def fetch(session: Session, reference: str, identity: Path | None) -> None:
    """Bring a backup back that is only off this host.

    REF is its number in the list, its name, or the beginning of it.
    """
    parameters = {"name": reference, "identity": _read(identity) if identity else None}
    with session.daemon() as daemon:
        reply = follow(session, daemon.stream("Fetch", parameters))
    session.show(reply, lambda _: render_offhost.fetched(reply["name"]))


def _read(identity: Path) -> str:
    try:
        text = identity.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError("usage", f"The identity can't be read from {identity}: {why}.") from None
    if len(text) > _IDENTITY_LIMIT:
        raise UsageError("usage", f"{identity} is no identity file: it is too large.")
    return text


COMMANDS: tuple[click.Command, ...] = (upload, fetch)
