"""The dumps at a destination: which are there, which are missing there, which have to go."""

from __future__ import annotations

import io
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from arcbackupd.destinations import DestinationError
from arcbackupd.dumps.catalogue import Backup, FileIdentity, open_backup
from arcbackupd.dumps.dumpfile import BLOCK, MEMBER_SIZE, DamagedDump, read_manifest
from arcbackupd.dumps.manifest import Manifest
from arcbackupd.dumps.names import BackupName, parse_name
from arcbackupd.dumps.retention import Candidate, Plan, Policy, plan_retention
from arcbackupd.encryption import SUFFIX
from arcbackupd.errors import OperationFailed
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.offhost.memory import DestinationMemory, Present
from arcbackupd.operations.offhost.sending import Sending
from arcbackupd.operations.offhost.staging import Hashing
from arcbackupd.operations.prune import Doubt
from arcbackupd.operations.verify import verify
from arcbackupd.settings import Stream

_ENCRYPTED = "only off-host, encrypted: what it holds isn't known on this host"
_UNREAD = "only off-host: what it holds hasn't been read from there yet"


@dataclass(frozen=True)
class StoredDump:
    """A dump that is at a destination, as of the last look, and what is known of it."""

    key: str
    name: BackupName
    file: Present
    manifest: Manifest | None

    @property
    def encrypted(self) -> bool:
        """Whether it needs an identity to be read."""
        return self.key.endswith(SUFFIX)

    @property
    def backup(self) -> Backup:
        """The same as a backup, for one that isn't here."""
        unreadable = None if self.manifest else _ENCRYPTED if self.encrypted else _UNREAD
        return Backup(
            name=str(self.name),
            kind=self.name.kind,
            taken_at=self.name.taken_at,
            identity=FileIdentity(0, self.file.size, int(self.file.modified_at.timestamp() * 1e9)),
            modified_at=self.file.modified_at,
            arrived_at=self.file.modified_at,
            links=1,
            manifest=self.manifest,
            unreadable=unreadable,
        )


def stored_dumps(memory: DestinationMemory, prefix: str) -> Iterator[StoredDump]:
    """The dumps below a prefix at the last look."""
    for key, file in memory.facts.present.items():
        name = parse_name(key.removeprefix(f"{prefix}/").removesuffix(SUFFIX))
        if name:
            yield StoredDump(key, name, file, memory.manifest(key))


def dump_key(backup: Backup, stream: Stream) -> str:
    """Where a backup belongs."""
    return f"{stream.prefix}/{backup.name}{SUFFIX if stream.encrypt_to else ''}"


def missing_dumps(backups: Sequence[Backup], memory: DestinationMemory, stream: Stream, host: str) -> list[Backup]:
    """The good backups whose content this host hasn't put there under any name, newest first."""
    stored = list(stored_dumps(memory, stream.prefix))
    names = {str(dump.name) for dump in stored}
    contents = {dump.manifest.content_sha256 for dump in stored if dump.manifest and _is_ours(dump, memory, host)}
    missing = []
    for backup in backups:
        gone = dump_key(backup, stream) in memory.facts.removed
        if backup.good and not gone and backup.name not in names and backup.content not in contents:
            missing.append(backup)
            contents.add(backup.content or backup.name)
    return missing


def look(sending: Sending, stream: Stream) -> Steps[None]:
    """Look which dumps are there, and read the manifests that aren't known of those that can be read."""
    memory = sending.place.memory
    memory.looked(sending.destination.list(stream.prefix))
    unknown = [d for d in stored_dumps(memory, stream.prefix) if d.manifest is None and not d.encrypted]
    for number, dump in enumerate(unknown, 1):
        if number == 1:
            yield Step("read-manifests", f"Reading what {len(unknown)} dumps at {sending.place.name} hold")
        try:
            head = yield from sending.read(dump.key, MEMBER_SIZE)
        except DestinationError as error:
            if error.passing:
                raise
            sending.problems.append(f"{dump.key} can't be read at {sending.place.name}: {error.message}")
            continue
        if manifest := manifest_of(head, dump.file.size):
            memory.remember_manifest(dump.key, manifest)


def manifest_of(head: bytes, size: int) -> Manifest | None:
    """The manifest in the first MEMBER_SIZE bytes of a dump of that size, if it is there whole."""
    try:
        return read_manifest(io.BytesIO(head), size)
    except DamagedDump:  # cut short, or its contents stand at its end: a fetch will tell
        return None


