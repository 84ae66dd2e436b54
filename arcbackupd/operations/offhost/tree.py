"""The shared data as they are on this host: walked and opened without ever following a link.

They belong to containers: what is a directory now may be a link to the host's own files in a moment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Node:
    """A regular file, a directory (``size`` 0) or a symbolic link (with its ``target``), by its relative path."""

    path: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


def walk(root: Path, exclude: frozenset[str], unreadable: list[str]) -> Iterator[Node]:
    """All nodes below a directory but those excluded, directories first, in the order of their names.

    What is neither file, directory nor link is left out; what can't be read is told in ``unreadable``.
    """

    def note(error: OSError) -> None:
        unreadable.append(f"{_shown(str(error.filename))} can't be read: {error.strerror}")

    for directory, directories, files, descriptor in os.fwalk(root, onerror=note):
        relative = Path(directory).relative_to(root)
        inside = sorted(name for name in directories if str(relative / name) not in exclude)
        directories[:] = inside
        for name in [*inside, *sorted(files)]:
            path = str(relative / name)
            if path in exclude:
                continue
            try:
                node = _node(path, name, descriptor)
            except FileNotFoundError:  # it vanished
                continue
            except (OSError, UnicodeError) as error:
                unreadable.append(
                    f"{_shown(path)} can't be kept: {getattr(error, 'strerror', 'its name is no UTF-8')}"
                )
            else:
                if node:
                    yield node


def _node(path: str, name: str, directory: int) -> Node | None:
    path.encode()
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else None
    if target is not None:
        target.encode()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or target is not None):
        return None
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Node(path, status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, target)


@contextmanager
def open_below(root: Path, path: str) -> Iterator[BinaryIO]:
    """Open a regular file below a directory, no part of whose path is a link. Raise OSError."""
    *parents, name = path.split("/")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            inner = os.open(parent, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        with os.fdopen(os.open(name, _FILE, dir_fd=descriptor), "rb") as file:
            yield file
    finally:
        os.close(descriptor)


def same(node: Node, file: BinaryIO) -> bool:
    """Whether an open file is still what was seen when it was walked over."""
    status = os.fstat(file.fileno())
    seen = stat.S_IFMT(node.mode), node.size, node.mtime_ns
    return (stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns) == seen


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()
