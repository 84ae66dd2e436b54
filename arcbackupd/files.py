"""Small files of the daemon's own, written so that a crash leaves the old or the new one, never a piece."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_UNFINISHED = ".unfinished"


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file's contents, durably. The file is created with its final mode."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_unfinished(directory: Path) -> None:
    """Remove what processes that were killed in `write_atomically` left below a directory.

    Only for whoever knows that nobody writes there now.
    """
    for left in directory.rglob(f".*{_UNFINISHED}"):
        left.unlink(missing_ok=True)
