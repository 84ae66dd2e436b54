"""The backend as far as backups care: whether it runs, from which image, which migrations its code has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from arcbackupd.dumps.compatibility import BACKEND_NOT_RUNNING, parse_showmigrations_plan
from arcbackupd.errors import ArcbackupdError
from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger
from arcbackupd.stack import ContainerRun, Engine
from arcbackupd.stack.process import run

_SHOWMIGRATIONS_TIMEOUT = 60
_SAME_RUN_SECONDS = 0.5
_RETRY_SECONDS = 15.0
_log = get_logger()


@dataclass(frozen=True)
class CodeMigrations:
    """The migrations of the running code, or ``None`` and why they aren't known."""

    names: tuple[str, ...] | None
    why_unknown: str = ""


class _Answer(BaseModel):
    """What a run of the backend's container answered, also to an earlier daemon."""

    identity: str
    command: tuple[str, ...]
    migrations: tuple[str, ...]


class Backend:
    """Asks ``showmigrations`` once per run of the backend. Blocking; safe to use from several threads."""

    def __init__(self, engine: Engine, manage: tuple[str, ...], memory: Path) -> None:
        """``memory`` is the file that remembers the last answer; it can be lost at any time."""
        self._engine = engine
        self._command = (*manage, "showmigrations", "--plan")
        self._memory = memory
        self._lock = threading.Lock()
        self._run: ContainerRun | None = None
        self._run_seen_at = -_SAME_RUN_SECONDS
        self._asked: dict[str, tuple[CodeMigrations, float]] = {}
        self.is_held: Callable[[], bool] = lambda: False
        """Whether it stands still at present: nothing can be run beside it then."""

    def run(self) -> ContainerRun | None:
        """The present run of the backend, asked for at most twice a second. Raise what the engine raises."""
        if time.monotonic() - self._run_seen_at >= _SAME_RUN_SECONDS:
            self._run = self._engine.backend_run()
            self._run_seen_at = time.monotonic()
        return self._run

    def image(self) -> str | None:
        """The image that the backend runs from, as the engine identifies it; ``None`` when it isn't known."""
        try:
            present = self.run()
        except ArcbackupdError:
            return None
        return present.image if present else None

    def migrations(self) -> CodeMigrations:
        """The migrations of the running code."""
        with self._lock:
            try:
                present = self.run()
            except ArcbackupdError as error:
                return CodeMigrations(None, error.message)
            if present is None:
                return CodeMigrations(None, BACKEND_NOT_RUNNING)
            known, asked_at = self._asked.get(present.identity, (None, 0.0))
            if known and (known.names is not None or time.monotonic() - asked_at < _RETRY_SECONDS):
                return known
            answer = self._recall(present)
            if answer is None:
                if self.is_held():
                    return CodeMigrations(None, "the backend stands still until its dump is taken")
                answer = self._ask()
                self._remember(present, answer)
            self._asked = {present.identity: (answer, time.monotonic())}
            return answer

    def _recall(self, present: ContainerRun) -> CodeMigrations | None:
        try:
            answer = _Answer.model_validate_json(self._memory.read_bytes())
        except (OSError, ValidationError):  # lost or of another version: it is asked
            return None
        same = (answer.identity, answer.command) == (present.identity, self._command)
        return CodeMigrations(answer.migrations) if same else None

    def _remember(self, present: ContainerRun, answer: CodeMigrations) -> None:
        """A container's start has a time; that of a process on the host could come again."""
        if answer.names is None or not present.container:
            return
        told = _Answer(identity=present.identity, command=self._command, migrations=answer.names)
        with suppress(OSError):  # the next daemon asks again
            write_atomically(self._memory, told.model_dump_json().encode())

    def _ask(self) -> CodeMigrations:
        try:
            finished = run(self._engine.in_backend(self._command), timeout=_SHOWMIGRATIONS_TIMEOUT)
            return CodeMigrations(parse_showmigrations_plan(finished.output.decode("utf-8", "replace")))
        except ArcbackupdError as error:
            return CodeMigrations(None, f"the backend did not answer: {error.message}")
        except ValueError as error:
            said = finished.error.splitlines()[-1] if finished.error else str(error)
            return CodeMigrations(None, f"the backend can't tell its migrations: {said}")
