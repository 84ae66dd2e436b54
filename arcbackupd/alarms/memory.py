"""What each alarm was told last, across restarts. It can be lost: then what goes on is told again."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from arcbackupd.alarms.news import Told
from arcbackupd.files import write_atomically

_FILE = TypeAdapter(dict[str, Told])


class AlarmMemory:
    """Of all alarms; safe to use from several threads."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "alarms.json"
        self._lock = threading.Lock()
        self._told = self._read()

    def told(self, name: str) -> Told:
        """What an alarm was told last."""
        with self._lock:
            return self._told.get(name, Told())

    def remember(self, name: str, told: Told) -> None:
        """Note what an alarm was told."""
        with self._lock:
            self._told = {**self._told, name: told}
            self._write()

    def keep(self, names: Collection[str]) -> None:
        """Forget the alarms that aren't among these."""
        with self._lock:
            kept = {name: told for name, told in self._told.items() if name in names}
            if kept != self._told:
                self._told = kept
                self._write()

    def _read(self) -> dict[str, Told]:
        try:
            return _FILE.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):  # lost, or of another version
            return {}

    def _write(self) -> None:
        with suppress(OSError):  # it can be lost, and whoever else writes there says why
            write_atomically(self._path, _FILE.dump_json(self._told))
