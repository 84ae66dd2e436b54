"""Checks of the destinations off this host."""

from __future__ import annotations

from collections.abc import Callable

from arcbackupd.checks import Verdict, ok, skipped, warning
from arcbackupd.checks.subject import Subject
from arcbackupd.errors import ArcbackupdError, Busy


def recipients(subject: Subject) -> Verdict:
    """Whether secrets are encrypted to somebody; that recipients are some, reading the configuration has proved."""
    upload = subject.settings.upload
    streams = {"dumps": upload.dumps, "secrets": upload.secrets, "data": upload.data}
    used = {name: stream for name, stream in streams.items() if stream.to}
    if not used:
        return skipped("Nothing goes off this host: docs/off-host.md tells how.")
    told = (f"{name} {_encrypted(len(stream.encrypt_to))}" for name, stream in used.items())
    return ok(f"{', '.join(told)}.")


def destination(name: str) -> Callable[[Subject], Verdict]:
    """What looks whether that destination can be used now."""

    def look(subject: Subject) -> Verdict:
        if name not in subject.destinations:
            return skipped("It is not in force yet.")
        try:
            location = subject.destinations[name]()
        except Busy as busy:
            return skipped(busy.message)
        except ArcbackupdError as error:  # a dump on this host is none the worse for it
            return warning(error.message, error.hint)
        return ok(f"{location} can be used.")

    return look


def _encrypted(count: int) -> str:
    return f"encrypted to {count} recipients" if count > 1 else "encrypted" if count else "not encrypted"
