"""What stands in the way of a restore, or is worth knowing before it: found while nothing is touched yet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.compatibility import Badge, Compatibility
from arcbackupd.dumps.loading import knows_restrict
from arcbackupd.errors import ArcbackupdError, OperationFailed, Refused
from arcbackupd.operations.backups_dir import ROOM_BESIDE_A_DUMP
from arcbackupd.operations.database import Database
from arcbackupd.operations.restore.server import Server
from arcbackupd.postgres.databases import Properties

_GROWTH = 1.5
"""Bytes that a database takes for a byte of its SQL, with its indexes."""
_LOG_BYTES = 1 << 30
"""What the server's write-ahead log grows by while much is loaded (max_wal_size by default)."""


_NO_DF = ("no-df", "not-installed", "not-a-database")
"""Codes of the errors of an image, or a host, without a df that tells the free space."""


@dataclass(frozen=True)
class Request:
    """What was asked for; ``force`` overrides a refusal for incompatible migrations."""

    in_place: bool = False
    safety_backup: bool = True
    create_missing_roles: bool = False
    force: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why it isn't done; ``forced``: ``--force`` overrides it."""

    code: str
    message: str
    hint: str
    forced: bool = False

    def error(self) -> Refused:
        """The same as an error."""
        return Refused(self.code, self.message, hint=self.hint)


@dataclass(frozen=True)
class Situation:
    """What a restore finds. ``live`` is ``None`` where the installation's database doesn't exist."""

    server: Server
    database: str
    live: Properties | None
    server_version: str
    psql_version: str
    missing_roles: tuple[str, ...]

    @property
    def server_major(self) -> int:
        """The server's major version."""
        return major(self.server_version)

    @property
    def restricted(self) -> bool:
        """Whether psql refuses its own commands when told to."""
        return knows_restrict(self.psql_version)


def major(version: str) -> int:
    """``16`` of ``16.10``, 0 of what is no version."""
    digits = version.partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


def look(server: Server, database: str, roles: tuple[str, ...]) -> Situation:
    """Ask the server. Raise OperationFailed when it doesn't answer."""
    return Situation(
        server, database, server.properties(database), server.version(), server.psql_version(),
        tuple(server.missing_roles(roles)),
    )  # fmt: skip


def refusals(
    situation: Situation,
    request: Request,
    backup: Backup,
    compatibility: Compatibility,
    backups: Path,
    dump_size: int,
) -> Iterator[Refusal]:
    """What stands in the way, the worst first. ``dump_size``: bytes that the snapshot may need in ``backups``."""
    if not backup.good:
        why = backup.problem or backup.unreadable or "it was not scanned yet"
        hint = "Restore another one: `arcbackupctl list`."
        yield Refusal("broken-backup", f"{backup.name} can't be restored: {why}.", hint)
        return
    if compatibility.status is Badge.INCOMPATIBLE and not request.force:
        hint = (
            "The running code doesn't know these migrations: run the release that wrote them, or say --force. "
            f"`arcbackupctl inspect {backup.name}` lists them."
        )
        message = f"Refusing to restore an incompatible backup: {backup.name} is {compatibility}."
        yield Refusal("incompatible", message, hint, forced=True)
    if situation.missing_roles and not request.create_missing_roles:
        hint = "--create-missing-roles makes them, without the right to log in."
        message = f"The server lacks roles that {backup.name} names: {', '.join(situation.missing_roles)}."
        yield Refusal("missing-roles", message, hint)
    yield from blockers(situation.server, situation.database, in_place=request.in_place)
    yield from _room(situation, request, backup)
    if request.in_place and request.safety_backup and situation.live:
        yield from _snapshot_room(backups, dump_size)


