"""Writing a dump's file: hidden while it grows, durable when it is named, and never over another file."""

from __future__ import annotations

import ctypes
import errno
import gzip
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arcbackupd.dumps import writer
from arcbackupd.dumps.dumpfile import MEMBER_SIZE, manifest_member, read_manifest
from arcbackupd.dumps.names import BackupName, Kind
from arcbackupd.dumps.writer import (
    DirectoryLock,
    FileRights,
    NoLinks,
    PartialDump,
    free_name,
    link_unchanged,
    make_durable,
    sweep_partials,
)
from arcbackupd.niceness import Niceness
from tests.require import require
from tests.unit.sample_dumps import SMALL, manifest, write_dump

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAME = BackupName(NOON, Kind.BACKUP)
HIDDEN = f".{NAME}.partial"


def later(seconds: int, kind: Kind = Kind.BACKUP) -> BackupName:
    return BackupName(NOON + timedelta(seconds=seconds), kind)


def partial(directory: Path, name: BackupName = NAME, rights: FileRights | None = None) -> PartialDump:
    return PartialDump(directory, name, level=1, rights=rights or FileRights())


def take(directory: Path, name: BackupName = NAME, sql: bytes = SMALL) -> BackupName:
    """Write a whole dump and publish it."""
    with partial(directory, name) as dump:
        dump.write(sql)
        dump.complete()
        dump.seal(manifest_member(manifest(sql, compressed_length=dump.compressed_length)), b"")
        return dump.publish(name)


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of half a mebibyte."""
    if os.geteuid() != 0:
        require("root", "only root can mount a small filesystem")
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    if done.returncode:
        require("root", f"no filesystem can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# Publishing


def test_what_was_written_is_published_whole(tmp_path: Path) -> None:
    assert take(tmp_path) == NAME
    path = tmp_path / str(NAME)
    assert names(tmp_path) == [str(NAME)]
    assert gzip.decompress(path.read_bytes()) == SMALL
    with path.open("rb") as file:
        assert read_manifest(file, path.stat().st_size) == manifest()


def test_no_name_is_there_before_it_is_published(tmp_path: Path) -> None:
    with partial(tmp_path) as dump:
        dump.write(SMALL)
        dump.complete()
        assert names(tmp_path) == [HIDDEN]
    assert names(tmp_path) == []


def test_the_size_told_is_that_of_the_file(tmp_path: Path) -> None:
    with partial(tmp_path) as dump:
        dump.write(SMALL)
        dump.complete()
        size = dump.seal(manifest_member(manifest()), b"behind")
        assert size == MEMBER_SIZE + dump.compressed_length + 6
        assert (tmp_path / HIDDEN).stat().st_size == size


def test_a_dump_that_is_left_by_an_error_leaves_nothing(tmp_path: Path) -> None:
    with suppress(RuntimeError), partial(tmp_path) as dump:
        dump.write(SMALL * 1000)
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_taken_name_moves_on_to_the_next_free_second(taken: int, tmp_path: Path) -> None:
    for second in range(taken):
        (tmp_path / str(later(second))).write_bytes(b"theirs")
    assert free_name(tmp_path, NAME) == later(taken)
    assert take(tmp_path) == later(taken)
    assert all((tmp_path / str(later(second))).read_bytes() == b"theirs" for second in range(taken))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nonexistent")])
def test_whatever_has_the_name_keeps_it(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / str(NAME))
    before = (tmp_path / str(NAME)).lstat()
    assert free_name(tmp_path, NAME) == later(1)
    assert take(tmp_path) == later(1)
    assert (tmp_path / str(NAME)).lstat() == before


def test_a_name_taken_between_the_look_and_the_publication_is_not_replaced(tmp_path: Path) -> None:
    with partial(tmp_path, free_name(tmp_path, NAME)) as dump:
        dump.complete()
        dump.seal(manifest_member(manifest()), b"")
        (tmp_path / str(NAME)).write_bytes(b"theirs")
        assert dump.publish(NAME) == later(1)
    assert (tmp_path / str(NAME)).read_bytes() == b"theirs"


def _race(directory: str, worker: int, count: int) -> list[str]:
    """In a process of its own: take names, each as if no other were there."""
    return [_publish_own(Path(directory), f"{worker}-{number}") for number in range(count)]


def _publish_own(directory: Path, text: str) -> str:
    source = directory / f".{text}"
    source.write_text(text)
    found = writer._at_free_second(NAME, lambda free: writer._link_or_rename(source, directory / str(free)))
    return str(found)


@pytest.mark.parametrize("links", [True, False], ids=["by linking", "by renaming"])
def test_processes_that_race_for_names_never_overwrite_each_other(links: bool, tmp_path: Path) -> None:
    workers, each = 3, 25
    code = (
        "import errno, os, sys; from tests.unit import test_writer as t; sys.stdin.readline()\n"
        "def refuse(*_, **__): raise OSError(errno.EPERM, 'no links')\n"
        f"{'' if links else 'os.link = refuse'}\n"
        f"print(*t._race({str(tmp_path)!r}, int(sys.argv[1]), {each}))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(worker)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for worker in range(workers)
    ]  # fmt: skip
    with ThreadPoolExecutor(workers) as pool:  # all of them have imported all, and begin together
        told = list(pool.map(lambda process: process.communicate("go\n", timeout=60)[0].split(), started))
    assert sorted(name for own in told for name in own) == names(tmp_path)
    texts = sorted(path.read_text() for path in tmp_path.iterdir())
    assert texts == sorted(f"{worker}-{number}" for worker in range(workers) for number in range(each))


# Without hard links


def no_links(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_where_there_are_no_links_it_renames_without_replacing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links(number))  # the rename is a real one
    (tmp_path / str(NAME)).write_bytes(b"theirs")
    assert take(tmp_path) == later(1)
    assert names(tmp_path) == [str(NAME), str(later(1))]
    assert (tmp_path / str(NAME)).read_bytes() == b"theirs"


def test_an_error_of_another_kind_is_not_taken_for_missing_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        take(tmp_path)
    assert names(tmp_path) == []


def test_a_rename_that_the_filesystem_refuses_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(os, "link", no_links(errno.EPERM))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    with pytest.raises(OSError, match="Invalid argument"):
        take(tmp_path)
    assert names(tmp_path) == []


# Linking an unchanged dump


def test_an_unchanged_dump_takes_no_more_space_and_is_of_now(tmp_path: Path) -> None:
    path = write_dump(tmp_path, 0)
    os.utime(path, (0, 0))
    before = datetime.now(UTC).timestamp()
    published = link_unchanged(tmp_path, path.name, later(30))
    new = tmp_path / str(published)
    assert new.stat().st_ino == path.stat().st_ino
    assert new.stat().st_mtime >= before - 1


def test_linking_never_overwrites(tmp_path: Path) -> None:
    path = write_dump(tmp_path, 0)
    (tmp_path / str(later(30))).write_bytes(b"theirs")
    assert link_unchanged(tmp_path, path.name, later(30)) == later(31)
    assert (tmp_path / str(later(30))).read_bytes() == b"theirs"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV])
def test_where_it_cannot_be_linked_it_says_so(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dump(tmp_path, 0)
    monkeypatch.setattr(os, "link", no_links(number))
    with pytest.raises(NoLinks):
        link_unchanged(tmp_path, path.name, later(30))
    assert names(tmp_path) == [path.name]


def test_a_real_filesystem_that_has_no_more_links_for_a_file_says_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        require("root", "only root can mount a filesystem with few links")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    made = subprocess.run(["mkfs.ext2", "-q", "-F", "-N", "64", str(image)], capture_output=True, check=False)
    mounted = made.returncode or subprocess.run(
        ["mount", "-o", "loop", str(image), str(place)], capture_output=True, check=False
    ).returncode  # fmt: skip
    if mounted:
        require("root", "no filesystem image can be mounted here")
    try:
        path = write_dump(place, 0)
        (place / "links").mkdir()
        with suppress(OSError):
            for number in range(70_000):
                os.link(path, place / "links" / f"{number:x}")
        assert path.stat().st_nlink < 70_000
        with pytest.raises(NoLinks):
            link_unchanged(place, path.name, later(30))
        assert take(place, later(30)) == later(30)
    finally:
        subprocess.run(["umount", str(place)], check=True)


# Rights


def test_a_dump_is_born_with_its_rights(tmp_path: Path) -> None:
    own = os.geteuid()
    rights = FileRights(0o640, 12345, 23456) if own == 0 else FileRights(0o600, own, os.getegid())
    expected = (rights.mode, rights.owner, rights.group)

    def found(name: str) -> tuple[int, int, int]:
        status = (tmp_path / name).stat()
        return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid

    mask = os.umask(0o077)
    try:
        with partial(tmp_path, rights=rights) as dump:
            assert found(HIDDEN) == expected
            dump.write(SMALL)
            dump.complete()
            assert found(HIDDEN) == expected
            dump.seal(manifest_member(manifest()), b"")
            dump.publish(NAME)
            assert found(str(NAME)) == expected
    finally:
        os.umask(mask)


def test_no_moment_shows_a_dump_to_more_than_its_rights_do(tmp_path: Path) -> None:
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for entry in os.scandir(tmp_path):
                try:
                    seen.add(stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))
                except FileNotFoundError:
                    continue

    watcher = threading.Thread(target=watch)
    mask = os.umask(0)
    watcher.start()
    try:
        for _ in range(50):
            take(tmp_path)
    finally:
        os.umask(mask)
        over.set()
        watcher.join()
    assert seen <= {0o600, 0o640}
    assert 0o640 in seen


def test_rights_that_cannot_be_given_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fchown", no_links(errno.EPERM))
    with pytest.raises(PermissionError):
        partial(tmp_path)
    assert names(tmp_path) == []


# What goes wrong


def test_a_full_disk_is_an_error_and_leaves_nothing(small_disk: Path) -> None:
    def write_too_much() -> None:
        with partial(small_disk) as dump:
            for _ in range(20):
                dump.write(os.urandom(1 << 20))
            dump.complete()

    with pytest.raises(OSError, match="No space left") as caught:
        write_too_much()
    assert caught.value.errno == errno.ENOSPC
    assert names(small_disk) == []
    assert os.statvfs(small_disk).f_bfree == os.statvfs(small_disk).f_blocks


def test_a_disk_that_is_full_at_the_end_is_an_error_too(small_disk: Path) -> None:
    with partial(small_disk) as dump:
        dump.write(SMALL)
        dump.complete()
        with pytest.raises(OSError, match="No space left"):
            dump.seal(manifest_member(manifest()), os.urandom(1 << 20))
    assert names(small_disk) == []


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        partial(tmp_path / "missing")


def test_whoever_runs_at_a_low_priority_already_can_write_nevertheless(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from tests.unit import test_writer as t; print(t.take(Path({str(tmp_path)!r})))"
    )
    command = ["nice", "-n", "15", sys.executable, "-c", code]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=False
    )
    assert (done.stdout.strip(), done.stderr) == (str(NAME), "")


def test_the_compressing_thread_gets_the_niceness_it_is_given(tmp_path: Path) -> None:
    with PartialDump(tmp_path, NAME, level=1, rights=FileRights(), niceness=Niceness(7, "idle")) as dump:
        dump.write(SMALL)
        thread = next(thread for thread in threading.enumerate() if thread.name == "compress")
        while dump.compressed_length == 0 and dump._written == 0:
            dump.write(SMALL)
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) == 7
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 7
        ionice = ["ionice", "-p", str(thread.native_id)]
        assert subprocess.run(ionice, capture_output=True, text=True, check=True).stdout.startswith("idle")


# What was left behind


def test_partials_of_killed_dumps_are_swept_and_nothing_else(tmp_path: Path) -> None:
    ours = [HIDDEN, f".{later(1, Kind.PRE_RESTORE)}.partial"]
    theirs = [
        str(NAME),
        ".other.partial",
        f"{NAME}.partial",
        f".{NAME}",
        ".partial",
        "..partial",
        ".hidden",
        ".backup-20269999-000000.sql.gz.partial",
        f".{NAME}.partial.partial",
        f"..{NAME}.partial",
        "x.tmp",
    ]
    for name in [*ours, *theirs]:
        (tmp_path / name).write_bytes(b"x")
    assert sorted(sweep_partials(tmp_path)) == sorted(ours)
    assert names(tmp_path) == sorted(theirs)


def test_a_killed_process_leaves_a_partial_that_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.unit import test_writer as t\n"
        f"dump = t.partial(Path({str(tmp_path)!r})); dump.write(t.SMALL); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    assert names(tmp_path) == [HIDDEN]
    assert sweep_partials(tmp_path) == [HIDDEN]
    assert names(tmp_path) == []


# The lock


def test_the_directory_is_locked_against_others_until_it_is_left(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path) as one, DirectoryLock(tmp_path) as other:
        assert one.acquire()
        assert not other.acquire()
        one.__exit__()
        assert other.acquire()
        one._descriptor = os.open(tmp_path, os.O_RDONLY)  # left a second time below
    assert sweep_partials(tmp_path) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from arcbackupd.dumps.writer import DirectoryLock\n"
        f"lock = DirectoryLock(Path({str(tmp_path)!r})); assert lock.acquire()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == -9
    with DirectoryLock(tmp_path) as lock:
        assert lock.acquire()


def test_a_lock_that_is_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".arcbackupd.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        DirectoryLock(tmp_path)


def test_entries_of_a_directory_can_be_made_durable(tmp_path: Path) -> None:
    make_durable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_durable(tmp_path / "file")


def test_a_compressing_thread_that_cannot_begin_makes_no_complete_dump(tmp_path: Path) -> None:
    broken = Niceness(cpu=None)  # type: ignore[arg-type]
    with PartialDump(tmp_path, NAME, level=1, rights=FileRights(), niceness=broken) as dump:
        with pytest.raises(TypeError):
            _fill(dump)
        with pytest.raises(TypeError):
            dump.complete()
    assert names(tmp_path) == []


def _fill(dump: PartialDump) -> None:
    for _ in range(1000):  # more than are queued
        dump.write(SMALL)
