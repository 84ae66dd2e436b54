"""Ctrl-C while the daemon does something that can be stopped: it is told so once, and a second one only leaves.

The work is the daemon's own. Whatever happens at this end, it goes on: here it is only watched, and asked to stop.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from arcbackupd.control.client import Connection
from arcbackupd.ctl.session import Session
from arcbackupd.ctl.words import clean
from arcbackupd.errors import ArcbackupdError, OperationFailed

_FAREWELL_SECONDS = 2.0


@dataclass(frozen=True)
class Words:
    """What a person is told."""

    promise: str
    """What Ctrl-C will do."""
    asked: str
    """What the daemon is told to do, after "The daemon was told to", and can't be told after "can't be told to"."""
    leaving: str
    """How to see what goes on unwatched."""
    more: str = ""
    """What the daemon may do instead."""


class Interrupts:
    """Of one operation. ``operation`` is its id, once it is known; till then ``running`` finds it in a Status."""

    def __init__(self, session: Session, running: Callable[[Mapping[str, Any]], str | None], words: Words) -> None:
        self._session = session
        self._running = running
        self._words = words
        self._cancelling: threading.Thread | None = None
        self.operation: str | None = None

    def noting(self, replies: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Learn from the replies which operation it is."""
        for reply in replies:
            if isinstance(reply.get("operation"), str):
                self.operation = reply["operation"]
            yield reply

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within it the first Ctrl-C has the operation stopped, and the second raises KeyboardInterrupt."""
        if self._session.interactive:
            tell(self._words.promise)
        with _interrupts_go_to(self._interrupted):
            try:
                yield
            except KeyboardInterrupt:
                tell(f"\nThe daemon goes on without being watched. {self._words.leaving}")
                raise
            finally:
                # What was pressed just before the end, or twice in a moment, still reaches the daemon.
                if self._cancelling:
                    self._cancelling.join(_FAREWELL_SECONDS)

    def _interrupted(self, *_: object) -> None:
        """In the main thread, perhaps in the middle of printing: only what can't get into the way of that."""
        if self._cancelling:
            raise KeyboardInterrupt
        self._cancelling = threading.Thread(target=self._cancel, daemon=True)
        self._cancelling.start()

    def _cancel(self) -> None:
        asked = self._words.asked
        try:
            with Connection(self._session.socket) as daemon:
                # Not whatever operation runs: that may be a dump, which this one waits for.
                operation = self.operation or self._running(daemon.call("Status"))
                if operation is None:
                    raise OperationFailed("not-begun", "It has not begun yet.")
                daemon.call("Cancel", {"operation": operation})
        except ArcbackupdError as error:
            tell(f"The daemon can't be told to {asked}: {clean(error.message)} Ctrl-C again leaves it running.")
        else:
            tell(f"The daemon was told to {asked}{self._words.more}; waiting for that.")


def tell(text: str) -> None:
    """Say it to whoever is there, beside what is printed."""
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
