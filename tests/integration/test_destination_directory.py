"""A directory as a destination: on this disk, and on mounted filesystems, full, read-only and hostile ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from arcbackupd.destinations import PARTIAL, DestinationError, Transfer
from arcbackupd.destinations.directory import DirectoryDestination, DirectorySettings
from arcbackupd.destinations.naming import rename_new
from tests.integration.destination_contract import LARGE, SMALL, DestinationContract, Put, fetched, keys
from tests.integration.destination_contract import _put as _put
from tests.require import require

DAY = 24 * 60 * 60


def made(path: Path, mount: bool | Path, state_dir: Path) -> DirectoryDestination:
    return DirectoryDestination("nas", DirectorySettings(path=path, mount=mount), state_dir)


@pytest.fixture(name="share")
def _share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    return share


@pytest.fixture(name="destination")
def _destination(share: Path, tmp_path: Path) -> DirectoryDestination:
    return made(share, False, tmp_path / "state")


class TestContract(DestinationContract):
    """What every destination does."""


# What it does on the disk


def test_files_and_directories_are_the_owners_alone(share: Path, put: Put) -> None:
    before = os.umask(0)
    try:
        put("dumps/deep/file")
    finally:
        os.umask(before)
    assert (share / "dumps/deep/file").stat().st_mode & 0o7777 == 0o600
    for directory in ("dumps", "dumps/deep", PARTIAL):
        assert (share / directory).stat().st_mode & 0o7777 == 0o700


def test_nothing_is_left_aside(share: Path, put: Put) -> None:
    put("dumps/file", LARGE)
    with pytest.raises(DestinationError):
        put("dumps/file")
    assert list((share / PARTIAL).iterdir()) == []
    assert (share / "dumps/file").stat().st_nlink == 1


def test_what_is_on_its_way_is_not_listed(destination: DirectoryDestination, share: Path, put: Put) -> None:
    def look(count: int) -> None:
        seen.append((len([*(share / PARTIAL).iterdir()]) if count else 0, keys(destination)))

    seen: list[tuple[int, list[str]]] = []
    put("dumps/file", LARGE, Transfer(look, limit=8 << 20))
    assert (1, []) in seen
    assert keys(destination) == ["dumps/file"]


def test_what_a_crash_left_is_swept_a_day_later(destination: DirectoryDestination, share: Path) -> None:
    destination.check()
    old, new, foreign = (share / PARTIAL / name for name in ("old", "new", "directory"))
    old.write_bytes(SMALL)
    new.write_bytes(SMALL)
    foreign.mkdir()
    for path in (old, foreign):
        os.utime(path, (path.stat().st_mtime - DAY - 60,) * 2)
    destination.check()
    assert {path.name for path in (share / PARTIAL).iterdir()} == {"new", "directory"}


def test_a_way_through_a_file_is_a_conflict(destination: DirectoryDestination, put: Put) -> None:
    put("dumps/file")
    for key in ("dumps/file/below", "dumps"):
        with pytest.raises(DestinationError) as raised:
            put(key)
        assert raised.value.code == "destination-conflict"


def test_a_name_too_long_is_told(put: Put) -> None:
    with pytest.raises(DestinationError, match="name too long") as raised:
        put(f"dumps/{'n' * 300}")
    assert raised.value.code == "destination-failed"


def test_a_directory_of_that_name_is_no_file(destination: DirectoryDestination, share: Path) -> None:
    (share / "dumps/file").mkdir(parents=True)
    destination.delete("dumps/file")
    assert (share / "dumps/file").is_dir()
    with pytest.raises(DestinationError) as raised:
        fetched(destination, "dumps/file")
    assert raised.value.code == "destination-lacks"


def test_a_pipe_of_that_name_holds_nobody_up(destination: DirectoryDestination, share: Path) -> None:
    (share / "dumps").mkdir()
    os.mkfifo(share / "dumps/file")
    with pytest.raises(DestinationError) as raised:
        destination.read("dumps/file", 10)
    assert raised.value.code == "destination-lacks"
    assert keys(destination) == []


# Links


@pytest.mark.parametrize("planted", ["dumps", "dumps/deep", PARTIAL])
def test_a_link_planted_on_the_way_is_not_followed(
    destination: DirectoryDestination, share: Path, tmp_path: Path, put: Put, planted: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"of somebody else")
    (share / planted).parent.mkdir(exist_ok=True)
    (share / planted).symlink_to(outside)
    with pytest.raises(DestinationError):
        put("dumps/deep/file")
    if planted != PARTIAL:
        destination.delete(f"{planted}/precious")
        with pytest.raises(DestinationError) as raised:
            fetched(destination, f"{planted}/precious")
        assert raised.value.code == "destination-lacks"
        assert keys(destination) == keys(destination, "dumps/deep") == []
    assert [path.name for path in outside.iterdir()] == ["precious"]


@pytest.mark.parametrize("leads", ["outside", "nowhere"])
def test_a_link_under_the_key_is_a_conflict_and_stays(
    destination: DirectoryDestination, share: Path, tmp_path: Path, put: Put, leads: str
) -> None:
    (tmp_path / "outside").write_bytes(b"of somebody else")
    (share / "dumps").mkdir()
    (share / "dumps/file").symlink_to(tmp_path / leads)
    with pytest.raises(DestinationError) as raised:
        put("dumps/file")
    assert raised.value.code == "destination-conflict"
    with pytest.raises(DestinationError) as raised:
        fetched(destination, "dumps/file")
    assert raised.value.code == "destination-lacks"
    destination.delete("dumps/file")
    assert (share / "dumps/file").is_symlink()
    assert (tmp_path / "outside").read_bytes() == b"of somebody else"


def test_a_directory_swapped_for_a_link_meanwhile_leads_nobody_away(
    destination: DirectoryDestination, share: Path, tmp_path: Path, put: Put
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def attack(_count: int) -> None:
        if not (share / "dumps").is_symlink():
            (share / "dumps").rename(share / "moved")
            (share / "dumps").symlink_to(outside)

    (share / "dumps").mkdir()
    put("dumps/file", LARGE, Transfer(attack, limit=8 << 20))
    assert list(outside.iterdir()) == []
    assert (share / "moved/file").read_bytes() == LARGE
    assert keys(destination) == []


# Names without links


def test_a_name_is_given_without_links_too_and_never_twice(tmp_path: Path) -> None:
    (tmp_path / "first").write_bytes(b"1")
    (tmp_path / "second").write_bytes(b"2")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        rename_new("first", directory, "final", directory)
        with pytest.raises(FileExistsError):
            rename_new("second", directory, "final", directory)
    finally:
        os.close(directory)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"final": b"1", "second": b"2"}


# Mounts


def can_be_made(kind: str) -> bool:
    """Whether this machine has filesystems of a kind, which have no links: they are taken where they are."""
    known = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return kind in known and shutil.which(f"mkfs.{kind}") is not None


Mount = Callable[..., Path]


@pytest.fixture(name="mount")
def _mount(tmp_path: Path) -> Iterator[Mount]:
    """Gives what mounts a new filesystem of 40 MB and returns its mount point."""
    if os.geteuid() != 0:
        require("root", "only root may mount a filesystem")
    with ExitStack() as mounted:

        def mount(kind: str = "ext4", *, at: Path = tmp_path / "mounted") -> Path:
            image = tmp_path / f"{kind}.img"
            with image.open("wb") as file:
                file.truncate(40 << 20)
            subprocess.run(
                [f"mkfs.{kind}", *(["-q"] if kind == "ext4" else []), image], check=True, capture_output=True
            )
            at.mkdir(exist_ok=True)
            done = subprocess.run(["mount", "-o", "loop", image, at], capture_output=True, text=True)
            if done.returncode:
                require("root", f"a loop device can't be mounted here: {done.stderr.strip()}")
            mounted.callback(lambda: subprocess.run(["umount", at], check=True))
            return at

        yield mount


@pytest.mark.parametrize("kind", ["ext4", *(kind for kind in ("vfat", "exfat") if can_be_made(kind))])
class TestMounted:
    """What it does on a filesystem of its own."""

    def test_files_are_stored_and_come_back(self, kind: str, mount: Mount, tmp_path: Path) -> None:
        destination = made(mount(kind), True, tmp_path)
        source = tmp_path / "source"
        source.write_bytes(LARGE)
        destination.check()
        destination.put(source, "dumps/file", Transfer())
        with pytest.raises(DestinationError) as raised:
            destination.put(source, "dumps/file", Transfer())
        assert raised.value.code == "destination-conflict"
        assert fetched(destination, "dumps/file") == LARGE

    def test_a_full_disk_is_told_and_nothing_is_left(self, kind: str, mount: Mount, tmp_path: Path) -> None:
        destination = made(mount(kind), True, tmp_path)
        source = tmp_path / "source"
        source.write_bytes(LARGE * 5)
        with pytest.raises(DestinationError, match="No space left on device") as raised:
            destination.put(source, "dumps/file", Transfer())
        assert raised.value.code == "destination-full"
        assert not raised.value.passing
        assert keys(destination) == []
        source.write_bytes(LARGE)
        destination.put(source, "dumps/file", Transfer())

    def test_a_read_only_one_is_told(self, kind: str, mount: Mount, tmp_path: Path) -> None:
        at = mount(kind)
        subprocess.run(["mount", "-o", "remount,ro", at], check=True)
        destination = made(at, True, tmp_path)
        source = tmp_path / "source"
        source.write_bytes(SMALL)
        for action in (destination.check, lambda: destination.put(source, "dumps/file", Transfer())):
            with pytest.raises(DestinationError, match="Read-only") as raised:
                action()
            assert raised.value.code == "destination-denied"
        assert keys(destination) == []


def test_what_is_not_mounted_is_refused(mount: Mount, tmp_path: Path) -> None:
    at = mount()
    (at / "backups").mkdir()
    for wanted, path in ((True, at), (at, at), (at, at / "backups"), (True, at / "backups")):
        made(path, wanted, tmp_path).check()
    subprocess.run(["umount", at], check=True)
    (at / "backups").mkdir()
    try:
        for wanted, path in ((True, at), (at, at), (at, at / "backups"), (True, at / "backups")):
            for action in (
                made(path, wanted, tmp_path).check,
                lambda path=path: made(path, True, tmp_path).list("dumps"),
            ):
                with pytest.raises(DestinationError, match="nothing is mounted") as raised:
                    action()
                assert raised.value.code == "destination-missing"
        assert list((at / "backups").iterdir()) == []
        made(at / "backups", False, tmp_path).check()
    finally:
        subprocess.run(["mount", "-o", "loop", tmp_path / "ext4.img", at], check=True)


def test_another_mount_than_the_one_meant_is_refused(mount: Mount, tmp_path: Path) -> None:
    at = mount()
    for wanted in (tmp_path, tmp_path / "nowhere", at / "below"):
        with pytest.raises(DestinationError, match="nothing is mounted") as raised:
            made(at, wanted, tmp_path).check()
        assert raised.value.code == "destination-missing"


def test_a_directory_that_is_not_there_is_missing_and_stays_so(tmp_path: Path) -> None:
    for mount in (True, False):
        with pytest.raises(DestinationError, match="no directory") as raised:
            made(tmp_path / "nowhere", mount, tmp_path).check()
        assert raised.value.code == "destination-missing"
    assert list(tmp_path.iterdir()) == []
