"""One container that stands still, and the note by which whoever finds it lets it go."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from arcbackupd.errors import OperationFailed
from arcbackupd.stack.freezer import Freezer
from arcbackupd.stack.standby import Guard

_NOTE = "hold.json"


class _Note(BaseModel):
    """All that is needed to let go: what to write where."""

    container: str
    file: Path
    word: str


class Hold:
    """One container that stands still. Ended once, by whoever comes first; safe to use from several threads."""

    def __init__(
        self, container: str, started_at: datetime, freezer: Freezer, state_dir: Path, seconds: float
    ) -> None:
        """Freeze it, after everything that will let it go again is in place. Raise OSError when it can't be.

        A guard lets it go after so many ``seconds``, or when we end.
        """
        self.container = container
        self.started_at = started_at
        self.since = datetime.now(UTC)
        self.freezer = freezer
        self._note = state_dir / _NOTE
        self._lock = threading.Lock()
        self._over = threading.Event()
        with contextlib.ExitStack() as undo:
            undo.callback(self._note.unlink, missing_ok=True)
            self._write_note()
            self._guard = Guard(freezer, seconds)
            undo.callback(self._guard.dismiss)
            freezer.freeze()
            undo.pop_all()

    @property
    def lasts(self) -> bool:
        """Whether nobody has ended it yet."""
        return not self._over.is_set()

    @property
    def is_on(self) -> bool:
        """Whether the container has stood still since the hold began, and does now."""
        return self.lasts and self.freezer.is_frozen()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it came."""
        return self._over.wait(seconds)

    def end(self) -> bool:
        """Let the container go; return False when it was let go before. Raise OSError when the kernel refuses."""
        with self._lock:
            if self._over.is_set():
                return False
            self._over.set()
            try:
                self.freezer.thaw()
            finally:
                self._guard.dismiss()
            self._note.unlink(missing_ok=True)
            return True

    def _write_note(self) -> None:
        """Not forced to disk: a crash of the host ends the hold too."""
        note = _Note(container=self.container, file=self.freezer.file, word=self.freezer.thaw_word)
        beside = self._note.with_name(f".{self._note.name}")
        beside.write_text(note.model_dump_json())
        beside.replace(self._note)


def let_go_of_leftover(state_dir: Path) -> bool:
    """Let go what a daemon that ended left standing still; return whether it left any. Raise OperationFailed."""
    path = state_dir / _NOTE
    try:
        note = _Note.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValidationError) as error:
        hint = (
            f"Look for FROZEN in freezer.state, or 1 in cgroup.freeze, of the backend's group; then remove {path}."
        )
        raise OperationFailed("hold-unknown", f"{path} can't be read: {error}", hint=hint) from None
    freezer = Freezer(note.file)
    try:
        freezer.thaw()
        path.unlink(missing_ok=True)
    except OSError as error:
        raise not_let_go(freezer, error) from None
    return True


def not_let_go(freezer: Freezer, error: OSError) -> OperationFailed:
    """The error that says how to let a container go by hand."""
    return OperationFailed(
        "hold-stuck",
        f"The backend could not be let go: {error.strerror}; it still stands still.",
        hint=f"As root: echo {freezer.thaw_word} > {freezer.file}",
    )
