"""Small files of the daemon's own, written so that a crash leaves the old or the new one, never a piece."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

UNFINISHED = ".unfinished"
"""How hidden names in the state directory end that a killed process leaves, and the next start removes."""


def write_atomically(path: Path, data: bytes, mode: int = 0o600, *, durably: bool = True) -> None:
    """Replace a file's contents. The file is created with its final mode.

    Not ``durably``: readers see the old or the new one all the same; after a power cut it may be empty.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            if durably:
                os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_unfinished(directory: Path) -> None:
    """Remove what killed processes left below a directory: pieces of files, and temporary directories.

    Only for whoever knows that nobody works there now. Raise OSError.
    """
    for left in list(directory.rglob(f".*{UNFINISHED}")):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)
