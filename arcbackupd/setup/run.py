"""`arcbackupd setup` from its options to its last word."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.errors import UsageError
from arcbackupd.setup import installs
from arcbackupd.setup.config_text import explicit
from arcbackupd.setup.dialogue import Dialogue, unknown_users
from arcbackupd.setup.first_backup import refuse_during_restore
from arcbackupd.setup.host import Host, look
from arcbackupd.setup.plan import Answers, Plan, make_plan


@dataclass(frozen=True)
class Wanted:
    """What the options say."""

    install_dir: Path | None = None
    engine: str | None = None
    database: str | None = None
    backend: str | None = None
    user: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()
    yes: bool = False
    force: bool = False
    dry_run: bool = False


def setup(config: Path, wanted: Wanted) -> None:
    """Look, ask, show, confirm, do. Raise ArcbackupdError: what was done until then stays, and isn't done twice."""
    talk = Dialogue(yes=wanted.yes)
    host = look(config, wanted.engine)
    answers = answered(host, wanted, talk)
    plan = make_plan(host, answers)
    _show(talk, answers, plan)
    if wanted.dry_run:
        talk.say("\nThis was a dry run: nothing was done.")
        return
    if plan.changes:
        refuse_during_restore(str(host.settings.control.socket))
        talk.confirm(plan.replaced, force=wanted.force)
    talk.say()
    for step in plan.steps:
        step.do(talk.say, talk.screen())
    _end(talk, answers)


def answered(host: Host, wanted: Wanted, talk: Dialogue) -> Answers:
    """What has to be known: by the options, by what the configuration says already, by looking, by asking."""
    if unknown := unknown_users([*wanted.user, *wanted.admin]):
        raise UsageError("no-such-user", f"No such user on this host: {', '.join(unknown)}.")
    install_dir = wanted.install_dir and wanted.install_dir.expanduser().absolute()
    written = explicit(host.config_text or "", "install_dir")
    directory = install_dir or Path(written or talk.install_dir(host.installs))
    project = installs.of_project(host.containers, directory)
    database = wanted.database or explicit(host.config_text or "", "engine.database")
    database = database or talk.database(installs.databases(project), host.engine.database)
    found, named = installs.names(project), explicit(host.config_text or "", "engine.services")
    backend = wanted.backend or explicit(host.config_text or "", "engine.backend") or found.backend
    users = wanted.user or talk.users(_whoever_asked(host))
    return Answers(
        install_dir=directory,
        database=database,
        backend=backend,
        services=tuple(named) if named is not None else found.services,
        users=tuple(dict.fromkeys([*users, *wanted.admin])),
        admins=wanted.admin,
    )


def _whoever_asked(host: Host) -> str:
    """The user behind sudo, unless it is one of the group already."""
    user = os.environ.get("SUDO_USER", "")
    return "" if user in ("root", *host.members) or unknown_users([user]) else user


def _show(talk: Dialogue, answers: Answers, plan: Plan) -> None:
    talk.say(f"The observatory is installed in {answers.install_dir}, its database is {answers.database}.")
    if not plan.changes:
        talk.say("It is set up already: nothing needs to be changed.")
    for number, step in enumerate(plan.steps, 1):
        talk.say(f"\n{number}. {step.described()}")


def _end(talk: Dialogue, answers: Answers) -> None:
    talk.say("\nFrom now on a backup is taken every hour, and at every start of the backend.")
    talk.say("    arcbackupctl status      am I safe?")
    talk.say("    arcbackupctl list        all backups")
    talk.say("    arcbackupctl doctor      what is wrong, and what to do")
    if answers.users:
        talk.say(f"For {', '.join(answers.users)} that holds from the next login on.")
    talk.say(
        "They are on this host alone until you say where else: docs/off-host.md, which `man arcbackupd` finds."
    )
