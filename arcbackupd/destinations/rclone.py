"""Any of rclone's remotes: ``type = "rclone"``.

What rclone knows of a server stands in its own configuration file, made by ``rclone config``; here that is
``/etc/arcbackupd/rclone.conf`` unless the table says otherwise: rclone's own default is in somebody's home. A
remote whose tokens are renewed, as those of most clouds for people are, needs a file that the daemon may write.
The directory must exist: ``rclone mkdir`` makes it, and nothing here does, so that no backups go where a disk
isn't mounted or a name was mistyped.

A file arrives under a name below `PARTIAL`, is verified, and then gets its own by a move on the server. Names
there begin with the time, since not every server tells when something came.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO, ClassVar, Literal
from urllib.parse import quote

from pydantic import AfterValidator

from arcbackupd.destinations import (
    PARTIAL,
    Destination,
    DestinationError,
    DestinationSettings,
    StoredFile,
    Transfer,
)
from arcbackupd.destinations.program_errors import damaged, unreadable
from arcbackupd.destinations.programs import LocalFile, Pulse, Tick, nothing, receive, version_problem
from arcbackupd.destinations.rclone_program import SOON, Item, Rclone, RcloneFailed
from arcbackupd.destinations.transfers import checked, lacking, taken
from arcbackupd.files import UNFINISHED
from arcbackupd.settings import AbsolutePath

_OLDEST = (1, 60)
"""Debian 12's, the oldest that this is tried with."""
_LEFT_BEHIND_SECONDS = 24 * 60 * 60
_BATCH = 1000
_HASHES = ("sha256", "sha512", "sha1", "md5")
"""The hashes that both rclone and Python compute, under the same names, the best first."""


def _split(remote: str) -> tuple[str, str]:
    """A remote's name and the path in it; the name of one that needs no configuration begins with a colon."""
    name, _, path = remote.removeprefix(":").partition(":")
    return (":" if remote.startswith(":") else "") + name, path


def _remote(value: str) -> str:
    name, path = _split(value)
    if ":" not in value.removeprefix(":") or name in ("", ":") or name.startswith("-") or "/" in name:
        raise ValueError('must be a remote and a directory in it, as in "nas:backups/arcsecond"')
    if "," in name or "=" in name:
        raise ValueError("must hold no options, which anybody could see: put them into rclone's configuration")
    if any(character < " " for character in path):
        raise ValueError("must hold no control characters")
    return value


class RcloneSettings(DestinationSettings):
    """What ``[destinations.NAME]`` of this type may say."""

    remote: Annotated[str, AfterValidator(_remote)]
    """A remote of rclone's configuration, and a directory in it that exists: ``nas:backups/arcsecond``."""

    config: AbsolutePath = Path("/etc/arcbackupd/rclone.conf")
    """rclone's configuration file."""

    verify: Literal["hash", "size", "download"] = "hash"
    """How what arrived is verified: by hash where the remote has one, else by size; by size alone; by reading it
    back."""


