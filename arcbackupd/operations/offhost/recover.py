"""Everything brought back to a host that has nothing: secrets, shared data, a dump. Nothing there is replaced.

What is there already and is the same counts as brought back: an interrupted recovery is begun again, and goes on.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from arcbackupd.destinations import TreeDestination
from arcbackupd.dumps.names import is_ahead
from arcbackupd.encryption import SUFFIX
from arcbackupd.errors import NoSuchBackup, OperationFailed, Refused
from arcbackupd.operations.backups_dir import file_rights
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Notice, Step, Steps
from arcbackupd.operations.offhost.data import (
    BACKUPS,
    DamagedIndex,
    Index,
    Indexed,
    decode_index,
    is_inside,
    newest_index,
)
from arcbackupd.operations.offhost.dumps import StoredDump, stored_dumps
from arcbackupd.operations.offhost.fetch import decrypting, download, fetch
from arcbackupd.operations.offhost.moving import moving
from arcbackupd.operations.offhost.placing import (
    differs,
    is_other,
    make_directory,
    make_link,
    named,
    settle_directory,
    taken,
    write_new,
)
from arcbackupd.operations.offhost.secrets import SIZE_LIMIT, newest_secrets
from arcbackupd.operations.offhost.sending import Place
from arcbackupd.settings import Settings

_ARCHIVE_LIMIT = 64 << 20
_TRY_ANOTHER = "`--destination` or `--from` names another place; docs/off-host.md tells what should be there."


@dataclass(frozen=True)
class SecretFile:
    """A file of the installation's own: its path relative to the install directory, mode and contents."""

    path: str
    mode: int
    data: bytes