def blockers(server: Server, database: str, *, in_place: bool) -> Iterator[Refusal]:
    """What would make the swap, or the drop, fail."""
    if prepared := server.prepared_transactions(database):
        names = ", ".join(prepared)
        hint = "COMMIT PREPARED or ROLLBACK PREPARED each of them, in that database."
        message = f"{database} can't be replaced while it has prepared transactions: {names}."
        yield Refusal("prepared-transactions", message, hint)
    if in_place and (replication := server.replication(database)):
        hint = "Drop them, or restore without --in-place."
        message = f"{database} can't be dropped while it has {', '.join(replication)}."
        yield Refusal("replication", message, hint)


def warnings(
    situation: Situation, backup: Backup, compatibility: Compatibility, anomalies: Sequence[str] = ()
) -> Iterator[str]:
    """What is worth knowing, one sentence each. ``anomalies``: what the backup lost against its history."""
    if anomalies:
        yield (
            f"{backup.name} is flagged for what it lost against those before it: {'; '.join(anomalies)}."
            " An older one may be the one you want."
        )
    if situation.live is None:
        yield f"There is no database {situation.database} now; it is made anew."
    if compatibility.status is Badge.UNKNOWN:
        yield f"Whether it fits the running code is unknown: {compatibility.annotation}."
    if compatibility.status is Badge.INCOMPATIBLE:
        yield f"It doesn't fit the running code, and is restored all the same: {compatibility.annotation}."
    known = backup.manifest or backup.scan
    if known and known.pg_dump_version and major(known.pg_dump_version) > situation.server_major:
        yield (
            f"It was written by pg_dump {known.pg_dump_version}, the server is older ({situation.server_version}): "
            "what the server doesn't know makes the restore fail, before anything is touched."
        )
    if not situation.restricted:
        yield (
            f"psql {situation.psql_version} beside the server is from before August 2025 and can't be told to"
            " refuse commands in a dump (CVE-2025-8714): it gets only what pg_dump writes. A newer image of the"
            " same major has one that can."
        )
    yield from _wrong_password(situation)


def _wrong_password(situation: Situation) -> Iterator[str]:
    """A password that only counts over the network: the services will not get in with it, we do."""
    database: Database = situation.server.database(situation.database)
    for address in database.addresses() if situation.live else ():
        try:
            database.log_in(address)
        except ArcbackupdError as error:
            if error.code == "wrong-password":
                yield f"POSTGRES_PASSWORD in .env is not the one that the server knows: {error.message}"


@dataclass(frozen=True)
class Room:
    """Bytes that loading a backup takes, and those that are free where the server keeps its data."""

    needed: int
    free: int


def room_for(server: Server, backup: Backup) -> Room | None:
    """``None`` where an image, or a host, has no df that tells: the load itself will, and nothing is harmed."""
    known = backup.manifest.sql_length if backup.manifest else backup.scan.length if backup.scan else 0
    log = min(known, _LOG_BYTES)
    try:
        free = server.free_space()
    except OperationFailed as error:
        if error.code not in _NO_DF:
            raise
        return None
    return Room(int(known * _GROWTH) + log, free)


def _room(situation: Situation, request: Request, backup: Backup) -> Iterator[Refusal]:
    gained = situation.server.size(situation.database) if request.in_place and situation.live else 0
    room = room_for(situation.server, backup)
    if room is None or room.free + gained >= room.needed:
        return
    other = (
        "" if request.in_place else ", or restore with --in-place, which needs no second copy beside the database"
    )
    message = (
        f"The database's disk has no room for {backup.name}: about {room.needed:,} bytes are needed, "
        f"{room.free:,} are free{f' and {gained:,} would become free' if gained else ''}."
    )
    yield Refusal("disk-too-small", message, f"Free some space there{other}.")


def _snapshot_room(backups: Path, dump_size: int) -> Iterator[Refusal]:
    place = backups if backups.is_dir() else backups.parent
    needed, free = dump_size + ROOM_BESIDE_A_DUMP, shutil.disk_usage(place).free
    if free < needed:
        message = (
            f"{backups} has no room for the safety backup: about {needed:,} bytes are needed, {free:,} are free."
        )
        yield Refusal("disk-full", message, "Free some space there; --no-safety-backup does without it.")