class RcloneDestination(Destination[RcloneSettings]):
    """See the module. Each step is a program and often a connection of its own: `put_all` is for many files."""

    Settings: ClassVar[type[DestinationSettings]] = RcloneSettings

    def __init__(self, name: str, settings: RcloneSettings, state_dir: Path) -> None:
        super().__init__(name, settings, state_dir)
        self._rclone = Rclone(name, settings.config)
        self._known_hash: str | None = None

    @classmethod
    def problem(cls) -> tuple[str, str] | None:
        """See `Destination.problem`."""
        return version_problem("rclone", _OLDEST)

    @property
    def location(self) -> str:
        """See `Destination.location`: ``rclone://nas/backups/arcsecond``."""
        name, path = _split(self.settings.remote)
        return f"rclone://{quote(name, safe=':')}/{quote(path.rstrip('/'))}".removesuffix("/")

    def check(self) -> None:
        """See `Destination.check`."""
        remote, config = self.settings.remote, self.settings.config
        if not remote.startswith(":") and not os.access(config, os.R_OK):
            message = f"The destination {self.name!r} needs rclone's configuration, and {config} can't be read."
            hint = f"Make it: `rclone config --config {config}`; or name the one to use as `config`."
            raise DestinationError("destination-missing", message, hint=hint)
        try:
            found = self._rclone.items(remote, "--dirs-only", *SOON)
        except RcloneFailed as failed:
            if not failed.not_there:
                raise
            message = f"The destination {self.name!r} has no directory: {remote} doesn't exist."
            hint = f"Mount it there or, for a new one, make it: `rclone mkdir --config {config} {remote}`."
            raise DestinationError("destination-missing", message, hint=hint) from failed
        if any(item.path == PARTIAL for item in found):
            self._sweep()

    def list(self, prefix: str) -> list[StoredFile]:
        """See `Destination.list`."""
        path = self._at(self._key(prefix))
        found = self._there(path)
        if [item.path for item in found] == [prefix.rpartition("/")[2]] and self._rclone.file(path) is not None:
            return []  # a file is listed as if it were in itself
        return [StoredFile(f"{prefix}/{item.path}", item.size, item.modified_at) for item in found]

    def put(self, source: Path, key: str, transfer: Transfer) -> None:
        """See `Destination.put`."""
        file, target = LocalFile.of(self.name, source), self._at(self._key(key))
        pulse = Pulse(transfer.advance)
        if self._rclone.file(target, pulse) is not None:
            raise taken(self.name, key)
        partial = _new_name()
        with self._removed_after_failure("deletefile", self._at(partial)):
            self._rclone.move_bytes("copyto", str(file.path), self._at(partial), size=file.size, transfer=transfer)
            self._verify({partial.rpartition("/")[2]: file}, partial, pulse)
            self._publish(partial, key, pulse)

    def get(self, key: str, target: BinaryIO, transfer: Transfer) -> None:
        """See `Destination.get`."""
        pulse = Pulse(transfer.advance)
        item = self._file(key, pulse)
        limit = () if transfer.limit is None else (f"--bwlimit={max(transfer.limit, 1)}B",)
        come = self._rclone.blocks("cat", self._at(key), *limit, tick=pulse)
        receive(self.name, key, item.size, come, target, transfer)

    def read(self, key: str, length: int) -> bytes:
        """See `Destination.read`."""
        self._file(key, nothing)
        if length <= 0:
            return b""
        return b"".join(self._rclone.blocks("cat", self._at(key), f"--count={length}", tick=nothing))

    def delete(self, key: str) -> None:
        """See `Destination.delete`."""
        path = self._at(self._key(key))
        try:
            self._rclone.ask("deletefile", path)
        except RcloneFailed:
            if self._rclone.file(path) is not None:
                raise

    def put_all(self, files: Iterable[tuple[Path, str]], transfer: Transfer) -> None:
        """See `Destination.put_all`: a thousand at once by a few programs."""
        rest = iter(files)
        while batch := list(islice(rest, _BATCH)):
            together = {key: source for source, key in batch if _fits_a_list(self._key(key))}
            if len(together) > 1:
                self._put_together(together, transfer)
            else:
                together = {}
            for source, key in batch:
                if together.pop(key, None) != source:
                    self.put(source, key, transfer)

    def _put_together(self, sources: Mapping[str, Path], transfer: Transfer) -> None:
        files = {key: LocalFile.of(self.name, source) for key, source in sources.items()}
        partial, pulse = _new_name(), Pulse(transfer.advance)
        with self._staged(files) as (staging, listed), self._removed_after_failure("purge", self._at(partial)):
            for item in self._there(self.settings.remote, f"--files-from-raw={listed}", tick=pulse):
                raise taken(self.name, item.path)
            self._rclone.move_bytes(
                "copy",
                str(staging),
                self._at(partial),
                "--copy-links",
                "--no-check-dest",
                f"--files-from-raw={listed}",
                size=sum(file.size for file in files.values()),
                transfer=transfer,
            )
            self._verify(files, partial, pulse)
            # Not all at once: that would be a move into what holds it, which rclone refuses.
            for first in {key.partition("/")[0] for key in files}:
                source, target = self._at(f"{partial}/{first}"), self._at(first)
                self._rclone.ask("move", source, target, "--ignore-existing", "--delete-empty-src-dirs", tick=pulse)
            for item in self._there(self._at(partial), tick=pulse):
                raise taken(self.name, item.path)
            self._remove("purge", self._at(partial))

    @contextlib.contextmanager
    def _staged(self, files: Mapping[str, LocalFile]) -> Iterator[tuple[Path, Path]]:
        """A directory in which the files have their keys for paths, and a list of these for rclone."""
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(UNFINISHED, ".staging-", self.state_dir) as made:
            listed, staging = Path(made, "keys"), Path(made, "files")
            try:
                for key, file in files.items():
                    link = staging / key
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file.path)
                listed.write_bytes(b"".join(os.fsencode(key) + b"\n" for key in files))
            except OSError as error:  # of two keys one is a part of the other, for instance
                raise unreadable(self.name, staging, error.strerror or "it can't be made") from error
            yield staging, listed

    def _verify(self, files: Mapping[str, LocalFile], partial: str, tick: Tick) -> None:
        """Raise DestinationError unless these files, by their paths below ``partial`` or its name, came whole."""
        algorithm = self._hash()
        options = ("--hash", f"--hash-type={algorithm}") if algorithm else ()
        found = {item.path: item for item in self._there(self._at(partial), *options, tick=tick)}
        back = self._read_back(partial, tick) if self.settings.verify == "download" else {}
        for path, file in files.items():
            if (item := found.get(path)) is None:
                raise damaged(self.name, path, "it isn't there")
            if item.size != file.size:
                raise damaged(self.name, path, f"it has {item.size} bytes instead of {file.size}")
            if item.hash and item.hash != file.hash(algorithm, tick):
                raise damaged(self.name, path, f"its {algorithm} differs")
            if self.settings.verify == "download" and back.get(path) != file.hash("sha256", tick):
                raise damaged(self.name, path, "what was read back differs")

    def _hash(self) -> str:
        """The hash to verify by; empty for none."""
        if self.settings.verify != "hash":
            return ""
        if self._known_hash is None:
            offered = self._rclone.hashes(self.settings.remote)
            self._known_hash = next((name for name in _HASHES if name in offered), "")
        return self._known_hash

    def _read_back(self, partial: str, tick: Tick) -> dict[str, str]:
        lines = self._rclone.ask("hashsum", "sha256", "--download", self._at(partial), tick=tick).splitlines()
        return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}

    def _publish(self, partial: str, key: str, tick: Tick) -> None:
        # What stands there is left alone, and so is ours, which tells. Between rclone's look and its move is a
        # moment in which another's file would be replaced, where the server replaces: rclone offers nothing better.
        source, target = self._at(partial), self._at(key)
        try:
            self._rclone.ask("moveto", source, target, "--ignore-existing", tick=tick)
        except RcloneFailed:
            # The answer may be what got lost. Nothing was there before, and ours isn't here any more: it is ours.
            if self._rclone.file(source) is None and self._rclone.file(target) is not None:
                return
            if self._there(target):  # a directory
                raise taken(self.name, key) from None
            raise
        except BaseException:
            with contextlib.suppress(DestinationError):
                if self._rclone.file(source) is None:
                    self._remove("deletefile", target)
            raise
        else:
            if self._rclone.file(source) is not None:
                raise taken(self.name, key)

    def _there(self, path: str, *options: str, tick: Tick = nothing) -> tuple[Item, ...]:
        """The files below a path, or the one at it; none where there is nothing."""
        try:
            return tuple(self._rclone.items(path, "--recursive", "--files-only", *options, tick=tick))
        except RcloneFailed as failed:
            if failed.not_there:
                return ()
            raise

    def _file(self, key: str, tick: Tick) -> Item:
        if (item := self._rclone.file(self._at(self._key(key)), tick)) is None:
            raise lacking(self.name, key)
        return item

    def _key(self, key: str) -> str:
        try:
            checked(self.name, key).encode()
        except UnicodeEncodeError as error:  # rclone tells of what is there in JSON, which can't hold it
            message = f"{key!r} can't name a file in the destination {self.name!r}: it isn't UTF-8."
            raise DestinationError("destination-failed", message, hint="Give it another name here.") from error
        return key

    def _at(self, key: str) -> str:
        remote = self.settings.remote
        return remote + key if remote.endswith((":", "/")) else f"{remote}/{key}"

    @contextlib.contextmanager
    def _removed_after_failure(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._remove(verb, path)
            raise

    def _remove(self, verb: str, path: str) -> None:
        with contextlib.suppress(DestinationError):  # what can't be removed now is swept a day later
            self._rclone.ask(verb, path)

    def _sweep(self) -> None:
        with contextlib.suppress(DestinationError):
            for item in self._rclone.items(self._at(PARTIAL)):
                began = item.path.partition("-")[0]
                if began.isdecimal() and time.time() - int(began) > _LEFT_BEHIND_SECONDS:
                    self._remove("purge" if item.is_dir else "deletefile", self._at(f"{PARTIAL}/{item.path}"))


def _new_name() -> str:
    """A new key for what is on its way."""
    return f"{PARTIAL}/{int(time.time())}-{secrets.token_hex(8)}"


def _fits_a_list(key: str) -> bool:
    """Whether a key can stand in a list of files, a line each, and be moved with its directory."""
    return "/" in key and "\n" not in key and "\r" not in key
