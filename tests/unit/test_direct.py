"""The pipe that is opened in somebody else's tree: it is one of ours, or it isn't opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from arcbackupd.stack.direct import PLACES, Unreachable, open_pipe

NAME = "arcbackupd-pipe-0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a tree with a pipe as the script makes it."""
    directory = tmp_path / "tmp" / NAME
    directory.mkdir(parents=True)
    directory.chmod(0o700)
    os.mkfifo(directory / "pipe", 0o600)
    return tmp_path


def opened(root: Path, directory: str = f"/tmp/{NAME}", flags: int = os.O_RDONLY) -> int:
    return open_pipe(root, directory, NAME, flags)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_pipe_is_opened_without_waiting_for_its_other_end(root: Path) -> None:
    before = open_descriptors()
    reader = opened(root)
    writer = opened(root, flags=os.O_WRONLY)
    try:
        assert not os.get_blocking(reader)
        assert not os.get_inheritable(reader)
        assert os.write(writer, b"data") == 4
        assert os.read(reader, 100) == b"data"
    finally:
        os.close(reader)
        os.close(writer)
    assert open_descriptors() == before


def test_nobody_reads_is_an_answer_and_no_wait(root: Path) -> None:
    with pytest.raises(Unreachable, match="can't be reached"):
        opened(root, flags=os.O_WRONLY)


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_the_script_s_is_found(root: Path, place: str) -> None:
    if place != PLACES[0]:
        there = root / place.lstrip("/")
        there.mkdir(parents=True)
        (root / PLACES[0].lstrip("/") / NAME).rename(there / NAME)
    os.close(opened(root, f"{place}/{NAME}"))


@pytest.mark.parametrize(
    "said",
    ["", "none", NAME, f"/etc/{NAME}", f"/tmp/../tmp/{NAME}", f"/tmp//{NAME}", f"/tmp/{NAME}/", "/tmp", f"/{NAME}",
     f"/tmp/{NAME}\n/tmp/{NAME}", f"/tmp/{NAME}/../{NAME}"],
)  # fmt: skip
def test_what_the_container_says_is_not_taken_for_a_path(root: Path, said: str) -> None:
    with pytest.raises(Unreachable):
        opened(root, said)


def test_links_are_not_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("host")
    os.mkfifo(elsewhere / "pipe", 0o600)
    elsewhere.chmod(0o700)
    directory = root / "tmp" / NAME
    (directory / "pipe").unlink()
    (directory / "pipe").symlink_to(elsewhere / "pipe")
    with pytest.raises(Unreachable, match="no pipe"):
        opened(root)
    (directory / "pipe").unlink()
    directory.rmdir()
    directory.symlink_to(elsewhere)
    with pytest.raises(Unreachable):
        opened(root)
    directory.unlink()
    (root / "tmp").rmdir()
    (elsewhere / NAME).mkdir(mode=0o700)
    os.mkfifo(elsewhere / NAME / "pipe", 0o600)
    (root / "tmp").symlink_to(elsewhere)
    with pytest.raises(Unreachable):
        opened(root)


def test_only_a_pipe_is_opened(root: Path) -> None:
    pipe = root / "tmp" / NAME / "pipe"
    pipe.unlink()
    pipe.write_text("precious")
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with pytest.raises(Unreachable, match="no pipe"):
            opened(root, flags=flags)
    assert pipe.read_text() == "precious"
    pipe.unlink()
    pipe.mkdir()
    with pytest.raises(Unreachable, match="no pipe"):
        opened(root)
    pipe.rmdir()
    os.mknod(pipe, stat.S_IFSOCK | 0o600)
    with pytest.raises(Unreachable, match="no pipe"):
        opened(root)


def test_a_pipe_that_others_can_reach_is_not_trusted(root: Path) -> None:
    directory = root / "tmp" / NAME
    directory.chmod(0o755)
    with pytest.raises(Unreachable, match="open to others"):
        opened(root)
    directory.chmod(0o700)
    (root / "second").hardlink_to(directory / "pipe")
    with pytest.raises(Unreachable, match="open to others"):
        opened(root)
    (root / "second").unlink()
    if os.geteuid() == 0:
        os.chown(directory / "pipe", 12345, -1)
        with pytest.raises(Unreachable, match="open to others"):
            opened(root)


def test_our_own_tree_is_no_container_s() -> None:
    """After a process id was used again, say."""
    with pytest.raises(Unreachable, match="not one of a container"):
        opened(Path("/proc/self/root"))


def test_a_process_that_ended_is_an_answer() -> None:
    before = open_descriptors()
    with pytest.raises(Unreachable, match="can't be reached"):
        opened(Path("/proc/0/root"))
    assert open_descriptors() == before
