"""Checks of the engine and of the containers of the installation."""

from __future__ import annotations

import errno
import os

from arcbackupd.checks import Verdict, failed, ok, skipped, warning
from arcbackupd.checks.subject import Subject
from arcbackupd.stack import ServiceState
from arcbackupd.stack.freezer import find_freezer

_NO_CONTAINERS = "There are no containers here: engine.kind is local."


def engine(subject: Subject) -> Verdict:
    """Whether the engine answers."""
    return ok(f"{subject.engine.version()}.")


def database_container(subject: Subject) -> Verdict:
    """Whether the database's container runs."""
    if not subject.in_containers:
        return skipped(_NO_CONTAINERS)
    name, kind = subject.settings.engine.database, subject.settings.engine.kind
    state = subject.engine.state_of(name)
    if state is None:
        hint = f"`{kind} ps --all` lists those there are: correct engine.database, or start the stack."
        return failed(f"There is no container {name}.", hint)
    if not state.running:
        hint = f"`{kind} start {name}`; `{kind} logs {name}` tells why it ended."
        return failed(f"{name} is not running.", hint)
    return _healthy(state, kind)


def backend_container(subject: Subject) -> Verdict:
    """Whether the backend's container runs: backups are taken without it, but not compared with its code."""
    if not subject.in_containers:
        return skipped(_NO_CONTAINERS)
    name, kind = subject.settings.engine.backend, subject.settings.engine.kind
    state = subject.engine.state_of(name)
    if state is None:
        hint = f"`{kind} ps --all` lists those there are: correct engine.backend, or start the stack."
        return warning(f"There is no container {name}: no backup is taken when it starts.", hint)
    if not state.running:
        hint = f"`{kind} start {name}`, unless it is meant to stand still."
        return warning(f"{name} is not running: backups can't be compared with its migrations.", hint)
    return _healthy(state, kind)


def services(subject: Subject) -> Verdict:
    """Which of the services that a restore stops there are."""
    found = subject.engine.services()
    if not found:
        hint = "Name the containers that use the database in engine.services."
        return warning("None of the services that a restore must stop exists.", hint)
    # Of a container that ended, the engine still tells the last health.
    ill = [state.name for state in found if state.running and state.health == "unhealthy"]
    if ill:
        hint = f"Their logs tell why: `{subject.settings.engine.kind} logs {ill[0]}`."
        return warning(f"Unhealthy: {', '.join(ill)}.", hint)
    still = [state.name for state in found if not state.running]
    rest = f", of which {', '.join(still)} stand still" if still else ""
    return ok(f"{len(found)} that a restore stops and starts{rest}.")


def hold(subject: Subject) -> Verdict:
    """Whether the backend can be held at its start until its dump is taken."""
    if not subject.settings.boot.hold or not subject.in_containers:
        return skipped("boot.hold is off." if subject.in_containers else _NO_CONTAINERS)
    run = subject.engine.backend_run()
    if run is None:
        return skipped(f"{subject.settings.engine.backend} is not running.")
    freezer = find_freezer(run.container, run.pid)
    if os.access(freezer.file, os.W_OK):
        return ok(f"By {freezer.file}.")
    read_only = os.statvfs(freezer.file).f_flag & os.ST_RDONLY
    why = os.strerror(errno.EROFS if read_only else errno.EACCES)
    hint = (
        "Containers that were first started after the daemon: `systemctl restart arcbackupd`. An unusual place: let"
        " a drop-in name it in ReadWritePaths=. Or set boot.hold = false."
    )
    return warning(f"The backend can't be held at its start, {freezer.file} can't be written: {why}.", hint)


def _healthy(state: ServiceState, kind: str) -> Verdict:
    if state.restarting:
        return warning(f"{state.name} restarts again and again.", f"`{kind} logs {state.name}` tells why.")
    if state.health == "unhealthy":
        return warning(f"{state.name} runs, but is unhealthy.", f"`{kind} logs {state.name}` tells why.")
    return ok(f"{state.name} runs.")
