"""Files on their way off this host, as they will be stored: copied or encrypted to a place of the daemon's own.

What is uploaded must not change while it is read, or be another file than the one that was opened: the shared data
belong to containers, which aren't trusted. So it is staged first, hashed on the way, and only then handed over.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arcbackupd.encryption import encrypt
from arcbackupd.errors import OperationFailed

_BLOCK = 1 << 20
_SPARE = 256 << 20
"""Bytes that stay free on the disk that the daemon's notes are on."""
NO_ROOM = "no-room-to-stage"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class StagedFile:
    """A file as it will be stored, with sizes in bytes and hashes of it and of what it was made from."""

    path: Path
    size: int
    sha256: str
    plain_size: int
    plain_sha256: str

    def discard(self) -> None:
        """It isn't needed any more."""
        self.path.unlink(missing_ok=True)


class Staging:
    """A directory that nobody else can look into."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def clear(self) -> None:
        """Remove what was left there, and make it if it isn't there. Raise OperationFailed."""
        try:
            if self._directory.is_dir():
                shutil.rmtree(self._directory)
            self._directory.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise staging_error(error, self._directory) from error

    def add(self, source: BinaryIO, recipients: Sequence[str], advance: Callable[[int], None]) -> StagedFile:
        """Copy an open file, or encrypt it to recipients. What ``advance`` raises ends it; nothing is left then.

        Raise OperationFailed when there is no room, OSError when the source can't be read.
        """
        path = self._directory / secrets.token_hex(8)
        reader = Hashing(source, advance)
        try:
            with os.fdopen(os.open(path, _NEW, 0o600), "wb") as target:
                writer = Hashing(target, lambda _moved: None)
                if recipients:
                    encrypt(reader, writer, recipients)
                else:
                    shutil.copyfileobj(reader, writer, _BLOCK)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise staging_error(error, self._directory) from error
            raise
        return StagedFile(path, writer.size, writer.sha256, reader.size, reader.sha256)


class Hashing:
    """An open file whose bytes are counted, told to ``advance``, and hashed as they pass."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self.size = 0
        self._file = file
        self._advance = advance
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all that passed, in hexadecimal."""
        return self._digest.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        """Read up to that many bytes."""
        data = self._file.read(size)
        self._passed(data)
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Read as many bytes as fit, or fewer."""
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]  # BinaryIO lacks what all of them have
        self._passed(memoryview(buffer)[:count])
        return int(count)

    def write(self, data: bytes) -> int:
        """Write all of it."""
        self._file.write(data)
        self._passed(data)
        return len(data)

    def flush(self) -> None:
        """Write what is buffered."""
        self._file.flush()

    def _passed(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self.size += len(data)
        self._advance(len(data))


def require_room(directory: Path, size: int) -> None:
    """Raise OperationFailed NO_ROOM when a file of that many bytes would fill the disk."""
    free = shutil.disk_usage(directory).free
    if size + _SPARE > free:
        hint = f"Each file that goes off-host is staged in {directory}: make room there."
        raise OperationFailed(NO_ROOM, f"{size:,} bytes are needed, {free:,} are free.", hint=hint)


def staging_error(error: OSError, directory: Path) -> OperationFailed:
    """What the file system refused there, in English."""
    hint = f"Each file that goes off-host is staged below {directory.parent}: free some space there."
    return OperationFailed("staging-failed", f"{directory} can't be written: {error.strerror}.", hint=hint)
