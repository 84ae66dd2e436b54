"""The secrets at a destination: a tar archive of ``.env`` and the Compose files each time that they changed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Container, Iterable
from datetime import UTC, datetime
from pathlib import Path

from arcbackupd.destinations import StoredFile
from arcbackupd.dotenv import DotenvError, parse_dotenv
from arcbackupd.encryption import SUFFIX
from arcbackupd.errors import OperationFailed
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.offhost.sending import Place, Sending, free_key, newest_key
from arcbackupd.settings import Stream

ENV = ".env"
COMPOSE_FILES = tuple(
    f"{stem}{override}.{ending}"
    for stem in ("docker-compose", "compose")
    for override in ("", ".override")
    for ending in ("yml", "yaml")
)
"""What Compose reads by itself; COMPOSE_FILE in ``.env`` names others."""
SIZE_LIMIT = 1 << 20
"""Bytes of each of them."""


def pack(install_dir: Path) -> bytes:
    """The installation's secrets as a tar archive, the same for the same files. Raise OperationFailed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in secret_names(install_dir):
            _add(archive, install_dir, name)
    return packed.getvalue()


def secret_names(install_dir: Path) -> list[str]:
    """The paths of these files, relative to the install directory. Raise OperationFailed without ``.env``."""
    try:
        env = parse_dotenv((install_dir / ENV).read_text("utf-8", "surrogateescape"), {})
    except FileNotFoundError as error:
        hint = "Point install_dir at the directory that holds docker-compose.yml and .env."
        raise OperationFailed("env-missing", f"There is no {install_dir / ENV}.", hint=hint) from error
    except OSError as error:
        raise _unreadable(install_dir / ENV, error) from error
    except DotenvError:  # what Compose can't read is kept as it stands all the same
        env = {}
    named = env.get("COMPOSE_FILE", "").split(env.get("COMPOSE_PATH_SEPARATOR") or ":")
    inside = [
        name for name in named if name and (install_dir / name).resolve().is_relative_to(install_dir.resolve())
    ]
    relative = [str((install_dir / name).resolve().relative_to(install_dir.resolve())) for name in inside]
    there = [name for name in dict.fromkeys([*COMPOSE_FILES, *relative]) if (install_dir / name).is_file()]
    return [ENV, *there]


def _add(archive: tarfile.TarFile, install_dir: Path, name: str) -> None:
    path = install_dir / name
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
            mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > SIZE_LIMIT:
        hint = f"Secrets are files of up to {SIZE_LIMIT:,} bytes each."
        raise OperationFailed("secrets-too-large", f"{path} is too large to be a Compose file.", hint=hint)
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def have_changed(place: Place, packed: bytes, there: Container[str]) -> bool:
    """Whether a place with those keys lacks the secrets as they are now."""
    sent = [put for key, put in place.memory.facts.put.items() if key in there]
    last = max(sent, key=lambda put: put.at, default=None)
    return last is None or last.plain_sha256 != hashlib.sha256(packed).hexdigest()


def send_secrets(sending: Sending, stream: Stream, install_dir: Path) -> Steps[None]:
    """Send them if they changed since the last time."""
    packed = pack(install_dir)
    there = {file.key for file in sending.destination.list(stream.prefix)}
    if not have_changed(sending.place, packed, there):
        return
    yield Step("upload", f"Uploading .env and the Compose files to {sending.place.name}")
    ending = f".tar{SUFFIX}" if stream.encrypt_to else ".tar"
    key = free_key(f"{stream.prefix}/secrets-", datetime.now(UTC), ending, there)
    staged = yield from sending.send(io.BytesIO(packed), key, stream.encrypt_to)
    sending.place.memory.added(key, staged)


def newest_secrets(files: Iterable[StoredFile], prefix: str) -> str | None:
    """The key of the newest of these archives among files."""
    return newest_key(files, f"{prefix}/secrets-", (".tar", f".tar{SUFFIX}"))


def _unreadable(path: Path, error: OSError) -> OperationFailed:
    return OperationFailed("env-unreadable", f"{path}: {error.strerror}.", hint="Let the daemon read it.")
