"""The freezer of a container: found wherever engines put containers, never one of somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.stack import freezer as freezer_module
from arcbackupd.stack.freezer import Freezer, find_freezer, hierarchies
from arcbackupd.stack.signals import is_asked_to_end

ID = "4f1ad0c9" * 8
V1 = "30 23 0:26 / {} rw,nosuid shared:11 - cgroup cgroup rw,freezer"
V2 = "31 23 0:27 / {} rw,nosuid shared:12 - cgroup2 cgroup2 rw,nsdelegate"
OTHER = "32 23 0:28 / /sys/fs/cgroup/memory rw shared:13 - cgroup cgroup rw,memory"


class Machine:
    """A /proc and a tree of control groups made of files."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.groups = root / "cgroup"
        self.groups.mkdir()
        (self.proc / "self").mkdir(parents=True)

    def mounted(self, *lines: str) -> None:
        """Let these be the mounts; {} in one is the tree."""
        (self.proc / "self" / "mountinfo").write_text("\n".join(line.format(self.groups) for line in lines))

    def group(self, path: str, name: str) -> Path:
        """Make a control group that has a freezer, and return its file."""
        file = self.groups / path / name
        file.parent.mkdir(parents=True)
        file.write_text("")
        return file

    def process(self, pid: int, cgroups: str) -> None:
        """Let there be a process in these groups."""
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cgroup").write_text(cgroups)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine without anything."""
    return Machine(tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        f"docker/{ID}",
        f"system.slice/docker-{ID}.scope",
        f"machine.slice/libpod-{ID}.scope",
        f"libpod_parent/libpod-{ID}",
        f"machine.slice/libpod-{ID}.scope/container",
    ],
)
def test_a_container_is_found_by_its_id_where_engines_put_it(machine: Machine, place: str) -> None:
    machine.mounted(OTHER, V2)
    file = machine.group(place, "cgroup.freeze")
    assert find_freezer(ID, proc=machine.proc) == Freezer(file)


def test_the_group_of_the_container_proper_goes_before_the_one_with_its_monitor(machine: Machine) -> None:
    machine.mounted(V2)
    inner = machine.group(f"machine.slice/libpod-{ID}.scope/container", "cgroup.freeze")
    (inner.parents[1] / "cgroup.freeze").write_text("")
    assert find_freezer(ID, proc=machine.proc).file == inner


def test_podmans_monitor_is_never_frozen(machine: Machine) -> None:
    machine.mounted(V2)
    machine.group(f"machine.slice/libpod-conmon-{ID}.scope", "cgroup.freeze")
    with pytest.raises(OperationFailed, match="isn't found"):
        find_freezer(ID, proc=machine.proc)


def test_an_unusual_place_is_found_by_the_first_process_up_to_the_containers_own_group(machine: Machine) -> None:
    machine.mounted(V1)
    file = machine.group(f"observatory/stack/{ID}", "freezer.state")
    machine.process(77, f"9:name=systemd:/elsewhere\n6:freezer:/observatory/stack/{ID}/init.scope\n0::/\n")
    assert find_freezer(ID, 77, machine.proc) == Freezer(file)


def test_a_process_of_the_host_is_never_taken_for_the_container(machine: Machine) -> None:
    machine.mounted(V2)
    machine.group("user.slice/user-0.slice", "cgroup.freeze")
    machine.process(77, "0::/user.slice/user-0.slice\n")
    with pytest.raises(OperationFailed, match="isn't found"):
        find_freezer(ID, 77, machine.proc)


def test_a_mount_of_a_part_of_the_tree_counts_from_its_root(machine: Machine) -> None:
    machine.mounted(V2.replace(" / {}", " /observatory {}"))
    file = machine.group(f"a/b/{ID}", "cgroup.freeze")
    machine.process(77, f"0::/observatory/a/b/{ID}\n")
    assert find_freezer(ID, 77, machine.proc).file == file


def test_version_1_goes_first_and_other_controllers_do_not_count() -> None:
    found = hierarchies(
        "\n".join([OTHER, V2.format("/sys/fs/cgroup/unified"), V1.format("/sys/fs/cgroup/freezer")])
    )
    assert [(str(tree.mount), tree.file) for tree in found] == [
        ("/sys/fs/cgroup/freezer", "freezer.state"),
        ("/sys/fs/cgroup/unified", "cgroup.freeze"),
    ]


@pytest.mark.parametrize(
    ("name", "words"), [("freezer.state", ("FROZEN", "THAWED")), ("cgroup.freeze", ("1", "0"))]
)
def test_one_word_freezes_and_another_lets_go(tmp_path: Path, name: str, words: tuple[str, str]) -> None:
    freezer = Freezer(tmp_path / name)
    freezer.file.write_text("")
    freezer.freeze()
    assert freezer.file.read_text() == words[0]
    freezer.thaw()
    assert freezer.file.read_text() == freezer.thaw_word == words[1]


def test_what_has_gone_is_not_frozen_and_needs_no_letting_go(tmp_path: Path) -> None:
    for name in ("freezer.state", "cgroup.freeze"):
        freezer = Freezer(tmp_path / "gone" / name)
        assert not freezer.is_frozen()
        freezer.thaw()


@pytest.mark.parametrize(
    ("name", "said", "frozen"),
    [
        ("freezer.state", "FROZEN\n", True),
        ("freezer.state", "FREEZING\n", True),  # a process waits for a disk; its own code runs no more
        ("freezer.state", "THAWED\n", False),
        ("cgroup.freeze", "1\n", True),
        ("cgroup.freeze", "0\n", False),
    ],
)
def test_what_is_freezing_counts_as_frozen(tmp_path: Path, name: str, said: str, frozen: bool) -> None:
    (tmp_path / name).write_text(said)
    assert Freezer(tmp_path / name).is_frozen() is frozen


def test_one_that_does_not_come_to_rest_is_let_go_and_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer_module, "_SETTLE_SECONDS", 0.2)
    freezer = Freezer(tmp_path / "freezer.state")
    freezer.file.write_text("")
    monkeypatch.setattr(Freezer, "_close", lambda self: self.file.write_text("FREEZING"))
    with pytest.raises(OSError, match="does not come to rest"):
        freezer.freeze()
    assert freezer.file.read_text() == "THAWED"


def test_one_that_rests_at_a_second_try_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freezer = Freezer(tmp_path / "freezer.state")
    said = iter(["FREEZING", "FROZEN"])
    monkeypatch.setattr(Freezer, "_close", lambda self: self.file.write_text(next(said)))
    freezer.freeze()
    assert freezer.is_frozen()


@pytest.mark.parametrize(
    ("pending", "asked"),
    [
        ("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n", False),
        ("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n", True),  # SIGTERM
        ("SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n", True),  # SIGKILL
        ("SigPnd:\t0000000000010000\nShdPnd:\t0000000008000000\n", False),  # SIGCHLD, SIGWINCH
    ],
)
def test_only_a_signal_that_ends_programs_asks_to_end(machine: Machine, pending: str, asked: bool) -> None:
    (machine.proc / "77").mkdir()
    (machine.proc / "77" / "status").write_text(f"Name:\tpython\n{pending}SigBlk:\tffffffffffffffff\n")
    assert is_asked_to_end(77, machine.proc) is asked
    assert not is_asked_to_end(78, machine.proc)
