"""The command that settles a flagged backup: it shows what is missing, asks, then calls."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from arcbackupd.ctl import render
from arcbackupd.ctl.names import references
from arcbackupd.ctl.session import Session, options
from arcbackupd.ctl.words import clean, paragraph
from arcbackupd.errors import Refused, UsageError


@click.command()
@click.argument("reference", metavar="REF", shell_complete=references)
@click.option("--yes", is_flag=True, help="Don't ask. REF is a whole file name then.")
@options
@click.pass_obj
def accept(session: Session, reference: str, yes: bool) -> None:
    """Say that what a flagged backup holds is as it should be.

    It and later ones are measured against what it holds from then on, and older ones are pruned in time again.
    REF is its number in the list, its name, the beginning of it, or "latest"; with --yes it has to be the whole
    file name.
    """
    backup = session.ask("Inspect", {"reference": reference})["backup"]
    name = backup["name"]
    if not backup.get("anomalies"):
        hint = "See which ones are: arcbackupctl list"
        raise Refused("not-flagged", f"{name} is not flagged: there is nothing to accept.", hint=hint)
    hint = f"If you mean it: arcbackupctl accept {name} --yes"
    if yes and reference != name:
        raise UsageError("usage", f"Nothing was done: {reference} may be another one by now.", hint=hint)
    if not yes:
        if not session.interactive:
            message = "Nothing was done: there is no terminal to confirm it on."
            raise Refused("confirmation-needed", message, hint=hint)
        session.show(backup, partial(_asked, backup))
        session.confirm("Is that as it should be?")
    reply = session.ask("Accept", {"name": name})
    session.show(reply, lambda screen: paragraph(_accepted(name), screen.width))


def _asked(backup: dict[str, Any], screen: render.Screen) -> str:
    return f"{clean(backup['name'])}\n{render.anomalies(backup['anomalies'], screen)}"


def _accepted(name: str) -> str:
    return f"Accepted: {name} and later ones are measured against what it holds, and older ones age again."


COMMANDS: tuple[click.Command, ...] = (accept,)
