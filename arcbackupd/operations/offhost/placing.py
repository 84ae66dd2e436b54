"""Write what is brought back: whole under its name or not at all, never over something, never through a link."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from arcbackupd.errors import OperationFailed, Refused
from arcbackupd.operations.offhost.data import Indexed

_INSIDE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN = 5


def differs(path: Path, data: bytes) -> bool:
    """Whether something else than that is there."""
    try:
        return path.read_bytes() != data
    except FileNotFoundError:
        return os.path.lexists(path)
    except OSError:
        return True


def is_other(path: Path, each: Indexed) -> bool:
    """Whether something else than that file is there."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_size != each.node.size:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != each.sha256


def taken(directory: Path, paths: list[str]) -> Refused:
    """The error for what is there already and is something else."""
    some = ", ".join(sorted(paths)[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
    hint = "A recovery replaces nothing. Move them away, or recover into another directory."
    return Refused("would-overwrite", f"{directory} has other files already: {some}.", hint=hint)


@contextmanager
def named(directory: Path) -> Iterator[None]:
    """Within it, what the file system refuses is told as an OperationFailed."""
    try:
        yield
    except OSError as error:
        where = error.filename or directory
        text = f"{where} can't be written: {error.strerror}. What was brought back until then stays."
        hint = "Make room, or correct the rights; then run it again: it goes on where it was."
        raise OperationFailed("not-written", text, hint=hint) from error


@contextmanager
def _parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """The directory of a path below a root, made where it is missing, never through a link; and the last name."""
    *parents, name = path.split("/")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            try:
                inner = os.open(parent, _INSIDE, dir_fd=descriptor)
            except FileNotFoundError:
                os.mkdir(parent, 0o755, dir_fd=descriptor)
                inner = os.open(parent, _INSIDE, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, name
    finally:
        os.close(descriptor)


def write_new(
    root: Path, path: str, mode: int, fill: Callable[[BinaryIO], object], each: Indexed | None = None
) -> None:
    """Write a file under another name, and give it its own when it is whole: never over something."""
    with _parent(root, path) as (directory, name):
        temporary = f".{secrets.token_hex(8)}.recovering"
        try:
            with os.fdopen(os.open(temporary, _NEW, 0o600, dir_fd=directory), "wb") as file:
                fill(file)
                file.flush()
                if each:
                    _own(file.fileno(), each)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                if each:
                    os.utime(file.fileno(), ns=(each.node.mtime_ns, each.node.mtime_ns))
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.unlink(temporary, dir_fd=directory)
        os.fsync(directory)


def _own(descriptor: int, each: Indexed) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, each.node.uid, each.node.gid)


def make_directory(root: Path, each: Indexed) -> None:
    """Make a directory where it is missing."""
    with _parent(root, f"{each.node.path}/."):
        pass


def settle_directory(root: Path, each: Indexed) -> None:
    """Give a directory its owner, mode and time, when all that belongs in it is there."""
    with _parent(root, f"{each.node.path}/.") as (directory, _):
        _own(directory, each)
        os.fchmod(directory, stat.S_IMODE(each.node.mode) & ~stat.S_ISUID)
        os.utime(directory, ns=(each.node.mtime_ns, each.node.mtime_ns))


def make_link(root: Path, each: Indexed) -> bool:
    """Make a link, to wherever it led; whether nothing was in its place."""
    assert each.node.target is not None
    with _parent(root, each.node.path) as (directory, name):
        try:
            os.symlink(each.node.target, name, dir_fd=directory)
        except FileExistsError:
            return False
    return True
