"""A restic repository: ``type = "restic"``.

Each file is a snapshot of its own with one file in it, found by a tag that holds its key. A second tag holds the
size that the file had here, and a snapshot counts only while what is in it has that size: restic ends quietly when
a file becomes shorter while it reads. So nothing that was cut short is ever listed, even where nobody was left to
remove it.

A tree is a snapshot too, of which restic sends only what it doesn't have yet. Neither the older snapshots of a
tree nor the space of what was deleted is given up here: that takes the repository for itself for a long time, and
is for the operator to plan, as ``restic forget --tag arcbackupd-tree --keep-daily 30 --prune``. Locks that a
killed restic left behind are never removed here either, because another host may hold one.

The repository is made by ``restic init``, and nothing here does it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, BinaryIO, ClassVar, Literal, Self
from urllib.parse import quote, unquote

from pydantic import AfterValidator, SecretStr, model_validator

from arcbackupd.destinations import (
    DestinationError,
    DestinationSettings,
    StoredFile,
    Transfer,
    Tree,
    TreeDestination,
)
from arcbackupd.destinations.program_errors import damaged, unreadable
from arcbackupd.destinations.programs import LocalFile, Pulse, Tick, nothing, receive, version_problem
from arcbackupd.destinations.restic_program import Restic, Snapshot
from arcbackupd.destinations.transfers import checked, lacking, taken
from arcbackupd.dotenv import DotenvError, parse_dotenv
from arcbackupd.files import write_atomically
from arcbackupd.log import redact
from arcbackupd.settings import OR_CREDENTIAL, AbsolutePath

_OLDEST = (0, 14)
"""Debian 12's, the oldest that this is tried with."""
_FILE, _TREE = "arcbackupd", "arcbackupd-tree"
_KEY, _SIZE, _UPLOAD = "arcbackupd-key=", "arcbackupd-size=", "arcbackupd-upload="
_LEFT_BEHIND = timedelta(days=1)
_SECRET = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL")
_PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]*@")
_USERINFO = re.compile(r"://[^/@]*@")
_GLOB = re.compile(r"([\\*?\[])")


def _repository(value: str) -> str:
    if _PASSWORD_IN_URL.search(value):
        raise ValueError("must hold no password: put the whole address into a file, and name it as repository_file")
    if not re.match(r"/|[a-z0-9]+:", value):
        raise ValueError(
            'must be an absolute path or an address as restic takes it, as in "sftp:backup@nas:/srv/repo"'
        )
    return value


