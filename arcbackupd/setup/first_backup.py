"""The last steps of `setup`: the checks from within the service's sandbox, and its first backup."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from arcbackupd.checks import State
from arcbackupd.control.client import Connection
from arcbackupd.ctl.progress import follow
from arcbackupd.ctl.render import Screen
from arcbackupd.ctl.render_doctor import finding as rendered
from arcbackupd.ctl.session import Session
from arcbackupd.errors import ArcbackupdError, Busy, OperationFailed
from arcbackupd.operations.restores import RESTORING
from arcbackupd.setup.steps import Say

_BEGIN_SECONDS = 20.0
"""The daemon takes a backup by itself when it starts and there is none; if it doesn't begin within that, we ask."""
_LOOK_SECONDS = 0.25
_SEEN_TO_NEXT = "last-backup"
"""The finding that isn't told, since `FirstBackup` follows."""


@dataclass(frozen=True)
class Diagnose:
    """Have the daemon go through all checks; say what isn't well."""

    socket: str
    changes: bool = False

    def described(self) -> str:
        """See `Step.described`."""
        return "Have the service check the same once more, with its own rights and from within its sandbox."

    def do(self, say: Say, screen: Screen) -> None:
        """See `Step.do`."""
        with Connection(self.socket) as daemon:
            *_, last = daemon.stream("Diagnose")
        for finding in last["findings"]:
            if finding["state"] in (State.WARNING, State.FAILED) and finding["name"] != _SEEN_TO_NEXT:
                say(rendered(finding, screen))
        if last["state"] == State.FAILED:
            hint = "The hints above tell what to do; then run it again. The service runs, and tries on."
            raise OperationFailed("check-failed", "The service runs, but can't take backups yet.", hint=hint)
        say("The service can do all that it must from within its sandbox.")


@dataclass(frozen=True)
class FirstBackup:
    """Wait until there is a good backup, following the one that is taken."""

    socket: str
    changes: bool = False

    def described(self) -> str:
        """See `Step.described`."""
        return "Wait for the first backup."

    def do(self, say: Say, screen: Screen) -> None:
        """See `Step.do`."""
        del screen
        session = Session()
        session.socket = self.socket
        deadline = time.monotonic() + _BEGIN_SECONDS
        while not (good := (status := session.ask("Status"))["last_good"]):
            if status["operation"]:
                _follow(session, "Attach")
            elif time.monotonic() > deadline:
                if _follow(session, "Backup")["result"]["outcome"] == "skipped":
                    say("The database has no tables yet: the first backup comes when it has some.")
                    return
            else:  # nothing tells when it begins
                time.sleep(_LOOK_SECONDS)
        directory = session.ask("List")["directory"]
        say(f"The newest backup is {good['name']}, in {directory}.")


def refuse_during_restore(socket: str) -> None:
    """Raise Busy while a restore runs, which a restart of the service would interrupt."""
    try:
        with Connection(socket) as daemon:
            operation = daemon.call("Status")["operation"]
    except ArcbackupdError:  # who doesn't answer is at no restore
        return
    if operation and operation["kind"] in RESTORING:
        hint = "`arcbackupctl restore --attach` shows it; run setup again when it has ended."
        raise Busy("restore-running", f"Nothing was done: a {operation['kind']} runs.", hint=hint)


def _follow(session: Session, method: str) -> dict[str, Any]:
    with session.daemon() as daemon:
        return follow(session, daemon.stream(method))