class Recovery:
    """From one place, with an identity where what is there is encrypted."""

    def __init__(self, place: Place, settings: Settings, identity: str | None, cancellation: Cancellation) -> None:
        """``identity``: the text of an identity file."""
        self._place = place
        self._settings = settings
        self._identity = identity
        self._cancellation = cancellation

    # Looking.

    def secrets(self) -> Steps[list[SecretFile]]:
        """The newest secrets there; none when there are none. Nothing is written."""
        prefix = self._settings.upload.secrets.prefix
        yield Step("look", f"Looking for .env and the Compose files at {self._place.name}")
        newest = newest_secrets(self._place.destination.list(prefix), prefix)
        if newest is None:
            return []
        with tempfile.TemporaryFile() as plain:
            yield from self._plain(newest, plain)
            return _unpacked(plain, newest)

    def index(self) -> Steps[Index | None]:
        """How the shared data were last; ``None`` when they aren't there, or the place keeps trees itself."""
        prefix = self._settings.upload.data.prefix
        if isinstance(self._place.destination, TreeDestination):
            return None
        yield Step("look", f"Looking for shared data at {self._place.name}")
        files = self._place.destination.list(prefix)
        newest = newest_index(files, prefix)
        if newest is None:
            if files:
                text = f"There are shared data at {self._place.name}, and no index that tells which they are."
                hint = "No upload of them was ever finished. --no-data leaves them out."
                raise OperationFailed("no-index", text, hint=hint)
            return None
        with tempfile.TemporaryFile() as plain:
            yield from self._plain(newest, plain)
            plain.seek(0)
            try:
                return decode_index(plain.read())
            except DamagedIndex as error:
                raise OperationFailed("damaged-index", f"{newest}: {error}.", hint=_TRY_ANOTHER) from None

    def dump(self, name: str | None = None) -> StoredDump | None:
        """The dump of that name there, or the newest backup; ``None`` when there is none at all. Blocking.

        Raise NoSuchBackup when there is none of that name.
        """
        prefix = self._settings.upload.dumps.prefix
        self._place.memory.looked(self._place.destination.list(prefix))
        dumps = list(stored_dumps(self._place.memory, prefix))
        if name:
            found = [dump for dump in dumps if str(dump.name) == name]
            if not found:
                newest = sorted((str(dump.name) for dump in dumps), reverse=True)[:3]
                hint = f"The newest there: {', '.join(newest) or 'none'}."
                raise NoSuchBackup("no-such-backup", f"There is no {name} at {self._place.name}.", hint=hint)
            return min(found, key=lambda dump: dump.encrypted)
        backups = (dump for dump in dumps if dump.name.kind == "backup")
        return max(backups, key=lambda dump: (not is_ahead(dump.name.taken_at), dump.name), default=None)

    # Doing.

    def write_secrets(self, files: list[SecretFile]) -> Steps[list[str]]:
        """Write those that aren't there; return their paths. Raise Refused when another one is in a place."""
        yield Step("secrets", f"Writing .env and the Compose files to {self._settings.install_dir}")
        directory = self._settings.install_dir
        others = [file.path for file in files if differs(directory / file.path, file.data)]
        if others:
            raise taken(directory, others)
        written = []
        with named(directory):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            for file in files:
                if not (directory / file.path).exists():
                    write_new(directory, file.path, file.mode, partial(_write, file.data))
                    written.append(file.path)
        return written

    def write_data(self, index: Index, shared: Path) -> Steps[int]:
        """Bring the shared data back; return how many files. Raise Refused when something else is in a place."""
        files = [each for each in index.nodes if each.node.is_file]
        yield Step("data", f"Bringing back {len(files)} files of shared data to {shared}")
        with named(shared):
            shared.mkdir(mode=0o755, parents=True, exist_ok=True)
            others = [each.node.path for each in files if is_other(shared / each.node.path, each)]
            if others:
                raise taken(shared, others)
            directories = [each for each in index.nodes if each.node.is_directory]
            for each in sorted(directories, key=lambda each: each.node.path):
                make_directory(shared, each)
            written = 0
            for each in files:
                if not os.path.lexists(shared / each.node.path):
                    yield from self._write_file(shared, each)
                    written += 1
            for each in index.nodes:  # links last: nothing is written through one
                if each.node.target is not None and not make_link(shared, each):
                    yield Notice(f"{each.node.path} is there already; the link that it was isn't made.")
            for each in sorted(directories, key=lambda each: each.node.path, reverse=True):
                settle_directory(shared, each)
        return written

    def write_tree(self, shared: Path) -> Steps[bool]:
        """The same from a place that keeps trees itself; whether there was one."""
        destination = self._place.destination
        if not isinstance(destination, TreeDestination):
            return False
        prefix = self._settings.upload.data.prefix
        yield Step("data", f"Bringing back the shared data to {shared}")
        with named(shared):
            shared.mkdir(mode=0o755, parents=True, exist_ok=True)
            if others := [path.name for path in shared.iterdir() if path.name != BACKUPS]:
                raise taken(shared, others)
            with tempfile.TemporaryDirectory(dir=shared, prefix=".recovering-") as directory:
                target = Path(directory) / "tree"
                target.mkdir(mode=0o755)
                try:
                    yield from moving(
                        lambda transfer: destination.get_tree(prefix, target, transfer),
                        total=None, limit=None, cancellation=self._cancellation,
                    )  # fmt: skip
                except OperationFailed as error:
                    if error.code != "destination-lacks":
                        raise
                    return False
                for path in target.iterdir():
                    path.rename(shared / path.name)
        return True

    def fetch_dump(self, dump: StoredDump, backups: Path) -> Steps[str]:
        """Bring a dump back, unless it is here; return its name."""
        here = backups / str(dump.name)
        if here.exists():
            if not dump.encrypted and here.stat().st_size != dump.file.size:
                raise taken(backups, [str(dump.name)])
            yield Notice(f"{dump.name} is here already.")
            return str(dump.name)
        rights = file_rights(self._settings.dump)
        return (yield from fetch(self._place, dump, backups, rights, self._identity, self._cancellation))

    def _write_file(self, shared: Path, each: Indexed) -> Steps[None]:
        assert each.key is not None
        with tempfile.TemporaryFile(dir=shared) as plain:
            yield from self._plain(each.key, plain)
            plain.seek(0)
            if hashlib.file_digest(plain, "sha256").hexdigest() != each.sha256:
                text = f"{each.key} at {self._place.name} isn't what was uploaded: its SHA-256 differs."
                raise OperationFailed("damaged-data", text, hint=_TRY_ANOTHER)
            plain.seek(0)
            mode = stat.S_IMODE(each.node.mode) & 0o777  # what runs as somebody else is no data
            write_new(shared, each.node.path, mode, lambda target: shutil.copyfileobj(plain, target), each)

    def _plain(self, key: str, target: BinaryIO) -> Steps[None]:
        """A file from there, decrypted if it must be."""
        if not key.endswith(SUFFIX):
            yield from download(self._place, key, target, None, self._cancellation)
            return
        if not self._identity:
            hint = "Give the file with the identity (the private key): --identity FILE."
            raise Refused("identity-needed", f"{key} at {self._place.name} is encrypted.", hint=hint)
        with tempfile.TemporaryFile(dir=_directory_of(target)) as stored:
            yield from download(self._place, key, stored, None, self._cancellation)
            yield from decrypting(stored, target, self._identity, self._cancellation)


def _directory_of(target: BinaryIO) -> str:
    """Where an open file without a name is: what is on its way belongs on the same disk."""
    return str(Path(f"/proc/self/fd/{target.fileno()}").readlink().parent)


def _write(data: bytes, target: BinaryIO) -> None:
    target.write(data)


def _unpacked(archive: BinaryIO, key: str) -> list[SecretFile]:
    """The files of an archive of secrets, checked: regular, small, inside."""
    archive.seek(0)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive.read(_ARCHIVE_LIMIT)), mode="r:") as unpacked:
            return [_secret(unpacked, member) for member in unpacked]
    except (tarfile.TarError, ValueError) as error:
        text = f"{key} is no archive of secrets: {error}."
        raise OperationFailed("damaged-secrets", text, hint=_TRY_ANOTHER) from None


def _secret(archive: tarfile.TarFile, member: tarfile.TarInfo) -> SecretFile:
    file = archive.extractfile(member) if member.isreg() else None
    if file is None or not is_inside(member.name) or member.size > SIZE_LIMIT:
        raise ValueError(f"{member.name!r} doesn't belong in it")
    return SecretFile(member.name, member.mode & 0o777, file.read())
