"""A restore or a rollback, followed to its end: past Ctrl-C, and past a daemon that goes away and comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from arcbackupd.control.client import Connection
from arcbackupd.ctl.interrupts import Interrupts, Words, tell
from arcbackupd.ctl.progress import follow
from arcbackupd.ctl.render_restore import RESTORES
from arcbackupd.ctl.session import Session
from arcbackupd.ctl.words import clean
from arcbackupd.errors import DaemonUnreachable, OperationFailed

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
_WORDS = Words(
    promise="Ctrl-C has it undone, or finished if it has come too far for that; twice leaves it running.",
    asked="undo it",
    more=", or to finish if it has come too far",
    leaving="To see it: arcbackupctl restore --attach",
)


def running(status: Mapping[str, Any]) -> str | None:
    """Given the reply of Status, return the id of the restore or rollback that runs."""
    operation = status.get("operation") or {}
    return operation.get("id") if operation.get("kind") in RESTORES else None


class Following:
    """One restore or rollback. Ctrl-C has the daemon undo it (or finish it); a second one only leaves."""

    def __init__(self, session: Session, operation: str | None = None) -> None:
        """``operation`` is its id; without one it is learned from the replies."""
        self._session = session
        self._interrupts = Interrupts(session, running, _WORDS)
        self._interrupts.operation = operation

    def to_the_end(self, method: str, parameters: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Call; show the events; return the report. Raise DaemonUnreachable when the daemon stays away."""
        with self._interrupts.heeded():
            return self._report(self._last_reply(method, parameters))

    def _last_reply(self, method: str, parameters: Mapping[str, object] | None) -> dict[str, Any]:
        daemon = Connection(self._session.socket)
        while True:
            with daemon:
                try:
                    return follow(self._session, self._interrupts.noting(daemon.stream(method, parameters)))
                except DaemonUnreachable as lost:
                    tell(f"{clean(lost.message)} Waiting up to {_PATIENCE_SECONDS:.0f} s for it to come back.")
            daemon = self._found_again()
            tell("The daemon is back.")
            method, parameters = "Attach", {"operation": self._interrupts.operation}

    def _found_again(self) -> Connection:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                return self._answering(max(left, 0.1))
            except DaemonUnreachable:
                time.sleep(_PAUSE_SECONDS)
        raise _stays_away()

    def _answering(self, seconds: float) -> Connection:
        """A connection to a daemon that answers: where systemd listens, to be able to dial proves nothing."""
        with ExitStack() as unless_it_answers:
            daemon = unless_it_answers.enter_context(Connection(self._session.socket, dial_seconds=seconds))
            self._learn_operation(daemon.call("Status", seconds=seconds))
            unless_it_answers.pop_all()
        return daemon

    def _learn_operation(self, status: Mapping[str, Any]) -> None:
        self._interrupts.operation = self._interrupts.operation or running(status)
        if self._interrupts.operation is None:
            raise OperationFailed(
                "not-begun",
                "The daemon went away before it said that it had begun, and nothing of the kind runs now.",
                hint="How things stand: arcbackupctl status. Then try again.",
            )

    def _report(self, reply: dict[str, Any]) -> dict[str, Any]:
        report: dict[str, Any] | None = reply.get("restore")
        if report is None:
            raise OperationFailed(
                "outcome-unknown",
                "It has ended, and the daemon doesn't tell how.",
                hint="See: arcbackupctl status, and journalctl -u arcbackupd -e",
            )
        return report


def _stays_away() -> DaemonUnreachable:
    return DaemonUnreachable(
        "daemon-lost",
        "The daemon went away in the middle and has not come back. When it starts again, it finishes what was "
        "begun or undoes it: the database is then wholly the new one or wholly the old one.",
        hint="Start it: sudo systemctl start arcbackupd. Which of the two it did: arcbackupctl status, and "
        "journalctl -u arcbackupd -e",
    )
