"""A restore or a rollback, followed to its end: past Ctrl-C, and past a daemon that goes away and comes back.

The work is the daemon's own. Whatever happens at this end, it goes on: here it is only watched, and asked to stop.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from arcbackupd.control.client import Connection
from arcbackupd.ctl.progress import follow
from arcbackupd.ctl.render_restore import RESTORES
from arcbackupd.ctl.session import Session
from arcbackupd.ctl.words import clean
from arcbackupd.errors import ArcbackupdError, DaemonUnreachable, OperationFailed

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
_FAREWELL_SECONDS = 2.0
_TO_SEE_IT = "To see it: arcbackupctl restore --attach"


def running(status: Mapping[str, Any]) -> str | None:
    """Given the reply of Status, return the id of the restore or rollback that runs."""
    operation = status.get("operation") or {}
    return operation.get("id") if operation.get("kind") in RESTORES else None


class Following:
    """One restore or rollback. Ctrl-C has the daemon undo it (or finish it); a second one only leaves."""

    def __init__(self, session: Session, operation: str | None = None) -> None:
        """``operation`` is its id; without one it is learned from the replies."""
        self._session = session
        self._operation = operation
        self._cancelling: threading.Thread | None = None

    def to_the_end(self, method: str, parameters: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Call; show the events; return the report. Raise DaemonUnreachable when the daemon stays away."""
        if self._session.interactive:
            self._tell(
                "Ctrl-C has it undone, or finished if it has come too far for that; twice leaves it running."
            )
        with _interrupts_go_to(self._interrupted):
            try:
                return self._report(self._last_reply(method, parameters))
            except KeyboardInterrupt:
                self._tell(f"\nThe daemon goes on without being watched. {_TO_SEE_IT}")
                raise
            finally:
                # What was pressed just before the end, or twice in a moment, still reaches the daemon.
                if self._cancelling:
                    self._cancelling.join(_FAREWELL_SECONDS)

    def _last_reply(self, method: str, parameters: Mapping[str, object] | None) -> dict[str, Any]:
        daemon = Connection(self._session.socket)
        while True:
            with daemon:
                try:
                    return follow(self._session, self._noting(daemon.stream(method, parameters)))
                except DaemonUnreachable as lost:
                    self._tell(
                        f"{clean(lost.message)} Waiting up to {_PATIENCE_SECONDS:.0f} s for it to come back."
                    )
            daemon = self._found_again()
            self._tell("The daemon is back.")
            method, parameters = "Attach", {"operation": self._operation}

    def _noting(self, replies: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for reply in replies:
            if isinstance(reply.get("operation"), str):
                self._operation = reply["operation"]
            yield reply

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
        self._operation = self._operation or running(status)
        if self._operation is None:
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

    def _interrupted(self, *_: object) -> None:
        """In the main thread, perhaps in the middle of printing: only what can't get into the way of that."""
        if self._cancelling:
            raise KeyboardInterrupt
        self._cancelling = threading.Thread(target=self._cancel, daemon=True)
        self._cancelling.start()

    def _cancel(self) -> None:
        try:
            with Connection(self._session.socket) as daemon:
                # Not whatever operation runs: that may be a dump, which this one waits for.
                operation = self._operation or running(daemon.call("Status"))
                if operation is None:
                    raise OperationFailed("not-begun", "It has not begun yet.")
                daemon.call("Cancel", {"operation": operation})
        except ArcbackupdError as error:
            self._tell(
                f"The daemon can't be told to undo it: {clean(error.message)} Ctrl-C again leaves it running."
            )
        else:
            self._tell("The daemon was told to undo it, or to finish if it has come too far; waiting for that.")

    def _tell(self, text: str) -> None:
        click.echo(text, err=True)


@contextmanager
def _interrupts_go_to(handler: Callable[..., None]) -> Iterator[None]:
    # A handler instead of catching KeyboardInterrupt: that would tear the stream in the middle of a reply.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # in the background of a script, Ctrl-C is meant for somebody else
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stays_away() -> DaemonUnreachable:
    return DaemonUnreachable(
        "daemon-lost",
        "The daemon went away in the middle and has not come back. When it starts again, it finishes what was "
        "begun or undoes it: the database is then wholly the new one or wholly the old one.",
        hint="Start it: sudo systemctl start arcbackupd. Which of the two it did: arcbackupctl status, and "
        "journalctl -u arcbackupd -e",
    )