class ResticSettings(DestinationSettings):
    """What ``[destinations.NAME]`` of this type may say."""

    repository: Annotated[str, AfterValidator(_repository)] | None = None
    """Where the repository is, as restic takes it. Either this or ``repository_file``."""

    repository_file: AbsolutePath | None = None
    """A file that holds the same: for an address with a password in it."""

    password: SecretStr | None = None
    """The repository's password, as a credential of the service. Either this or ``password_file``."""

    password_file: AbsolutePath | None = None
    """A file that holds it, readable by root alone."""

    environment_file: AbsolutePath | None = None
    """A file with what a server asks for besides, as ``NAME=value`` in lines: ``AWS_ACCESS_KEY_ID=...``."""

    sftp_command: str | None = None
    """The command that connects to an SFTP server, when root's own SSH settings won't do."""

    verify: Literal["size", "read"] = "size"
    """How what arrived is verified: by its size in the snapshot, as restic sends each part with its hash; or by
    reading it back."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.repository is None) == (self.repository_file is None):
            raise ValueError(f"give either repository or repository_file{OR_CREDENTIAL}")
        if (self.password is None) == (self.password_file is None):
            raise ValueError(f"give either password or password_file{OR_CREDENTIAL}")
        return self


class ResticDestination(TreeDestination[ResticSettings]):
    """See the module."""

    Settings: ClassVar[type[DestinationSettings]] = ResticSettings

    @classmethod
    def problem(cls) -> tuple[str, str] | None:
        """See `Destination.problem`."""
        return version_problem("restic", _OLDEST)

    @property
    def location(self) -> str:
        """See `Destination.location`: ``restic:`` and the repository as restic takes it, without a password."""
        if (file := self.settings.repository_file) is None:
            return f"restic:{self.settings.repository}".rstrip("/")
        return "restic:" + _USERINFO.sub("://", self._text(file).strip()).rstrip("/")

    def check(self) -> None:
        """See `Destination.check`."""
        sizes = self._known_sizes()
        for snapshot in self._restic.snapshots(_FILE):
            size, expected = sizes.get(snapshot.id, snapshot.size), _expected(snapshot)
            cut = size is not None and expected is not None and size != expected
            if cut and datetime.now(UTC) - snapshot.taken_at > _LEFT_BEHIND:
                with contextlib.suppress(DestinationError):
                    self._restic.ask("forget", snapshot.id)

    def list(self, prefix: str) -> list[StoredFile]:
        """See `Destination.list`."""
        below = checked(self.name, prefix) + "/"
        return [file for file, _ in self._whole(_FILE, tick=nothing) if file.key.startswith(below)]

    def put(self, source: Path, key: str, transfer: Transfer) -> None:
        """See `Destination.put`. Where two hosts store the same key at once, both succeed and the older counts."""
        file = LocalFile.of(self.name, source)
        pulse = Pulse(transfer.advance)
        if self._find(key, pulse) is not None:
            raise taken(self.name, key)
        upload = _UPLOAD + secrets.token_hex(8)
        try:
            made = self._back_up(file, (_FILE, _key_tag(key), f"{_SIZE}{file.size}", upload), transfer)
            self._verify(made, file, key, pulse)
        except BaseException:
            with contextlib.suppress(DestinationError):
                self._forget(upload)
            raise

    def get(self, key: str, target: BinaryIO, transfer: Transfer) -> None:
        """See `Destination.get`."""
        pulse = Pulse(transfer.advance)
        file, snapshot = self._stored(key, pulse)
        limit = () if transfer.limit is None else (f"--limit-download={max(transfer.limit // 1024, 1)}",)
        receive(self.name, key, file.size, self._dump(snapshot, *limit, tick=pulse), target, transfer)

    def read(self, key: str, length: int) -> bytes:
        """See `Destination.read`. restic is ended when it has written enough."""
        _, snapshot = self._stored(key, nothing)
        found = bytearray()
        with closing(self._dump(snapshot, tick=nothing)) as blocks:
            while len(found) < length and (block := next(blocks, b"")):
                found += block
        return bytes(found[:length])

    def delete(self, key: str) -> None:
        """See `Destination.delete`."""
        self._forget(_key_tag(checked(self.name, key)))

    def put_tree(self, tree: Tree, key: str, transfer: Transfer) -> tuple[str, ...]:
        """See `TreeDestination.put_tree`."""
        root = tree.root.resolve()
        older = self._restic.snapshots(_TREE, _key_tag(checked(self.name, key)), tick=Pulse(transfer.advance))
        # Its own choice of what to compare with would be by the path, and any snapshot of it.
        parent = (f"--parent={older[-1].id}",) if older else ("--force",)
        excluded = ("--exclude=" + _GLOB.sub(r"\\\1", str(root / path)) for path in sorted(tree.exclude))
        tags = f"--tag={_TREE},{_key_tag(key)}"
        done = self._restic.work("backup", tags, *parent, *excluded, "--", ".", transfer=transfer, cwd=root)
        return tuple(f"{root / path} is left out: {reason}." for path, reason in done.unread.items())

    def get_tree(self, key: str, target: Path, transfer: Transfer) -> None:
        """See `TreeDestination.get_tree`."""
        tags = _TREE, _key_tag(checked(self.name, key))
        if not (snapshots := self._restic.snapshots(*tags, tick=Pulse(transfer.advance))):
            raise lacking(self.name, key)
        self._restic.work("restore", "--no-lock", snapshots[-1].id, f"--target={target}", transfer=transfer)

    def _back_up(self, file: LocalFile, tags: tuple[str, ...], transfer: Transfer) -> str:
        # Read whatever restic knows of a file of that name; and beside it, so that no path but the name is kept.
        arguments = ("backup", "--force", f"--tag={','.join(tags)}", "--", f"./{file.path.name}")
        done = self._restic.work(*arguments, transfer=transfer, size=file.size, cwd=file.path.parent)
        for path, reason in done.unread.items():
            raise unreadable(self.name, path, reason)
        return done.snapshot

    def _verify(self, made: str, file: LocalFile, key: str, tick: Tick) -> None:
        snapshot, size = self._restic.contents(made, tick)
        self._remember(snapshot, size)
        if size != file.size:
            raise damaged(self.name, key, f"it has {size} bytes instead of {file.size}")
        if self.settings.verify == "read":
            digest = hashlib.sha256()
            for block in self._dump(snapshot, tick=tick):
                digest.update(block)
            if digest.hexdigest() != file.hash("sha256", tick):
                raise damaged(self.name, key, "what was read back differs")

    def _dump(self, snapshot: Snapshot, *options: str, tick: Tick) -> Generator[bytes, None, None]:
        return self._restic.blocks("dump", "--no-lock", *options, snapshot.id, snapshot.file, tick=tick)

    def _forget(self, tag: str) -> None:
        if snapshots := self._restic.snapshots(_FILE, tag):
            self._restic.ask("forget", *(snapshot.id for snapshot in snapshots))

    def _stored(self, key: str, tick: Tick) -> tuple[StoredFile, Snapshot]:
        if (found := self._find(key, tick)) is None:
            raise lacking(self.name, key)
        return found

    def _find(self, key: str, tick: Tick) -> tuple[StoredFile, Snapshot] | None:
        return next(self._whole(_FILE, _key_tag(checked(self.name, key)), tick=tick), None)

    def _whole(self, *tags: str, tick: Tick) -> Iterator[tuple[StoredFile, Snapshot]]:
        """The whole files among the snapshots with these tags, the older of two with the same key."""
        seen: set[str] = set()
        for snapshot in self._restic.snapshots(*tags, tick=tick):
            key = unquote(snapshot.value(_KEY), errors="surrogateescape")
            if key and key not in seen and (size := self._size(snapshot, tick)) == _expected(snapshot):
                seen.add(key)
                yield StoredFile(key, size, snapshot.taken_at), snapshot

    def _size(self, snapshot: Snapshot, tick: Tick) -> int:
        """The size of what is in a snapshot: told by newer versions of restic, else looked up once."""
        if snapshot.size is not None:
            return snapshot.size
        if (known := self._known_sizes().get(snapshot.id)) is not None:
            return known
        _, size = self._restic.contents(snapshot.id, tick)
        self._remember(snapshot, size)
        return size

    def _remember(self, snapshot: Snapshot, size: int) -> None:
        known = self._known_sizes() | {snapshot.id: size}
        write_atomically(self._sizes_file, json.dumps(known).encode())

    @property
    def _sizes_file(self) -> Path:
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.state_dir / "sizes.json"

    def _known_sizes(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError):
            return {str(name): int(size) for name, size in json.loads(self._sizes_file.read_bytes()).items()}
        return {}

    @cached_property
    def _restic(self) -> Restic:
        command = self.settings.sftp_command
        options = () if command is None else (f"--option=sftp.command={command}",)
        return Restic(self.name, self._environment(), options)

    def _environment(self) -> Mapping[str, str]:
        settings = self.settings
        ours = {
            "RESTIC_REPOSITORY": settings.repository,
            "RESTIC_REPOSITORY_FILE": settings.repository_file,
            "RESTIC_PASSWORD": settings.password and settings.password.get_secret_value(),
            "RESTIC_PASSWORD_FILE": settings.password_file,
            "RESTIC_CACHE_DIR": self.state_dir / "cache",  # it must be given one where there is no home
            "RESTIC_PROGRESS_FPS": "1",
            "TZ": "UTC",
        }
        environment = self._operators() | {name: str(value) for name, value in ours.items() if value is not None}
        for name, value in environment.items():
            if _SECRET.search(name) and not name.endswith("_FILE"):
                redact(value)
        return environment

    def _operators(self) -> dict[str, str]:
        if (file := self.settings.environment_file) is None:
            return {}
        try:
            return parse_dotenv(self._text(file), {})
        except DotenvError as error:
            message = f"The destination {self.name!r} can't be used: {file}, {error}."
            raise DestinationError("destination-failed", message, hint="Write NAME=value in lines.") from error

    def _text(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
            message = f"The destination {self.name!r} can't be used: {file} can't be read: {said}."
            raise DestinationError("destination-failed", message, hint="Correct its name or its rights.") from error


def _key_tag(key: str) -> str:
    return _KEY + quote(key, safe="/", errors="surrogateescape")  # a comma would end the tag


def _expected(snapshot: Snapshot) -> int | None:
    size = snapshot.value(_SIZE)
    return int(size) if size.isdecimal() else None
