"""What drills have made and not removed yet: noted before it is made, so that a crash leaves nothing unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from arcbackupd.errors import OperationFailed
from arcbackupd.files import write_atomically


class Made(BaseModel):
    """A scratch database, with its identity as soon as it has one, or a throwaway container."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["database", "container"]
    name: str
    oid: int | None = None


class _Memory(BaseModel):
    made: tuple[Made, ...] = ()


class Notes:
    """A file in the state directory. One operation at a time writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> Sequence[Made]:
        """What may be there still."""
        try:
            return _Memory.model_validate_json(self._path.read_bytes()).made
        except (OSError, ValidationError):
            return ()

    def put(self, made: Made) -> None:
        """Note one, before it is made, or with its identity. Raise OperationFailed when that can't be written."""
        self._write([*(other for other in self.all() if other.name != made.name), made])

    def remove(self, name: str) -> None:
        """It is gone."""
        self._write([made for made in self.all() if made.name != name])

    def _write(self, made: Sequence[Made]) -> None:
        try:
            write_atomically(self._path, _Memory(made=tuple(made)).model_dump_json().encode())
        except OSError as error:
            hint = "Free some space there, or let the daemon write there."
            raise OperationFailed(
                "state-not-written", f"{self._path} can't be written: {error.strerror}.", hint=hint
            ) from error
