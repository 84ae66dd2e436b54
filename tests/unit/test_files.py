"""Files that a crash leaves old or new, and what it leaves beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from arcbackupd.files import UNFINISHED, write_atomically
from arcbackupd.operations.state_dir import only_one

KILLED = """
import os, signal, sys
from pathlib import Path
from arcbackupd import files
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(Path(sys.argv[1]), b"new")
"""


def test_a_crash_while_a_state_file_is_written_leaves_the_old_one_and_nothing_after_the_next_start(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    path = state / "off-host" / "nas" / "memory.json"
    path.parent.mkdir(parents=True)
    write_atomically(path, b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert done.returncode == -9
    assert len(list(path.parent.iterdir())) == 2
    with only_one(state):
        assert list(path.parent.iterdir()) == [path]
        assert path.read_bytes() == b"old"


def test_a_start_removes_directories_of_a_killed_one_and_nothing_that_they_link_to(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "m31.fits").touch()
    left = tmp_path / "state" / "off-host" / f".staging-abc{UNFINISHED}"
    left.mkdir(parents=True)
    (left / "files").symlink_to(precious)
    with only_one(tmp_path / "state"):
        assert not left.exists()
        assert list(precious.iterdir())


def test_a_start_leaves_alone_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / ".notes").touch()
    with only_one(tmp_path):
        assert (tmp_path / ".notes").exists()
