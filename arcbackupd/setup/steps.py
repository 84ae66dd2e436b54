"""What `setup` does, as values: each tells what it would do, and does it."""

from __future__ import annotations

import difflib
import os
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from arcbackupd.checks import State, examine, worst
from arcbackupd.checks.all import checks_of
from arcbackupd.checks.subject import Subject
from arcbackupd.ctl.render import Screen
from arcbackupd.ctl.render_doctor import finding as rendered
from arcbackupd.errors import OperationFailed
from arcbackupd.files import write_atomically
from arcbackupd.settings import Settings
from arcbackupd.stack import open_engine
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import run

Say = Callable[[str], None]
_SECONDS = 120.0


class Step(Protocol):
    """One thing to do. ``changes``: whether the host is another one afterwards."""

    @property
    def changes(self) -> bool: ...

    def described(self) -> str:
        """What would be done, in lines."""

    def do(self, say: Say, screen: Screen) -> None:
        """Do it, saying what there is to say. Raise ArcbackupdError."""


@dataclass(frozen=True)
class Examine:
    """Go through the checks that can be made before anything is written."""

    config: Path
    settings: Settings
    changes: bool = False

    def described(self) -> str:
        """See `Step.described`."""
        return "Check what backups need, and make a trial dump of the schema that goes nowhere."

    def do(self, say: Say, screen: Screen) -> None:
        """See `Step.do`."""
        subject = Subject(self.config, self.settings, open_engine(self.settings.engine))
        told = []
        for finding in examine(checks_of(self.settings), subject):
            told.append(finding)
            if finding.state is not State.SKIPPED:
                say(rendered(vars(finding), screen))
        if worst(told) is State.FAILED:
            hint = "The hints above tell what to do; then run it again."
            raise OperationFailed("check-failed", "Nothing was changed, since a check failed.", hint=hint)


@dataclass(frozen=True)
class WriteFile:
    """Write a file, or another text into it; ``copy``: the old one stays beside it under another name."""

    path: Path
    old: str | None
    new: str
    mode: int
    copy: bool = False
    changes: bool = True

    def described(self) -> str:
        """See `Step.described`: as a unified diff."""
        verb = "Write" if self.old is None else "Change"
        copy = ", and keep a copy of what it is now" if self.copy else ""
        before, after = ("/dev/null" if self.old is None else str(self.path)), str(self.path)
        lines = difflib.unified_diff(
            (self.old or "").splitlines(), self.new.splitlines(), before, after, lineterm="", n=2
        )
        return "\n".join([f"{verb} {self.path}{copy}:", *(f"    {line}" for line in lines)])

    def do(self, say: Say, screen: Screen) -> None:
        """See `Step.do`. A file that is there keeps its mode and owner."""
        del screen
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        found = self.path.stat() if self.path.exists() else None
        mode = stat.S_IMODE(found.st_mode) if found else self.mode
        if self.copy and self.old is not None:
            copy = self.path.with_name(f"{self.path.name}.{datetime.now(UTC):%Y%m%d-%H%M%S}.bak")
            write_atomically(copy, self.old.encode(), mode)
            say(f"Kept {copy}.")
        write_atomically(self.path, self.new.encode(), mode)
        if found:
            os.chown(self.path, found.st_uid, found.st_gid)
        say(f"Wrote {self.path}.")


@dataclass(frozen=True)
class RunProgram:
    """Run a program of the host's."""

    text: str
    argv: tuple[str, ...]
    changes: bool = True

    def described(self) -> str:
        """See `Step.described`."""
        return f"{self.text}:\n    {shlex.join(self.argv)}"

    def do(self, say: Say, screen: Screen) -> None:
        """See `Step.do`."""
        del screen
        finished = run(Command(self.argv), timeout=_SECONDS)
        if finished.status:
            hint = f"Try it by hand: `{shlex.join(self.argv)}`. What was done so far stays, and isn't done twice."
            said = finished.error or f"it ended with {finished.status}"
            raise OperationFailed("setup-step-failed", f"{self.text}: {said}.", hint=hint)
        say(f"{self.text}.")
