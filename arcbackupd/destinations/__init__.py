"""What a destination is: a place off this host that whole files are put into and never change in.

The built-in ones come through the same entry points as a third party's. A package adds a type by one in the group
``arcbackupd.destinations``, whose name is what ``type`` says in the table::

    [project.entry-points."arcbackupd.destinations"]
    tape = "my_package:TapeDestination"

    class TapeSettings(DestinationSettings):
        drive: str

    class TapeDestination(Destination[TapeSettings]):
        Settings = TapeSettings
        ...

and the operator a table ``[destinations.vault]`` with ``type = "tape"`` and ``drive = "..."``.

Keys are relative paths: parts of any characters but NUL and ``/``, joined by ``/``, none of them empty, ``.`` or
``..``. All methods block, are called in threads, one at a time for each object, and raise DestinationError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from arcbackupd.errors import OperationFailed

PARTIAL = ".arcbackupd-partial"
"""First part of the keys under which something is on its way; never listed."""


class DestinationSettings(BaseModel):
    """The table ``[destinations.NAME]``; subclasses add their own keys. An unknown key is an error."""

    # The input of a failed validation may be a mistyped secret: it is never shown.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class DestinationError(OperationFailed):
    """It didn't work there. ``passing``: trying again later may help, as with a connection that was cut.

    Codes: ``destination-unreachable``, ``destination-denied``, ``destination-full``, ``destination-missing`` (a
    mount, a bucket, a repository), ``destination-conflict`` (the key is taken), ``destination-lacks`` (no such
    key), ``destination-damaged`` (what arrived isn't what was sent), ``destination-failed`` (anything else).
    """

    def __init__(self, code: str, message: str, *, hint: str = "", passing: bool = False) -> None:
        super().__init__(code, message, hint=hint)
        self.passing = passing


@dataclass(frozen=True)
class StoredFile:
    """A whole file that is there: its size in bytes, and when it came, by the destination's clock if it has one."""

    key: str
    size: int
    modified_at: datetime


@dataclass(frozen=True)
class Transfer:
    """How a transfer goes on. ``limit``: bytes per second at most, ``None`` for no limit.

    ``advance`` is told the bytes that moved since it was called last, at least once a second; what it raises ends
    the transfer, with nothing left under the key.
    """

    advance: Callable[[int], None] = lambda _moved: None
    limit: int | None = None


SettingsT = TypeVar("SettingsT", bound=DestinationSettings)


class Destination(ABC, Generic[SettingsT]):
    """One place. Making the object touches nothing; `check` is called before it is used."""

    Settings: ClassVar[type[DestinationSettings]] = DestinationSettings

    def __init__(self, name: str, settings: SettingsT, state_dir: Path) -> None:
        """``name`` is that of its table; ``state_dir`` an own directory for what can be lost, made when needed."""
        self.name = name
        self.settings = settings
        self.state_dir = state_dir

    @classmethod
    def problem(cls) -> tuple[str, str] | None:
        """What this host lacks for this type, and what to install; ``None`` when nothing."""
        return None

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it is, as an absolute URL without secrets: equal for equal places, a prefix for what is within."""

    @abstractmethod
    def check(self) -> None:
        """Raise when it can't be used now. Removes what uploads that were cut left longer than a day ago."""

    @abstractmethod
    def list(self, prefix: str) -> list[StoredFile]:
        """All whole files below a prefix, a key of its own (``dumps``); none where there is nothing."""

    @abstractmethod
    def put(self, source: Path, key: str, transfer: Transfer) -> None:
        """Store a file whole or not at all, and verify it there, by hash where the destination can, else by size.

        Never overwrites: ``destination-conflict`` when the key is taken, whatever is there.
        """

    @abstractmethod
    def get(self, key: str, target: BinaryIO, transfer: Transfer) -> None:
        """Write a file's bytes into ``target``, an empty file open for writing. Raise ``destination-lacks``."""

    @abstractmethod
    def read(self, key: str, length: int) -> bytes:
        """The first bytes of a file, at most ``length`` of them, without moving the rest."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file; nothing happens when there is none."""

    def put_all(self, files: Iterable[tuple[Path, str]], transfer: Transfer) -> None:
        """Store many files, as `put` does each; for what starts a program or a connection every time, faster."""
        for source, key in files:
            self.put(source, key, transfer)


@dataclass(frozen=True)
class Tree:
    """A directory and what of it stays out: paths relative to it."""

    root: Path
    exclude: frozenset[str] = frozenset()


class TreeDestination(Destination[SettingsT]):
    """One that keeps whole trees itself, incrementally, each time as it was then, as restic's snapshots are."""

    @abstractmethod
    def put_tree(self, tree: Tree, key: str, transfer: Transfer) -> tuple[str, ...]:
        """Keep a tree as it is now under a key that is used again each time.

        Return what couldn't be read, a sentence each: what changes or vanishes meanwhile doesn't stop it.
        """

    @abstractmethod
    def get_tree(self, key: str, target: Path, transfer: Transfer) -> None:
        """Write the newest tree of that key into an empty directory. Raise ``destination-lacks``."""
