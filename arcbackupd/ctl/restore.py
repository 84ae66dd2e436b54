"""The commands that replace the database: restore, rollback, and discard-replaced. Each shows, asks, then calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from arcbackupd.ctl import render, render_restore
from arcbackupd.ctl.following import Following, running
from arcbackupd.ctl.names import backup_names
from arcbackupd.ctl.session import Session, options
from arcbackupd.errors import NoSuchBackup, OperationFailed, Refused, UsageError

_SEE_HELP = "See: arcbackupctl restore --help"


@click.command()
@click.argument("reference", metavar="[REF]", required=False, shell_complete=backup_names)
@click.option("--yes", is_flag=True, help="Don't ask. REF is a whole file name then.")
@click.option("--force", is_flag=True, help="Also a backup whose migrations the running code doesn't have.")
@click.option("--dry-run", is_flag=True, help="Only show every step, with its commands.")
@click.option("--no-safety-backup", is_flag=True, help="Take no pre-restore backup of what is replaced.")
@click.option(
    "--in-place", is_flag=True, help="Without a second copy beside the database: takes it down for longer."
)
@click.option("--create-missing-roles", is_flag=True, help="Make the roles that the backup needs, without login.")
@click.option("--attach", is_flag=True, help="Follow the restore that runs, or tell how the last one ended.")
@options
@click.pass_obj
def restore(session: Session, /, reference: str | None, attach: bool, yes: bool, dry_run: bool, **how: bool) -> int:
    """Replace the database by a backup.

    REF is its number in the list, its name, the beginning of it, or "latest"; without it you choose from the list.
    With --yes, and without a terminal, it has to be the whole file name, which never means another one later.
    Until "arcbackupctl discard-replaced", or for a time, "arcbackupctl rollback" brings back what was replaced.
    """
    if attach:
        if reference or yes or dry_run or any(how.values()):
            raise UsageError("usage", "--attach stands alone: it follows the restore that runs.", hint=_SEE_HELP)
        return _attach(session)
    reference = reference or _choose(session, yes=yes)
    parameters = _parameters(how)
    plan = session.ask("PlanRestore", {"name": reference, **parameters})["plan"]
    if dry_run:
        return _dry_run(session, plan, force=how["force"])
    if yes or not session.interactive:
        _must_be_the_name(reference, plan["name"])
    _agree(session, plan, "the backup's file name", plan["name"], yes=yes, force=how["force"])
    return _carry_out(session, "Restore", {"name": plan["name"], **parameters})


def _parameters(how: dict[str, bool]) -> dict[str, object]:
    """Only what was asked for: what isn't said is the daemon's to decide."""
    said: dict[str, object] = {key: True for key in ("force", "in_place", "create_missing_roles") if how[key]}
    return said | ({"safety_backup": False} if how["no_safety_backup"] else {})


def _choose(session: Session, *, yes: bool) -> str:
    """Let a backup be picked from the list."""
    if yes or not session.interactive:
        raise UsageError(
            "usage",
            "Nothing was done: it isn't said which backup to restore.",
            hint="Name its file: arcbackupctl restore NAME --yes. The names: arcbackupctl list",
        )
    reply = session.ask("List")
    session.show(reply, partial(render.backups, reply))
    if not reply["backups"]:
        raise NoSuchBackup("no-such-backup", "There is no backup to restore.")
    typed = click.prompt(
        "\nRestore which one? Its number or name; nothing to leave", default="", show_default=False
    )
    return _chosen(typed.strip(), reply["backups"])


def _chosen(typed: str, rows: Sequence[dict[str, Any]]) -> str:
    """Given a number, the name it has in the list that was shown: it may mean another one to the daemon by now."""
    if not typed:
        raise Refused("not-confirmed", "Nothing was done: no backup was chosen.")
    if not typed.isdecimal():
        return typed
    for row in rows:
        if row["index"] == int(typed):
            return str(row["name"])
    raise NoSuchBackup("no-such-backup", f"There is no number {typed} in the list. Nothing was done.")


def _must_be_the_name(reference: str, name: str) -> None:
    if reference != name:
        raise Refused(
            "name-needed",
            f"Nothing was done: {reference} means {name} now, and may mean another backup a moment later.",
            hint=f"Say the whole name when nobody is asked: arcbackupctl restore {name} --yes",
        )


def _agree(session: Session, plan: dict[str, Any], what: str, name: str, *, yes: bool, force: bool = False) -> None:
    """Show the plan and have it confirmed. Raise Refused when it is refused, or nobody confirms it."""
    if not session.json:
        session.show(plan, partial(render_restore.plan, plan, force=force))
    if refusals := render_restore.standing(plan, force=force):
        raise Refused(
            str(refusals[0]["code"]),
            " ".join([*(str(refusal["message"]) for refusal in refusals), "Nothing was touched."]),
            hint=" ".join(filter(None, map(render_restore.refusal_hint, refusals))),
        )
    if not yes:
        session.confirm_by_name(what, name)


def _dry_run(session: Session, plan: dict[str, Any], *, force: bool = False) -> int:
    session.show(plan, partial(render_restore.dry_run, plan, force=force))
    return Refused.exit_status if render_restore.standing(plan, force=force) else 0


def _carry_out(session: Session, method: str, parameters: dict[str, object] | None = None) -> int:
    return _tell_end(session, Following(session).to_the_end(method, parameters))


def _tell_end(session: Session, report: dict[str, Any]) -> int:
    session.show(report, partial(render_restore.report, report))
    good = report["outcome"] in render_restore.DONE and not report["problem"]
    return 0 if good else OperationFailed.exit_status


def _attach(session: Session) -> int:
    status = session.ask("Status")
    if operation := running(status):
        return _tell_end(session, Following(session, operation).to_the_end("Attach", {"operation": operation}))
    last: dict[str, Any] | None = status.get("restore")
    if last is None:
        raise OperationFailed("no-restore", "No restore runs, and none is known to have run.")
    if not session.json:
        session.say("No restore runs now. How the last one ended:")
    return _tell_end(session, last)


@click.command()
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--dry-run", is_flag=True, help="Only show every step, with its commands.")
@options
@click.pass_obj
def rollback(session: Session, yes: bool, dry_run: bool) -> int:
    """Bring back the database that the last restore replaced."""
    plan = session.ask("PlanRollback")["plan"]
    if dry_run:
        return _dry_run(session, plan)
    _agree(session, plan, "the database's name", plan["database"], yes=yes)
    return _carry_out(session, "Rollback")


@click.command("discard-replaced")
@click.option("--yes", is_flag=True, help="Don't ask.")
@options
@click.pass_obj
def discard_replaced(session: Session, yes: bool) -> None:
    """Drop the databases that restores replaced: there is no rollback after it."""
    if not (yes or session.json):
        replaced = session.ask("Status").get("replaced") or []
        if not replaced:
            session.say(render_restore.discarded([]))
            return
        session.show({}, partial(render_restore.kept, replaced))
    if not yes:
        session.confirm("Drop what is kept, for good?")
    reply = session.ask("DiscardReplaced", seconds=None)
    session.show(reply, lambda _: render_restore.discarded(reply["discarded"]))


COMMANDS: tuple[click.Command, ...] = (restore, rollback, discard_replaced)
