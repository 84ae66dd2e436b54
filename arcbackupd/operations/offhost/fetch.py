"""A dump that is only off this host brought back: decrypted, proved whole, and then named."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from arcbackupd.destinations import Transfer
from arcbackupd.dumps.catalogue import Backup, open_backup
from arcbackupd.dumps.dumpfile import DamagedDump, read_manifest
from arcbackupd.dumps.writer import FileRights, IncomingDump
from arcbackupd.encryption import CannotDecrypt, decrypt
from arcbackupd.errors import OperationFailed, Refused
from arcbackupd.operations.backups_dir import check_room, disk_error, prepare_directory
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.offhost.dumps import StoredDump
from arcbackupd.operations.offhost.moving import moving, retrying
from arcbackupd.operations.offhost.sending import Place
from arcbackupd.operations.verify import Verified, verify_file

_BLOCK = 1 << 20


def fetch(
    place: Place,
    dump: StoredDump,
    directory: Path,
    rights: FileRights,
    identity: str | None,
    cancellation: Cancellation,
) -> Steps[str]:
    """Bring a dump back; return its name. ``identity``: the text of an identity file, for an encrypted one.

    Raise Refused without an identity that is needed, and OperationFailed when what is there isn't a whole dump.
    """
    name = str(dump.name)
    if dump.encrypted and not identity:
        hint = f"Give the identity (the private key): `arcbackupctl fetch {name} --identity FILE`."
        raise Refused("identity-needed", f"{name} is encrypted at {place.name}.", hint=hint)
    prepare_directory(directory, rights)
    check_room(directory, dump.file.size)
    yield Step("fetch", f"Fetching {name} from {place.name}")
    place.destination.check()
    try:
        with IncomingDump(directory, name, rights) as incoming:
            yield from _get(place, dump, incoming, identity or "", cancellation)
            verified = yield from _prove(incoming.path, dump)
            if verified.problem:
                hint = "Another copy of it, or another dump: `arcbackupctl list`."
                text = f"{name} at {place.name} is not whole: {verified.problem}. Nothing was kept of it."
                raise OperationFailed("damaged-dump", text, hint=hint)
            incoming.publish()
    except FileExistsError:
        raise OperationFailed("name-taken", f"There is a {name} on this host already.") from None
    except OSError as error:
        raise disk_error(error, directory) from error
    return name


def _get(
    place: Place, dump: StoredDump, incoming: IncomingDump, identity: str, cancellation: Cancellation
) -> Steps[None]:
    with tempfile.TemporaryFile(dir=incoming.path.parent) as stored:
        yield from download(place, dump.key, stored, dump.file.size, cancellation)
        _require_sent(place, dump, stored)
        if dump.encrypted:
            yield Step("decrypt", "Decrypting it")
            yield from decrypting(stored, incoming.file, identity, cancellation)
        else:
            stored.seek(0)
            shutil.copyfileobj(stored, incoming.file, _BLOCK)
    incoming.file.flush()


def _require_sent(place: Place, dump: StoredDump, stored: BinaryIO) -> None:
    """Raise when this host sent something else under that key."""
    put = place.memory.facts.put.get(dump.key)
    stored.seek(0)
    digest = hashlib.file_digest(stored, "sha256")  # type: ignore[arg-type]  # it asks for more than it uses
    if put and digest.hexdigest() != put.sha256:
        text = f"{dump.key} at {place.name} is not what was uploaded: its SHA-256 differs. Nothing was kept of it."
        raise OperationFailed("damaged-dump", text, hint="Another copy, or another dump: `arcbackupctl list`.")


def download(place: Place, key: str, target: BinaryIO, size: int | None, cancellation: Cancellation) -> Steps[None]:
    """Get a file's bytes into an open one, trying again where that may help."""

    def get(transfer: Transfer) -> None:
        target.seek(0)
        target.truncate()
        place.destination.get(key, target, transfer)

    limit = place.table.bandwidth_limit
    yield from retrying(lambda: moving(get, total=size, limit=limit, cancellation=cancellation), cancellation)


def decrypting(stored: BinaryIO, target: BinaryIO, identity: str, cancellation: Cancellation) -> Steps[None]:
    """Decrypt an open file into another. Raise OperationFailed."""
    stored.seek(0)
    try:
        yield from moving(
            lambda _: decrypt(stored, target, identity), total=None, limit=None, cancellation=cancellation
        )
    except CannotDecrypt as error:
        hint = "Give the file with the identity (AGE-SECRET-KEY-…) of a recipient in encrypt_to."
        raise OperationFailed("cannot-decrypt", f"It can't be decrypted: {error}.", hint=hint) from None


def _prove(path: Path, dump: StoredDump) -> Steps[Verified]:
    backup = dump.backup
    try:
        with open_backup(path) as file:
            manifest = read_manifest(file, path.stat().st_size)
    except DamagedDump as error:
        return Verified(str(error), 0)
    known: Backup = replace(backup, manifest=manifest)
    return (yield from verify_file(path, known))
