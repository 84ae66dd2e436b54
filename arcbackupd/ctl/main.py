"""arcbackupctl: arguments, one call to the daemon, and its reply on the screen. No logic of the daemon's."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from functools import partial

import click

from arcbackupd import __version__
from arcbackupd.ctl import alarms, anomalies, doctor, drill, nagios, offhost, render, render_status, restore
from arcbackupd.ctl.names import job_names, references
from arcbackupd.ctl.progress import follow
from arcbackupd.ctl.report import command as report
from arcbackupd.ctl.session import BROKEN_PIPE, STATUS_UNKNOWN, Session, options, quiet_stdout
from arcbackupd.ctl.watching import watch
from arcbackupd.errors import ArcbackupdError, OperationFailed, UsageError

PROGRAM = "arcbackupctl"
INTERRUPTED = 130
_STATES = {"ok": 0, "warning": 1, "critical": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the client; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if sys.stdout is None:  # closed by a caller who only wants the exit status
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for as long as this process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    session = Session()
    status = _run(arguments, session)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        quiet_stdout()
        return BROKEN_PIPE
    return status


def _run(arguments: Sequence[str], session: Session) -> int:
    try:
        return cli.main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=session) or 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return INTERRUPTED
    except ArcbackupdError as error:
        return _failed(session, error)
    except click.UsageError as error:
        return _misused(arguments, session, error)
    except click.ClickException as error:
        return _failed(session, OperationFailed("failed", error.format_message()))


def _failed(session: Session, error: ArcbackupdError) -> int:
    try:
        return session.fail(error)
    except click.exceptions.Exit as end:
        return end.exit_code


def _misused(arguments: Sequence[str], session: Session, error: click.UsageError) -> int:
    session.json = session.json or "--json" in arguments  # it may come after what is wrong
    words = [word for word in arguments if not word.startswith("-")]
    session.is_status = words[:1] in (["status"], ["doctor"])
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not session.json:
        click.echo(error.format_message(), err=True)  # the help, which is no sentence to put a name before
        return UsageError.exit_status
    path = error.ctx.command_path if error.ctx else PROGRAM
    return _failed(session, UsageError("usage", error.format_message(), hint=f"See: {path} --help"))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"{PROGRAM} {__version__}")
@options
def cli() -> None:
    """Look at, take and restore backups of this observatory's database.

    \b
    Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such backup, 4 refused, 5 daemon not reachable, 6 busy.
    Of status and doctor: 0 fine, 1 warning, 2 critical, 3 unknown or wrong usage, 5 daemon not reachable.
    """


@cli.command("list")
@options
@click.pass_obj
def list_(session: Session) -> None:
    """All backups, newest first; those named in the future, by a clock that ran ahead, are last."""
    reply = session.ask("List")
    # With --json just what the contract says; the rest of the reply is for the text.
    session.show({"backups": reply["backups"]}, partial(render.backups, reply))


@cli.command()
@click.argument("reference", metavar="REF", shell_complete=references)
@click.option("--verify", is_flag=True, help="Read the whole file against its hashes.")
@options
@click.pass_obj
def inspect(session: Session, reference: str, verify: bool) -> int:
    """One backup in full. REF is its number in the list, its name, the beginning of it, or "latest"."""
    with session.daemon() as daemon:
        reply = follow(session, daemon.stream("Inspect", {"reference": reference, "verify": verify}))
    session.show(reply, partial(render.inspection, reply))
    verified = reply.get("verified")
    return 1 if verified is not None and not verified["ok"] else 0


@cli.command()
@click.option("--no-wait", is_flag=True, help="Return at once; the daemon takes it when it can.")
@options
@click.pass_obj
def backup(session: Session, no_wait: bool) -> None:
    """Take a backup now, and wait until it is published."""
    try:
        with session.daemon() as daemon:
            reply = follow(session, daemon.stream("Backup", {"wait": not no_wait}))
    except KeyboardInterrupt:
        click.echo("\nThe daemon goes on with the backup. To see it: arcbackupctl status", err=True)
        raise
    session.show(reply["result"], lambda _: render.backup_result(reply["result"]))


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only show what would go, and why each other one stays.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@options
@click.pass_obj
def prune(session: Session, dry_run: bool, yes: bool) -> None:
    """Remove the backups that retention no longer keeps."""
    if dry_run or not (yes or session.json):
        plan = session.ask("PlanRetention")
        session.show(plan, partial(render.plan, plan))
        if dry_run or not render.going(plan):
            return
    if not yes:
        session.confirm("Remove them, for good?")
    reply = session.ask("Prune", seconds=None)
    session.show(reply, partial(render.plan, reply, removed=True))


for command in (
    drill.verify,
    *restore.COMMANDS,
    *offhost.COMMANDS,
    *anomalies.COMMANDS,
    *alarms.COMMANDS,
    *report.COMMANDS,
    doctor.doctor,
):
    cli.add_command(command)


@cli.command()
@click.option("--watch", "watching", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@click.option(
    "--nagios", "as_plugin", is_flag=True, help="As a plugin of Nagios: no daemon is critical (2), not 5."
)
@options
@click.pass_obj
def status(session: Session, watching: bool, as_plugin: bool) -> int:
    """Am I safe? Exit status: 0 yes, 1 warning, 2 critical, 3 unknown, 5 daemon not reachable."""
    session.is_status = True
    if as_plugin:
        return nagios.check(session)
    if watching:
        watch(session, lambda: _status_text(session))
    try:
        reply = session.ask("Status")
    except ArcbackupdError:
        if not session.json:
            session.say(render_status.UNKNOWN)  # the question was whether one is safe: the error doesn't answer it
        raise
    session.show(reply, partial(render_status.status, reply))
    return _STATES.get(reply["state"], STATUS_UNKNOWN)


def _status_text(session: Session) -> str:
    reply = session.ask("Status")
    return session.rendered(reply, partial(render_status.status, reply))


@cli.group(invoke_without_command=True)
@options
@click.pass_context
def jobs(context: click.Context) -> None:
    """The daemon's jobs: their schedule, last and next run."""
    if context.invoked_subcommand is None:
        _show_jobs(context.obj)


