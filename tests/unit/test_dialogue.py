"""A program that is fed and heard at the same time, and commands as they are shown."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.errors import OperationFailed
from arcbackupd.log import MASK
from arcbackupd.stack import process
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import Dialogue, Finished, InputClosed
from tests.harness.process import wait_until
from tests.unit.test_process import SECRET, assert_nothing_is_left, gone, open_files, sh

LARGE = 32 << 20


def nothing(_answer: bytes) -> None:
    """Answers that don't matter."""


def heard_while_writing(dialogue: Dialogue, data: bytes | memoryview) -> bytes:
    heard: list[bytes] = []
    dialogue.write(data, heard.append)
    return b"".join(heard)


def rest(dialogue: Dialogue) -> bytes:
    dialogue.end_input()
    return b"".join(iter(dialogue.read, b""))


# Fed and heard


@pytest.mark.parametrize("size", [0, 1, 70_000, LARGE])
def test_a_program_that_answers_all_that_it_is_given_is_heard_whole(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with Dialogue(Command(("cat",))) as dialogue:
        heard = heard_while_writing(dialogue, data)
        assert heard + rest(dialogue) == data
        assert dialogue.finish(timeout=20) == Finished(0, b"", "")


def test_a_program_that_writes_much_before_it_reads_does_not_block_the_feeding() -> None:
    with Dialogue(sh(f"head -c {LARGE} /dev/zero; cat")) as dialogue:
        heard = heard_while_writing(dialogue, memoryview(b"y" * LARGE))
        heard += rest(dialogue)
        assert (heard.count(b"\0"), heard.count(b"y")) == (LARGE, LARGE)


def test_answers_come_while_the_program_still_waits_for_more() -> None:
    with Dialogue(sh("while read line; do echo got $line; done")) as dialogue:
        dialogue.write(b"one\n", nothing)
        assert dialogue.read() == b"got one\n"
        dialogue.write(b"two\n", nothing)
        assert dialogue.read() == b"got two\n"
        assert rest(dialogue) == b""


def test_the_program_sees_the_end_of_its_input() -> None:
    with Dialogue(sh("wc -c")) as dialogue:
        dialogue.write(b"12345", nothing)
        assert rest(dialogue).strip() == b"5"


# Ended early


@pytest.mark.parametrize(
    "script", ["exit 3", "head -c 10; exit 3", "echo why >&2; exec >&-; exit 3", "exec <&-; exit 3"]
)
def test_a_program_that_ends_early_closes_the_dialogue_and_tells_how(script: str) -> None:
    with Dialogue(sh(script)) as dialogue:
        with pytest.raises(InputClosed):  # noqa: PT012  # a pipe takes the first of it in any case
            while True:
                dialogue.write(b"x" * (1 << 20), nothing)
        assert dialogue.finish(timeout=20).status == 3


def test_what_a_program_said_on_ending_early_is_kept() -> None:
    with Dialogue(sh("read line; echo ERROR: no >&2; exit 3")) as dialogue:
        with pytest.raises(InputClosed):
            dialogue.write(b"x\n" * (4 << 20), nothing)
        assert dialogue.finish(timeout=20) == Finished(3, b"", "ERROR: no")


def test_feeding_one_that_has_closed_its_input_and_goes_on_ends_too(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dialogue(sh(f"mkfifo {go}; exec <&-; read x < {go}; exit 4")) as dialogue:
        with pytest.raises(InputClosed):
            dialogue.write(b"x" * (4 << 20), nothing)
        go.write_text("go\n")
        assert dialogue.finish(timeout=20).status == 4


# Killed


def fed_without_end(dialogue: Dialogue) -> Iterator[None]:
    while True:
        dialogue.write(b"x" * (1 << 20), nothing)
        yield


def test_one_that_never_reads_is_killed_from_another_thread() -> None:
    with Dialogue(Command(("sleep", "60"))) as dialogue:
        began = threading.Event()

        def kill() -> None:
            began.wait(20)
            dialogue.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(InputClosed):  # noqa: PT012  # it fills the pipe, and waits then
            began.set()
            for _ in fed_without_end(dialogue):
                pass
        killer.join()
        assert dialogue.finish(timeout=20).status == -signal.SIGKILL


def test_one_that_never_answers_is_killed_from_another_thread() -> None:
    with Dialogue(Command(("sleep", "60"))) as dialogue:
        dialogue.end_input()
        killer = threading.Thread(target=dialogue.kill)
        killer.start()
        assert dialogue.read() == b""
        killer.join()
        assert dialogue.finish(timeout=20).status == -signal.SIGKILL
        dialogue.kill()


def test_leaving_a_dialogue_ends_the_program_and_all_that_it_began(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with Dialogue(sh(f"sleep 60 & echo $! $$ > {pids}; echo go; sleep 60")) as dialogue:
        assert dialogue.read() == b"go\n"
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: gone(int(pid)), f"the end of {pid}")  # type: ignore[misc]


def test_leaving_one_that_cannot_be_killed_ends_it_by_closing_its_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_kill", lambda _process: None)
    with Dialogue(Command(("yes",))) as dialogue:
        assert dialogue.read(2) == b"y\n"


def test_a_time_limit_longer_than_the_kernel_counts_is_no_error() -> None:
    with Dialogue(Command(("cat",))) as dialogue:
        dialogue.write(b"x", nothing)
        assert dialogue.read(timeout=1e9) == b"x"
        dialogue.end_input()
        assert dialogue.finish(timeout=1e9).status == 0


def test_an_error_inside_a_dialogue_ends_the_program_and_is_the_one_that_is_told() -> None:
    with pytest.raises(ZeroDivisionError), Dialogue(Command(("cat",))) as dialogue:
        dialogue.write(b"%d" % (1 // 0), nothing)


@pytest.mark.parametrize("command", [Command(("no-such-program",)), Command(("true",), cwd="/no/such/place")])
def test_what_cannot_be_started_leaves_no_descriptor(command: Command) -> None:
    before = open_files()
    with pytest.raises(OperationFailed):
        Dialogue(command)
    assert len(open_files()) <= len(before)


def test_it_leaks_no_descriptor_and_no_process() -> None:
    def use() -> None:
        with Dialogue(Command(("cat",))) as dialogue:
            dialogue.write(b"x", nothing)
            rest(dialogue)
        with Dialogue(sh("exit 1")) as dialogue, pytest.raises(InputClosed):
            for _ in fed_without_end(dialogue):
                pass

    assert_nothing_is_left(use)


# Shown

words = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


@given(st.lists(words, min_size=1, max_size=5))
def test_a_command_is_shown_as_a_shell_takes_it(argv: list[str]) -> None:
    assert shlex.split(Command(tuple(argv)).shown()) == argv


@given(words)
def test_a_password_is_masked_and_other_variables_are_shown(value: str) -> None:
    environment = {"PGPASSWORD": SECRET, "MY_PASSPHRASE": SECRET, "PGOPTIONS": value}
    shown = Command(("psql", "-X"), environment).shown()
    assert SECRET not in shown
    assert shlex.split(shown) == [
        "env", f"PGPASSWORD={MASK}", f"MY_PASSPHRASE={MASK}", f"PGOPTIONS={value}", "psql", "-X",
    ]  # fmt: skip


def test_without_an_environment_only_the_program_is_shown() -> None:
    assert Command(("docker", "stop", "arcsecond api")).shown() == "docker stop 'arcsecond api'"
