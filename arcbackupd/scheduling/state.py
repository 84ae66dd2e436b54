"""Small JSON files in the state directory, which can be lost at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arcbackupd.errors import describe
from arcbackupd.files import write_atomically
from arcbackupd.log import get_logger

STATE_HINT = "Check the space in the daemon's state directory, and who owns it."
_log = get_logger()


class StateFile:
    """A small JSON object in the state directory. It may be lost at any time: whoever keeps one can start anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Any]:
        """Its content; empty when there is none or it can't be read."""
        try:
            value = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            _log.warning(f"{self._path} can't be read; starting without what it held", error=describe(error))
            return {}
        return value if isinstance(value, dict) else {}

    def save(self, value: Mapping[str, Any]) -> None:
        """Replace it whole, durably. Raise OSError when that fails; the old one is then still there."""
        write_atomically(self._path, json.dumps(value).encode())

    def try_save(self, value: Mapping[str, Any]) -> None:
        """Like save, for what may be lost: a failure is only logged."""
        try:
            self.save(value)
        except OSError as error:
            _log.warning(f"{self._path} can't be written", error=describe(error), hint=STATE_HINT)


def time_or_none(value: object) -> datetime | None:
    """A time read back from a state file; ``None`` for anything that isn't an aware one."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