@jobs.command("list")
@options
@click.pass_obj
def jobs_list(session: Session) -> None:
    """All jobs, with their last and next run."""
    _show_jobs(session)


def _show_jobs(session: Session) -> None:
    reply = session.ask("Jobs")
    session.show(reply, partial(render.jobs, reply["jobs"]))


def _job_command(name: str, method: str, text: str) -> None:
    @jobs.command(name, help=text)
    @click.argument("name", shell_complete=job_names)
    @options
    @click.pass_obj
    def act(session: Session, name: str) -> None:
        reply = session.ask(method, {"name": name}, seconds=None)
        session.show(reply, partial(render.jobs, [reply["job"]]))


_job_command("run", "RunJob", "Run a job now, whatever its schedule says.")
_job_command("pause", "PauseJob", "Keep a job from running until it is resumed.")
_job_command("resume", "ResumeJob", "Let a paused job run by its schedule again.")


def _of_the_daemon(name: str, text: str) -> None:
    """A command that the daemon's own code does, in this process's place, so that the client stays thin."""

    @cli.command(name, help=text)
    @click.option("--config", metavar="FILE", help="The configuration (default: $ARCBACKUPD_CONFIG).")
    @options
    @click.pass_obj
    def act(session: Session, config: str | None) -> None:
        # -P: a directory of that name where somebody happens to stand is not the daemon.
        command = [sys.executable, "-P", "-m", "arcbackupd", name]
        command += ["--config", config] if config else []
        command += ["--json"] if session.json else []
        sys.stdout.flush()
        os.execv(sys.executable, command)  # noqa: S606  (no shell is meant)


_of_the_daemon("check-config", "Check the daemon's configuration; needs no running daemon.")
_of_the_daemon("recovery-sheet", "Print what one needs to bring everything back when this host is gone.")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@options
@click.pass_obj
def completion(session: Session, shell: str) -> None:
    """Print the completion script for a shell: source <(arcbackupctl completion bash)."""
    from click.shell_completion import get_completion_class  # needed here only

    script = get_completion_class(shell)
    if script is None:
        raise UsageError("usage", f"There is no completion for {shell}.")
    text = script(cli, {}, PROGRAM, "_ARCBACKUPCTL_COMPLETE").source()
    session.show({"shell": shell, "script": text}, lambda _: text)


if __name__ == "__main__":
    sys.exit(main())
