"""The command line of arcbackupd: the daemon in the foreground, and what needs no daemon."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from arcbackupd import __version__
from arcbackupd.errors import ArcbackupdError
from arcbackupd.settings import config_path


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="arcbackupd")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (or ARCBACKUPD_CONFIG).")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Run the backup daemon in the foreground."""
    context.obj = config_path(config)
    if context.invoked_subcommand is None:
        from arcbackupd import daemon

        daemon.run(context.obj)


@cli.command("check-config")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (or ARCBACKUPD_CONFIG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check_config(path: Path, config: Path | None, as_json: bool) -> None:
    """Check the configuration without starting anything."""
    from arcbackupd import daemon

    path = config or path
    jobs, destinations, alarms = daemon.check_config(path)
    if as_json:
        kinds: dict[str, list[Any]] = {
            "failed_jobs": jobs,
            "failed_destinations": destinations,
            "failed_alarms": alarms,
        }
        failed = {name: list(map(asdict, items)) for name, items in kinds.items()}
        click.echo(json.dumps({"config": str(path), "valid": True, **failed}))
        return
    for job in jobs:
        click.echo(f"Job {job.name} would not load: {job.problem}\n  hint: {job.hint}", err=True)
    for one in destinations:
        click.echo(f"Destination {one.name} can't be used: {one.problem}\n  hint: {one.hint}", err=True)
    for alarm in alarms:
        click.echo(f"Alarm {alarm.name} can't be used: {alarm.problem}\n  hint: {alarm.hint}", err=True)
    click.echo(f"{path}: valid")


@cli.command()
@click.pass_obj
def release(path: Path) -> None:
    """Let the backend go on, if a daemon that ended left it standing still. Harmless at any other time."""
    from arcbackupd.operations.hold import let_go_of_leftover
    from arcbackupd.settings import state_dir_of

    if let_go_of_leftover(state_dir_of(path)):
        click.echo("The backend goes on.")


@cli.command()
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (or ARCBACKUPD_CONFIG).")
@click.option("--destination", metavar="NAME", help="The configured destination to recover from.")
@click.option("--from", "source", metavar="PLACE", help="Or a place: a path, s3://…, rclone:…, restic:…")
@click.option("--identity", type=click.Path(path_type=Path), metavar="FILE", help="The age identity (private key).")
@click.option("--install-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where .env is to be.")
@click.option("--backup", metavar="NAME", help="The dump to restore (default: the newest).")
@click.option("--no-data", is_flag=True, help="Leave out the shared data.")
@click.option("--no-restore", is_flag=True, help="Fetch the dump, and don't restore it.")
@click.option("--dry-run", is_flag=True, help="Only tell every action.")
@click.pass_obj
def recover(path: Path, /, config: Path | None, no_data: bool, no_restore: bool, **wanted: Any) -> None:
    """Bring everything back on a fresh host, where no daemon runs. Replaces nothing that is there."""
    from arcbackupd import recovery
    from arcbackupd.telling import Teller

    asked = recovery.Wanted(data=not no_data, restore=not no_restore, **wanted)
    teller = Teller()
    try:
        recovery.recover(config or path, asked, teller.tell, teller.say)
    finally:
        teller.end()


@cli.command("setup")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (or ARCBACKUPD_CONFIG).")
@click.option("--install-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where docker-compose.yml is.")
@click.option("--engine", type=click.Choice(["docker", "podman"]), help="What runs the containers.")
@click.option("--database", metavar="NAME", help="The database's container.")
@click.option("--backend", metavar="NAME", help="The backend's container.")
@click.option("--user", multiple=True, metavar="NAME", help="May look at backups and take one (more than once).")
@click.option("--admin", multiple=True, metavar="NAME", help="May restore and prune too (more than once).")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.option("--force", is_flag=True, help="Replace settings that somebody wrote; a copy is kept.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.pass_obj
def set_up(path: Path, /, config: Path | None, **wanted: Any) -> None:
    """Set arcbackupd up on this host: find the installation, write, check, start, take the first backup.

    It asks little, shows everything before it does it, and can be run again at any time.
    """
    from arcbackupd.setup import run

    run.setup(config or path, run.Wanted(**wanted))


@cli.command("recovery-sheet")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (or ARCBACKUPD_CONFIG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def recovery_sheet(path: Path, config: Path | None, as_json: bool) -> None:
    """Print what one needs to bring everything back when this host is gone. No secret is on it."""
    from arcbackupd import daemon

    sheet = daemon.recovery_sheet(config or path)
    click.echo(json.dumps({"sheet": sheet}) if as_json else sheet, nl=as_json)


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the daemon and its database running at the end.")
def demo(keep: bool) -> None:
    """Show the main job on a throwaway database."""
    from arcbackupd.demo import story

    sys.exit(story.tell(keep=keep))


def main() -> None:
    """Run the command line; errors that an operator can act on go to stderr, with what to do."""
    try:
        cli(prog_name="arcbackupd")
    except ArcbackupdError as error:
        _complain(error)
        sys.exit(error.exit_status)


def _complain(error: ArcbackupdError) -> None:
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": error.as_dict()}))
    elif os.environ.get("JOURNAL_STREAM"):  # systemd started us: an entry of priority err, with its fields
        from arcbackupd.log import configure_logging, failure
        from arcbackupd.messages import MessageId

        configure_logging()
        failure(error, **({"message_id": MessageId.CONFIG_REJECTED} if error.code == "configuration" else {}))
    else:
        click.echo(f"arcbackupd: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""), err=True)


if __name__ == "__main__":
    main()