def send_dumps(
    sending: Sending, stream: Stream, backups: Sequence[Backup], directory: Path, host: str
) -> Steps[None]:
    """Send what is missing, newest first; note what is there under the same name and is something else.

    What of a content isn't whole any more is noted, and the next file of the same content goes in its place.
    """
    memory = sending.place.memory
    stored = {str(dump.name): dump for dump in stored_dumps(memory, stream.prefix)}
    for backup in backups:
        if (dump := stored.get(backup.name)) and (why := _difference(backup, dump, memory)):
            sending.problems.append(f"{dump.key} at {sending.place.name} is not the dump of that name: {why}.")
    tried = set[int]()
    missing = missing_dumps(backups, memory, stream, host)
    while missing:
        damaged = set[str | None]()
        for backup in missing:
            tried.add(backup.identity.inode)
            with suppress(FileNotFoundError):  # pruned meanwhile
                if not (yield from _send_dump(sending, stream, backup, directory)):
                    damaged.add(backup.content)
        others = [other for other in backups if other.content in damaged and other.identity.inode not in tried]
        missing = missing_dumps(others, memory, stream, host)
    memory.looked(sending.destination.list(stream.prefix))


def _send_dump(sending: Sending, stream: Stream, backup: Backup, directory: Path) -> Steps[bool]:
    """Send one and return True, or note that it isn't whole any more."""
    key = dump_key(backup, stream)
    try:
        with open_backup(directory / backup.name) as file:
            problem, sha256 = yield from _read_whole(sending, backup, file)
            if problem is None:
                yield Step("upload", f"Uploading {backup.name} to {sending.place.name}")
                file.seek(0)
                staged = yield from sending.stage(file, stream.encrypt_to)
                try:
                    if staged.plain_sha256 == sha256:
                        yield from sending.put(staged, key)
                    else:
                        problem = "it changed while it was read"
                finally:
                    staged.discard()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OperationFailed(
            "backups-unreadable",
            f"{backup.name} can't be read: {error.strerror}.",
            hint="The disk may be failing: `journalctl -k`.",
        ) from error
    if problem:
        again = f"`arcbackupctl inspect {backup.name} --verify` reads it again."
        sending.problems.append(f"{backup.name} isn't uploaded, as it isn't whole any more: {problem}. {again}")
        return False
    sending.place.memory.added(key, staged)
    if backup.manifest:
        sending.place.memory.remember_manifest(key, backup.manifest)
    return True


def _read_whole(sending: Sending, backup: Backup, file: BinaryIO) -> Steps[tuple[str | None, str]]:
    """Why an open backup isn't what it was when it was proved, if so, and the SHA-256 of the file that was read."""
    reading = Hashing(file, lambda _read: sending.cancellation.check())
    verified = yield from verify(reading, backup)
    while reading.read(BLOCK):
        pass
    return verified.problem, reading.sha256


def _difference(backup: Backup, dump: StoredDump, memory: DestinationMemory) -> str | None:
    if put := memory.facts.put.get(dump.key):
        return None if put.size == dump.file.size else f"{put.size:,} bytes were sent, {dump.file.size:,} are there"
    if dump.encrypted:
        return None if dump.file.size > backup.size else "it is too short"
    if dump.file.size != backup.size:
        return f"it has {dump.file.size:,} bytes, and not {backup.size:,}"
    if dump.manifest != backup.manifest:
        return "its manifest is another one"
    return None


def plan_pruning(
    memory: DestinationMemory,
    prefix: str,
    policy: Policy,
    host: str,
    clock_doubt: Doubt,
    flagged: Container[str] = (),
) -> Plan:
    """What retention says of the dumps there that this host put there, by their keys.

    Age counts by two clocks, that of the names and the destination's own, and by the one that makes it younger: a
    wrong clock on either side removes nothing. ``flagged``: names of backups that lost much against their history.
    """
    ours = [dump for dump in stored_dumps(memory, prefix) if _is_ours(dump, memory, host)]
    candidates = [_candidate(dump, flagged=str(dump.name) in flagged) for dump in ours]
    now = datetime.now(UTC)  # before the look at the clock: the other way round, a jump between them went unnoticed
    return plan_retention(candidates, policy, now, clock_doubt())


def _is_ours(dump: StoredDump, memory: DestinationMemory, host: str) -> bool:
    if put := memory.facts.put.get(dump.key):
        return put.size == dump.file.size
    return dump.manifest is not None and dump.manifest.host == host


def _candidate(dump: StoredDump, *, flagged: bool) -> Candidate:
    taken_at, came_at = dump.name.taken_at, dump.file.modified_at
    return Candidate(
        name=dump.key,
        taken_at=min(taken_at, came_at),
        counts_from=max(taken_at, came_at),
        good=True,
        content=dump.manifest.content_sha256 if dump.manifest else None,
        flagged=flagged,
    )


def prune(sending: Sending, plan: Plan) -> Steps[list[str]]:
    """Remove what a plan says; return the keys. What the destination keeps all the same is noted."""
    removed = []
    for key in plan.pruned:
        yield Step("remove", f"Removing {key} from {sending.place.name}")
        try:
            sending.destination.delete(key)
        except OperationFailed as error:  # an object lock, say
            sending.problems.append(f"{key} stays at {sending.place.name}: {error.message}")
        else:
            sending.place.memory.removed(key)
            removed.append(key)
    return removed
