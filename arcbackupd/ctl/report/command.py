"""The command ``report``: one page about everything, to look at, to print, or to send to somebody who helps."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

import click

from arcbackupd.ctl.session import Session, not_understood, options
from arcbackupd.errors import OperationFailed

_DEFAULT = "arcbackupd-report.html"
_SECONDS = 120.0


@click.command()
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=_DEFAULT,
    show_default=True,
    help='Where to write it; "-" is the standard output.',
)
@options
@click.pass_obj
def report(session: Session, output: Path) -> None:
    """Write one HTML page about all backups: calendar, growth, retention, destinations.

    It needs no network to be looked at, and holds no secret. With --json: what it is made from.
    """
    from arcbackupd.ctl.report.page import Told, page  # here: no other command needs it

    with session.daemon() as daemon:
        told = Told(
            daemon.call("Status"),
            daemon.call("List", seconds=_SECONDS),
            daemon.call("PlanRetention", {"outlook": True}, seconds=_SECONDS),
        )
    if session.json:
        session.show({"status": told.status, "list": told.listed, "retention": told.retention}, lambda _: "")
        return
    try:
        text = page(told, datetime.now(UTC))
    except (LookupError, TypeError) as error:
        raise not_understood() from error
    if str(output) == "-":
        session.say(text.rstrip("\n"))
        return
    _write(output, text)
    session.say(f"Written to {output}. Open it in any browser.")


def _write(path: Path, text: str) -> None:
    """Write all of it or nothing; what was there before stays until it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with contextlib.ExitStack() as undo:
            descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644)
            undo.callback(part.unlink)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            part.replace(path)
            undo.pop_all()
    except OSError as error:
        hint = "Choose another place with --output FILE."
        raise OperationFailed("not-written", f"{path} can't be written: {error.strerror}.", hint=hint) from None


COMMANDS: tuple[click.Command, ...] = (report,)
