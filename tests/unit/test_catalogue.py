"""The catalogue: what is known of every file, from its manifest or one scan, while it stays the same file."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import threading
import time
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest

from arcbackupd.dumps import catalogue as module
from arcbackupd.dumps.catalogue import QUIET_SECONDS, Backup, Catalogue, open_backup, scan_file
from arcbackupd.dumps.dumpfile import MEMBER_SIZE
from arcbackupd.dumps.manifest import Reason
from arcbackupd.dumps.names import Kind
from arcbackupd.errors import OperationFailed
from tests.unit.sample_dumps import (
    MIGRATION_NAMES,
    MIGRATIONS,
    SMALL,
    dump,
    dump_file,
    manifest,
    write_dump,
    write_foreign,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory of backups."""
    place = tmp_path / "db_backups"
    place.mkdir()
    return place


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Where the catalogue remembers."""
    return tmp_path / "catalogue.json"


@pytest.fixture
def catalogue(memory: Path) -> Catalogue:
    """A catalogue that remembers nothing yet."""
    return Catalogue(memory)


def later() -> float:
    """A time at which nothing changed lately."""
    return time.time() + 3600


def scan_all(catalogue: Catalogue, directory: Path, now: float | None = None) -> list[str]:
    """Scan whatever waits; return the names in the order of their scans."""
    scanned = []
    now = later() if now is None else now
    while backup := catalogue.scan_pending(directory, now):
        scanned.append(backup.name)
        assert len(scanned) < 100
    return scanned


def by_name(backups: list[Backup]) -> dict[str, Backup]:
    return {backup.name: backup for backup in backups}


def problems(catalogue: Catalogue, directory: Path) -> dict[str, str | None]:
    return {backup.name: backup.problem for backup in catalogue.read(directory)}


def file(directory: Path, second: int, data: bytes) -> str:
    path = directory / f"backup-20260102-1200{second:02}.sql.gz"
    path.write_bytes(data)
    return path.name


# What is listed


def test_backups_are_listed_newest_first_whatever_their_kind(catalogue: Catalogue, directory: Path) -> None:
    write_dump(directory, 1)
    write_dump(directory, 3, kind=Kind.PRE_RESTORE)
    write_dump(directory, 2)
    listed = catalogue.read(directory)
    assert [(backup.kind, backup.taken_at.second) for backup in listed] == [
        ("pre-restore", 3),
        ("backup", 2),
        ("backup", 1),
    ]


def test_a_missing_directory_has_no_backups(catalogue: Catalogue, tmp_path: Path) -> None:
    assert catalogue.read(tmp_path / "missing") == []
    assert catalogue.scan_pending(tmp_path / "missing", later()) is None


def test_a_dump_with_a_manifest_tells_all_that_it_holds(catalogue: Catalogue, directory: Path) -> None:
    path = write_dump(directory, 0)
    (backup,) = catalogue.read(directory)
    assert (backup.state, backup.good, backup.problem) == ("good", True, None)
    assert backup.migrations == MIGRATION_NAMES
    assert backup.rows == {"public.django_migrations": 2, "public.targets": 3}
    assert backup.reason is Reason.SCHEDULED
    assert backup.content == manifest().content_sha256
    assert (backup.size, backup.links) == (path.stat().st_size, 1)
    assert backup.taken_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert catalogue.scan_pending(directory, later()) is None


def test_what_is_no_backup_is_not_listed(catalogue: Catalogue, directory: Path) -> None:
    write_dump(directory, 0)
    for name in (
        ".backup-20260101-120000.sql.gz.partial",
        "notes.txt",
        "backup-20269999-000000.sql.gz",
        ".arcbackupd.lock",
    ):
        (directory / name).write_bytes(b"x")
    assert len(catalogue.read(directory)) == 1


def test_links_pipes_directories_and_devices_with_names_of_backups_are_ignored(
    catalogue: Catalogue, directory: Path
) -> None:
    real = write_dump(directory, 0)
    (directory / "backup-20260101-120001.sql.gz").symlink_to(real)
    (directory / "backup-20260101-120002.sql.gz").symlink_to("/dev/zero")
    os.mkfifo(directory / "backup-20260101-120003.sql.gz")
    (directory / "backup-20260101-120004.sql.gz").mkdir()
    assert [backup.name for backup in catalogue.read(directory)] == [real.name]
    assert scan_all(catalogue, directory) == []


def test_a_file_that_became_a_pipe_or_a_link_does_not_make_it_wait(directory: Path) -> None:
    pipe, link = directory / "pipe", directory / "link"
    os.mkfifo(pipe)
    link.symlink_to(write_dump(directory, 0))
    assert scan_file(pipe).problem == "it is empty"  # nobody writes: no waiting
    with pytest.raises(OSError, match="symbolic links"):
        open_backup(link)


def test_dumps_with_a_manifest_are_never_decompressed(catalogue: Catalogue, directory: Path) -> None:
    for second in range(20):
        data = bytearray(dump_file())
        data[MEMBER_SIZE:] = os.urandom(len(data) - MEMBER_SIZE)
        (directory / f"backup-20260101-1200{second:02}.sql.gz").write_bytes(data)
    assert {backup.state for backup in catalogue.read(directory)} == {"good"}


def test_listing_large_dumps_reads_little_and_listing_again_nothing(catalogue: Catalogue, directory: Path) -> None:
    size = 100 << 20
    for second in range(30):
        path = directory / f"backup-20260101-1200{second:02}.sql.gz"
        data = dump_file(SMALL, manifest(compressed_length=size - MEMBER_SIZE))
        with path.open("wb") as sparse:
            sparse.write(data[:MEMBER_SIZE])
            sparse.truncate(size)

    def read_so_far() -> int:
        return int(Path("/proc/thread-self/io").read_text().split()[1])

    before = read_so_far()
    assert {backup.state for backup in catalogue.read(directory)} == {"good"}
    once = read_so_far() - before
    assert once < 30 * (MEMBER_SIZE + (256 << 10))
    catalogue.read(directory)
    assert read_so_far() - before - once < 64 << 10


# Foreign dumps


def test_a_foreign_dump_is_known_after_its_scan(catalogue: Catalogue, directory: Path) -> None:
    path = write_foreign(directory, 0)
    (before,) = catalogue.read(directory)
    assert (before.state, before.problem, before.migrations, before.reason) == (
        "unscanned",
        None,
        None,
        Reason.FOREIGN,
    )
    scanned = catalogue.scan_pending(directory, later())
    (after,) = catalogue.read(directory)
    assert scanned == after
    assert (after.name, after.state, after.reason, after.manifest) == (path.name, "good", Reason.FOREIGN, None)
    assert after.migrations == MIGRATION_NAMES
    assert after.content == manifest().content_sha256


def test_the_newest_is_scanned_first_and_each_once(catalogue: Catalogue, directory: Path) -> None:
    names = [write_foreign(directory, second).name for second in range(4)]
    assert scan_all(catalogue, directory) == names[::-1]
    assert scan_all(catalogue, directory) == []


def test_scans_are_remembered_across_a_restart(catalogue: Catalogue, memory: Path, directory: Path) -> None:
    write_foreign(directory, 0)
    file(directory, 0, gzip.compress(SMALL[:-20]))
    scan_all(catalogue, directory)
    again = Catalogue(memory)
    assert by_name(again.read(directory)) == by_name(catalogue.read(directory))
    assert scan_all(again, directory) == []


@pytest.mark.parametrize("lost", [None, b"", b"{", b"[]", b'{"scans": 5}', b"\xff", b'{"scans": {"x": {}}}'])
def test_a_lost_memory_costs_another_scan_and_nothing_else(
    lost: bytes | None, catalogue: Catalogue, memory: Path, directory: Path
) -> None:
    name = write_foreign(directory, 0).name
    scan_all(catalogue, directory)
    if lost is None:
        memory.unlink()
    else:
        memory.write_bytes(lost)
    again = Catalogue(memory)
    assert again.read(directory)[0].state == "unscanned"
    assert scan_all(again, directory) == [name]


def test_a_dump_that_changed_is_scanned_again(catalogue: Catalogue, directory: Path) -> None:
    path = write_foreign(directory, 0)
    scan_all(catalogue, directory)
    write_foreign(directory, 0, dump(MIGRATIONS))
    (changed,) = catalogue.read(directory)
    assert changed.state == "unscanned"
    assert scan_all(catalogue, directory, later() + 60) == [path.name]  # such a change is found by and by
    assert catalogue.read(directory)[0].rows == {"public.django_migrations": 2}


def test_a_dump_replaced_by_one_of_the_same_size_and_time_is_scanned_again(
    catalogue: Catalogue, directory: Path
) -> None:
    path = write_foreign(directory, 0)
    scan_all(catalogue, directory)
    other = directory / "other"
    shutil.copy2(path, other)
    other.replace(path)
    assert catalogue.read(directory)[0].state == "unscanned"


def test_a_dump_that_is_being_copied_is_not_scanned_yet(catalogue: Catalogue, directory: Path) -> None:
    path = write_foreign(directory, 0)
    changed = path.stat().st_ctime
    assert catalogue.scan_pending(directory, changed + QUIET_SECONDS / 2) is None
    assert catalogue.read(directory)[0].state == "unscanned"
    assert catalogue.scan_pending(directory, changed + QUIET_SECONDS + 0.1) is not None


def test_an_old_time_does_not_hide_that_a_dump_is_being_copied(catalogue: Catalogue, directory: Path) -> None:
    path = write_foreign(directory, 0)
    os.utime(path, (0, 0))
    assert catalogue.scan_pending(directory, path.stat().st_ctime + 0.5) is None


def test_a_dump_from_the_future_is_scanned_all_the_same(catalogue: Catalogue, directory: Path) -> None:
    path = write_foreign(directory, 0)
    os.utime(path, (time.time() + 1e6, time.time() + 1e6))
    assert catalogue.scan_pending(directory, time.time() + 10) is not None


def test_one_that_is_being_copied_does_not_hold_up_the_others(catalogue: Catalogue, directory: Path) -> None:
    older = write_foreign(directory, 0)
    newer = write_foreign(directory, 1)
    soon = time.time() + 100
    os.utime(newer, (soon - 0.5, soon - 0.5))
    scanned = catalogue.scan_pending(directory, soon)
    assert scanned
    assert scanned.name == older.name


def test_a_dump_that_changes_while_it_is_scanned_is_scanned_again(
    catalogue: Catalogue, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_foreign(directory, 0)
    whole = scan_file

    def scan_and_change(place: Path, _between: object) -> object:
        scan = whole(place)
        place.write_bytes(gzip.compress(dump(MIGRATIONS)))
        return scan

    monkeypatch.setattr(module, "scan_file", scan_and_change)
    assert catalogue.scan_pending(directory, later()) is not None
    assert catalogue.read(directory)[0].state == "unscanned"
    monkeypatch.undo()
    assert scan_all(catalogue, directory) == [path.name]


def test_a_new_dump_is_found_although_nothing_waited_before(catalogue: Catalogue, directory: Path) -> None:
    assert scan_all(catalogue, directory) == []
    name = write_foreign(directory, 0).name
    assert scan_all(catalogue, directory) == [name]


def test_looking_for_work_when_there_is_none_does_not_read_the_directory(
    catalogue: Catalogue, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dump(directory, 0)
    now = time.time() + 10
    assert catalogue.scan_pending(directory, now) is None
    assert catalogue.scan_pending(directory, now + 1) is None
    monkeypatch.setattr(catalogue, "read", lambda _: pytest.fail("it was read"))
    assert catalogue.scan_pending(directory, now + 2) is None


def test_what_is_gone_is_forgotten(catalogue: Catalogue, memory: Path, directory: Path) -> None:
    gone = write_foreign(directory, 0)
    write_foreign(directory, 1)
    scan_all(catalogue, directory)
    gone.unlink()
    catalogue.remember_reason(write_dump(directory, 2).name, Reason.MANUAL)
    catalogue.read(directory)
    catalogue.remember_reason("backup-20260101-120002.sql.gz", Reason.MANUAL)
    assert gone.name not in memory.read_text()
    assert "backup-20260101-130001" in memory.read_text()


def test_the_reason_of_a_name_is_remembered_across_a_restart(
    catalogue: Catalogue, memory: Path, directory: Path
) -> None:
    path = write_dump(directory, 0)
    linked = directory / "backup-20260101-120030.sql.gz"
    os.link(path, linked)
    catalogue.remember_reason(linked.name, Reason.MANUAL)
    for each in (catalogue, Catalogue(memory)):
        reasons = {backup.name: (backup.reason, backup.links) for backup in each.read(directory)}
        assert reasons == {path.name: (Reason.SCHEDULED, 2), linked.name: (Reason.MANUAL, 2)}


def test_reading_and_scanning_at_once_is_safe(catalogue: Catalogue, directory: Path) -> None:
    names = [write_foreign(directory, second).name for second in range(10)]
    failed: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(50):
                assert [backup.name for backup in catalogue.read(directory)] == names[::-1]
        except BaseException as error:  # noqa: BLE001  # reported below
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert len(scan_all(catalogue, directory)) == 10
    for thread in threads:
        thread.join()
    assert not failed


# Broken ones


def members() -> bytes:
    """A foreign dump of two gzip members."""
    middle = len(SMALL) // 2
    return gzip.compress(SMALL[:middle]) + gzip.compress(SMALL[middle:])


FORGED = dump(
    b"COPY public.t (line) FROM stdin;\n--\n-- PostgreSQL database dump complete\n--\n\n"
    b"\\\\unrestrict Kq3hVtZ0aB\n1\n\\.\n"
)
FORGED_END = FORGED.index(b"\\\\unrestrict") + len(b"\\\\unrestrict Kq3hVtZ0aB\n")

BROKEN = {
    "truncated": (dump_file()[:-1], "cut short: "),
    "truncated within its manifest": (dump_file()[:1000], "cut short: the gzip data end too early"),
    "ours, cut between its members": (dump_file()[:MEMBER_SIZE], "cut short: "),
    "too long": (dump_file() + b"x", "1 bytes too many are at its end"),
    "emptied": (b"", "it is empty"),
    "wrong magic": (b"PK\x03\x04" + bytes(100), "not a gzip file: wrong magic number"),
    "foreign, truncated": (gzip.compress(SMALL)[:-9], "cut short: the gzip data end too early"),
    "foreign, cut between its members": (
        members()[: len(gzip.compress(SMALL[: len(SMALL) // 2]))],
        "cut short: it ends ",
    ),
    "its text lacks its trailer": (
        gzip.compress(SMALL[: SMALL.index(b"--\n-- PostgreSQL database dump complete")]),
        "cut short: the line that ends every pg_dump is missing",
    ),
    "its text lacks its key": (
        gzip.compress(SMALL[: SMALL.index(b"\\unrestrict")]),
        "cut short: the \\unrestrict that ends it is missing",
    ),
    "cut right after a forged trailer": (
        gzip.compress(FORGED[:FORGED_END]),
        "cut short: it ends after 5 rows of table public.t",
    ),
    "damaged": (gzip.compress(SMALL)[:-8] + bytes(8), "the gzip data are damaged"),
    "not a dump": (gzip.compress(b"hello\n"), "cut short: it ends inside a statement"),
    "a gzip file of nothing": (gzip.compress(b""), "it is empty"),
    "a custom-format dump": (b"PGDMP\x01\x0e" + bytes(100), "not a gzip file: wrong magic number"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_dump_says_why_and_harms_no_other(case: str, catalogue: Catalogue, directory: Path) -> None:
    data, why = BROKEN[case]
    name = file(directory, 0, data)
    good = {write_dump(directory, 1).name, write_foreign(directory, 2).name}
    scan_all(catalogue, directory)
    told = by_name(catalogue.read(directory))
    assert told[name].state == "broken"
    assert (told[name].problem or "").startswith(why)
    assert {backup.name for backup in told.values() if backup.good} == good


def test_all_broken_ones_together_are_told_apart(catalogue: Catalogue, memory: Path, directory: Path) -> None:
    expected = {file(directory, second, data): why for second, (data, why) in enumerate(BROKEN.values())}
    scan_all(catalogue, directory)
    for each in (catalogue, Catalogue(memory)):
        told = problems(each, directory)
        assert all((told[name] or "").startswith(why) for name, why in expected.items())


def test_a_text_of_any_kind_as_a_foreign_dump_is_broken_and_not_a_crash(
    catalogue: Catalogue, directory: Path
) -> None:
    for second in range(20):
        file(directory, second, gzip.compress(os.urandom(5000)))
    scan_all(catalogue, directory)
    assert {backup.state for backup in catalogue.read(directory)} == {"broken"}


# What can't be read


def refused(*_: object, **__: object) -> BytesIO:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_dump_that_cannot_be_read_for_now_is_not_taken_for_broken(
    catalogue: Catalogue, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dump(directory, 0)
    monkeypatch.setattr(module, "open_backup", refused)
    (backup,) = catalogue.read(directory)
    assert (backup.state, backup.problem) == ("unscanned", None)
    assert backup.unreadable == "it can't be read: Too many open files"
    assert catalogue.scan_pending(directory, later()) is None
    monkeypatch.undo()
    assert catalogue.read(directory)[0].good


def test_a_dump_that_the_disk_refuses_does_not_hold_up_the_scan_of_others(
    catalogue: Catalogue, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, bad = write_foreign(directory, 0), write_foreign(directory, 1)
    whole = scan_file

    def scan(path: Path, _between: object) -> object:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(path)

    monkeypatch.setattr(module, "scan_file", scan)
    assert scan_all(catalogue, directory) == [bad.name, older.name]
    told = by_name(catalogue.read(directory))
    assert told[bad.name].unreadable == "it can't be read: Input/output error"
    assert told[bad.name].state == "unscanned"
    assert told[older.name].good


def test_a_dump_that_vanishes_between_listing_and_reading_is_no_crash(
    catalogue: Catalogue, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_foreign(directory, 0)

    def vanish(place: Path, _between: object) -> object:
        place.unlink()
        return open_backup(place)

    monkeypatch.setattr(module, "scan_file", vanish)
    assert catalogue.scan_pending(directory, later()) is not None
    assert catalogue.read(directory) == []
    assert not path.exists()


def test_a_memory_that_cannot_be_written_costs_no_second_scan(directory: Path, tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "missing" / "catalogue.json")
    write_foreign(directory, 0)
    assert catalogue.scan_pending(directory, later()) is not None
    assert catalogue.read(directory)[0].good
    assert catalogue.scan_pending(directory, later()) is None


def test_a_directory_that_cannot_be_read_is_an_error_with_what_to_do(catalogue: Catalogue, tmp_path: Path) -> None:
    place = tmp_path / "db_backups"
    place.write_text("a file where the directory should be")
    with pytest.raises(OperationFailed) as caught:
        catalogue.read(place)
    assert caught.value.code == "backups-unreadable"
    assert caught.value.hint
