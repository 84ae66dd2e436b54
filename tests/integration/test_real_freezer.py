"""The kernel's own freezers, of either version: a process in a control group of ours stands still and goes on."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbackupd.stack.freezer import find_freezer, hierarchies
from tests.harness.process import wait_until
from tests.require import require

TREES = {tree.file: tree.mount for tree in reversed(hierarchies(Path("/proc/self/mountinfo").read_text()))}
"""What this kernel has mounted of either version, by the file that freezes."""


@pytest.fixture(params=TREES)
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A control group, as an engine makes one for a container, in a tree of either version."""
    if os.geteuid() != 0:
        require("root", "only root may make control groups")
    parent = TREES[request.param] / f"arcbackupd-test-{secrets.token_hex(4)}"
    group = parent / secrets.token_hex(32)
    group.mkdir(parents=True)
    try:
        yield group
    finally:
        group.rmdir()
        parent.rmdir()


def test_a_process_stands_still_and_goes_on(group: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        freezer = find_freezer(group.name)
        try:
            (group / "cgroup.procs").write_text(str(process.pid))
            assert freezer.file.parent == group
            assert not freezer.is_frozen()
            freezer.freeze()
            wait_until(freezer.is_frozen, "the process to stand still")
            freezer.thaw()
            wait_until(lambda: not freezer.is_frozen(), "the process to go on")
            assert process.communicate(b"here", timeout=30)[0] == b"here"
        finally:
            freezer.thaw()
            process.kill()
            process.wait()
            wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
