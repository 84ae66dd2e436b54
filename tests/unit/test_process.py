"""Programs: started from nothing, limited in time and in what they say, ended with all that they began."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command, TimedOut
from arcbackupd.stack.process import ERROR_LIMIT, OUTPUT_LIMIT, Finished, Stream, run
from arcbackupd.stack.starting import StartLimit
from tests.harness.process import wait_until

SECRET = "hunter2-S3cr3t"


def sh(script: str, **environment: str) -> Command:
    return Command(("sh", "-c", script), environment)


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def gone(pid: int) -> bool:
    """Whether a process has ended, be it as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children() -> list[int]:
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def shared_memory() -> int:
    """Bytes that the files in memory of the whole machine take."""
    return next(
        int(line.split()[1]) << 10 for line in Path("/proc/meminfo").read_text().splitlines() if "Shmem:" in line
    )


def read_all(stream: Stream) -> bytes:
    return b"".join(iter(lambda: stream.read(1 << 20, timeout=20), b""))


# To its end


def test_a_program_s_output_error_and_status_come_back() -> None:
    assert run(sh("echo out; echo err >&2; exit 3"), timeout=20) == Finished(3, b"out\n", "err")


@pytest.mark.parametrize("status", [0, 1, 42, 125, 126, 127, 128, 200, 255])
def test_every_exit_status_is_told_as_it_is(status: int) -> None:
    assert run(sh(f"exit {status}"), timeout=20).status == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSEGV, signal.SIGRTMAX])
def test_a_program_that_a_signal_killed_has_its_negative_number(number: int) -> None:
    assert run(python(f"import os; os.kill(os.getpid(), {int(number)})"), timeout=20).status == -number


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_it_reads_what_it_is_given_and_no_more(size: int) -> None:
    assert run(Command(("cat",)), timeout=20, stdin=b"x" * size).output == b"x" * size


def test_output_that_is_no_text_comes_back_exact_and_errors_readable() -> None:
    finished = run(sh(r"printf '\000\377\n\r'; printf 'a\377b' >&2"), timeout=20)
    assert (finished.output, finished.error) == (b"\x00\xff\n\r", "a\\xffb")


def test_it_is_no_terminal_and_has_no_input() -> None:
    assert run(sh("for i in 0 1 2; do test -t $i && echo terminal; done; cat"), timeout=20).output == b""


# Limits


def test_a_program_that_does_not_end_in_time_is_killed() -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"sleeper did not end within 0.3 s and was killed") as caught:
        run(Command(("sleep", "60"), name="sleeper"), timeout=0.3)
    assert time.monotonic() - began < 10
    assert (caught.value.code, bool(caught.value.hint)) == ("timed-out", True)


def test_it_is_killed_with_all_that_it_began_and_though_it_heeds_no_signal(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM INT HUP; sleep 60 & echo $! $$ > {pids}; wait; sleep 60"
    with pytest.raises(TimedOut):
        run(sh(script), timeout=0.5)
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: gone(int(pid)), f"the end of {pid}")  # type: ignore[misc]


def test_output_beyond_the_limit_is_an_error_and_takes_no_memory() -> None:
    before = shared_memory()
    with pytest.raises(OperationFailed, match="wrote more than can be read") as caught:
        run(sh("head -c 300000000 /dev/zero"), timeout=60)
    assert caught.value.code == "too-much-output"
    assert shared_memory() - before < 200 << 20


def test_output_up_to_the_limit_comes_back() -> None:
    assert len(run(sh(f"head -c {OUTPUT_LIMIT} /dev/zero"), timeout=60).output) == OUTPUT_LIMIT


def test_of_a_long_error_output_the_last_words_are_kept() -> None:
    error = run(sh("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the last words >&2"), timeout=20).error
    assert error.endswith("xxx" + "the last words")
    assert len(error) <= ERROR_LIMIT


def test_an_error_output_without_end_is_bounded() -> None:
    tracemalloc.start()
    try:
        finished = run(sh("head -c 100000000 /dev/zero >&2; exit 5"), timeout=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (finished.status, peak < 4 << 20) == (5, True)


# What it is started with


def test_the_environment_is_built_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PGPASSWORD",
        "PGHOST",
        "AWS_CA_BUNDLE",
        "LD_PRELOAD_X",
        "LANG",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "CREDENTIALS_DIRECTORY",
    ):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    lines = run(Command(("env",), {"MINE": "a b=c"}), timeout=20).output.decode().splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert SECRET not in found.values()
    assert (found["MINE"], found["DOCKER_HOST"], found["LC_ALL"]) == ("a b=c", "unix:///x", "C.UTF-8")
    allowed = {
        "MINE",
        "PATH",
        "HOME",
        "LC_ALL",
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "DOCKER_CONFIG",
        "DOCKER_TLS_VERIFY",
        "DOCKER_CERT_PATH",
    }
    assert set(found) <= allowed


def test_what_is_asked_for_goes_before_what_is_inherited() -> None:
    assert run(sh('echo "$LC_ALL $HOME"', LC_ALL="C", HOME="/h"), timeout=20).output == b"C /h\n"


def test_arguments_go_through_no_shell() -> None:
    words = ("a b", "$HOME", "*", "`id`", "; exit 9", "", "'\"", "--", "é")
    done = run(Command((sys.executable, "-c", "import sys; print(sys.argv[1:])", *words)), timeout=20)
    assert done.output.decode() == f"{list(words)}\n"


def test_it_runs_in_a_session_and_a_group_of_its_own() -> None:
    code = "import os; print(os.getsid(0) == os.getpid() == os.getpgrp())"
    assert run(python(code), timeout=20).output == b"True\n"
    with Stream(python(code)) as stream:
        assert read_all(stream) == b"True\n"


def test_it_runs_where_it_is_told_to(tmp_path: Path) -> None:
    assert run(Command(("pwd",), cwd=str(tmp_path)), timeout=20).output.decode().strip() == str(tmp_path)


def open_files() -> set[tuple[str, str]]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add((descriptor.name, str(descriptor.readlink())))
    return found


def test_it_inherits_no_descriptor_but_the_three_streams(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        listed = (
            "import os\nfor n in range(99):\n try: print(os.readlink(f'/proc/self/fd/{n}'))\n except OSError: pass"
        )
        told = run(python(listed), timeout=20).output
        assert (b"memfd" in told, b"secret" in told) == (True, False)
        with Stream(python(listed)) as stream:
            assert b"secret" not in read_all(stream)


@pytest.mark.parametrize("home", ["/no/such/home", "/" + "long" * 100, "", "/etc/passwd"])
def test_a_home_that_is_none_or_cannot_be_looked_at_is_replaced(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert run(sh('echo "$HOME"'), timeout=20).output == b"/\n"


# What can't be started


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (Command(("no-such-program", SECRET)), "not-installed", "no-such-program is not installed on this host."),
        (Command(("/no/such/program", SECRET)), "not-installed", "program is not installed on this host."),
        (Command((__file__, SECRET)), "not-installed", "test_process.py is not installed on this host."),
        (
            Command(("true", SECRET), cwd="/no/such/place"),
            "not-started",
            "true can't be started in /no/such/place.",
        ),
    ],
)
def test_what_cannot_be_started_is_an_error_in_english(command: Command, code: str, message: str) -> None:
    for start in (lambda: run(command, timeout=5), lambda: Stream(command)):
        with pytest.raises(OperationFailed) as caught:
            start()
        assert (caught.value.code, caught.value.message) == (code, message)
        assert caught.value.hint
        assert SECRET not in repr(caught.value.__cause__)


def test_without_a_thread_to_watch_its_start_none_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = open_files()
    for start in (lambda c: run(c, timeout=5), Stream):
        with pytest.raises(OperationFailed, match="touch can't be started: no thread is left") as caught:
            start(Command(("touch", str(tmp_path / "begun"))))
        assert caught.value.code == "not-started"
    assert (list(tmp_path.iterdir()), open_files()) == ([], before)


@pytest.mark.parametrize("left", [1, 2])
def test_a_program_for_which_no_thread_is_left_once_it_runs_is_ended(
    left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_thread, children = threading.Thread.start, Path(f"/proc/self/task/{threading.get_native_id()}/children")
    allowed = iter(range(0))

    def start_while_allowed(thread: threading.Thread) -> None:
        if next(allowed, None) is None:
            raise RuntimeError("can't start new thread")
        start_thread(thread)

    monkeypatch.setattr(threading.Thread, "start", start_while_allowed)
    before = children.read_text(), open_files()
    for start in (lambda c: run(c, timeout=5), Stream):
        allowed = iter(range(left))
        with pytest.raises(OperationFailed, match="sleep can't be started: no thread is left"):
            start(Command(("sleep", "60")))
    assert (children.read_text(), open_files()) == before


def test_a_program_without_its_interpreter_cannot_be_started_and_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    before = open_files(), children()
    for start in (lambda c: run(c, timeout=5), Stream):
        with pytest.raises(OperationFailed) as caught:
            start(Command((str(script),)))
        assert caught.value.code == "not-started"
    assert (open_files(), children()) == before


def test_a_fork_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        for start in (lambda c: run(c, timeout=5), Stream):
            with pytest.raises(OperationFailed, match="true can't be started"):
                start(Command(("true",)))
    assert open_files() == before
    assert gc.isenabled()


def test_descriptors_that_are_used_up_on_the_way_are_none_for_good() -> None:
    before, limits = open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    for room in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, limits[1]))
        try:
            with suppress(OperationFailed, OSError):
                run(Command(("true",)), timeout=5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_files() == before
    assert gc.isenabled()


def test_what_is_in_the_environment_is_neither_logged_nor_shown(caplog: pytest.LogCaptureFixture) -> None:
    command = Command(("sh", "-c", "exit 1"), {"PGPASSWORD": SECRET})
    with caplog.at_level(logging.DEBUG):
        run(command, timeout=20)
        with Stream(command) as stream:
            read_all(stream)
    assert SECRET not in caplog.text
    assert SECRET not in repr(Command(("x",), {"PGPASSWORD": SECRET}))


# Stuck on its way to the program


@pytest.fixture(scope="module")
def stuck_forks() -> list[str]:
    """Each entry makes the next fork of this process stop for ever before it is a program, at that place."""
    places: list[str] = []

    def in_child() -> None:
        if places:
            if places[0] == "late":  # when sh has been told the session
                os.listdir = lambda _path=".": signal.pause()  # type: ignore[assignment]
            else:
                signal.pause()

    def in_parent() -> None:
        if places:
            del places[0]

    os.register_at_fork(after_in_child=in_child, after_in_parent=in_parent)
    return places


@pytest.mark.parametrize("place", ["early", "late"])
def test_a_fork_that_never_becomes_the_program_is_killed_and_tried_again(
    stuck_forks: list[str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcbackupd.stack.starting.START_SECONDS", 0.5)
    before, files = children(), open_files()
    stuck_forks.append(place)
    assert run(sh("echo out"), timeout=20).output == b"out\n"
    stuck_forks.append(place)
    with Stream(sh("echo out")) as stream:
        assert read_all(stream) == b"out\n"
    wait_until(lambda: set(children()) <= set(before), "the end of the processes")
    assert open_files() == files


def test_a_fork_that_is_seen_to_end_before_its_killer_notes_it_is_tried_again(
    stuck_forks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcbackupd.stack.starting.START_SECONDS", 0.5)
    kill, leave, left = os.kill, StartLimit.__exit__, threading.Event()

    def kill_slowly(pid: int, number: int) -> None:
        kill(pid, number)
        left.wait(20)

    def tell(limit: StartLimit, *error: Any) -> None:
        left.set()
        leave(limit, *error)

    monkeypatch.setattr("arcbackupd.stack.starting.os.kill", kill_slowly)
    monkeypatch.setattr(StartLimit, "__exit__", tell)
    stuck_forks.append("early")
    assert run(sh("echo out"), timeout=20).output == b"out\n"


@pytest.mark.parametrize("place", ["early", "late"])
def test_a_program_that_never_begins_is_an_error(
    stuck_forks: list[str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcbackupd.stack.starting.START_SECONDS", 0.5)
    before = children()
    stuck_forks.extend([place, place])
    with pytest.raises(TimedOut) as caught:
        run(sh("echo out"), timeout=20)
    assert caught.value.code == "start-hung"
    assert caught.value.message == "sh did not begin to run in 2 times 0.5 s; nothing of it ran."
    wait_until(lambda: set(children()) <= set(before), "the end of the processes")


def test_a_fork_that_is_stuck_does_not_hold_up_the_others_for_longer(
    stuck_forks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the pipes open by which those learn that their programs run."""
    monkeypatch.setattr("arcbackupd.stack.starting.START_SECONDS", 1)
    stuck_forks.append("early")
    threads = [threading.Thread(target=run, args=(sh("exit 0"),), kwargs={"timeout": 20}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


# Streamed


def test_a_stream_is_read_while_the_program_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    with Stream(sh(f"echo one; read x < {go}; echo two")) as stream:
        assert stream.read(100, timeout=20) == b"one\n"
        go.write_text("go\n")
        assert stream.read(100, timeout=20) == b"two\n"
        assert stream.read(100, timeout=20) == b""
        assert stream.finish(timeout=20) == Finished(0, b"", "")


def test_a_large_stream_comes_whole_in_blocks_of_at_most_the_size_asked() -> None:
    size = 200 << 20
    with Stream(sh(f"head -c {size} /dev/zero")) as stream:
        total = 0
        while block := stream.read(1 << 20, timeout=20):
            assert len(block) <= 1 << 20
            total += len(block)
        assert (total, stream.finish(timeout=20).status) == (size, 0)


def test_a_stream_s_status_and_last_words_come_at_its_end() -> None:
    with Stream(sh("echo x; echo why >&2; exit 7")) as stream:
        assert read_all(stream) == b"x\n"
        assert stream.finish(timeout=20) == Finished(7, b"", "why")


def test_a_stream_that_falls_silent_is_killed() -> None:
    with Stream(Command(("sh", "-c", "echo x; sleep 60"), name="pg_dump")) as stream:
        assert stream.read(10, timeout=20) == b"x\n"
        with pytest.raises(TimedOut, match=r"pg_dump wrote nothing for 0.2 s and was killed"):
            stream.read(10, timeout=0.2)
        assert stream.finish(timeout=20).status == -signal.SIGKILL


def test_a_stream_that_does_not_end_after_its_last_byte_is_killed() -> None:
    with Stream(sh("echo x; exec >&-; sleep 60")) as stream:
        assert read_all(stream) == b"x\n"
        with pytest.raises(TimedOut, match="did not end after its last byte"):
            stream.finish(timeout=0.2)


def test_leaving_a_stream_ends_the_program_and_all_that_it_began(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with Stream(sh(f"sleep 60 & echo $! $$ > {pids}; echo go; cat /dev/zero")) as stream:
        assert stream.read(3, timeout=20) == b"go\n"
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: gone(int(pid)), f"the end of {pid}")  # type: ignore[misc]


def test_killing_a_stream_from_another_thread_ends_the_reading() -> None:
    with Stream(sh("echo x; sleep 60")) as stream:
        assert stream.read(10, timeout=20) == b"x\n"
        threading.Timer(0.1, stream.kill).start()
        assert stream.read(10, timeout=None) == b""
        assert stream.finish(timeout=20).status == -signal.SIGKILL
        stream.kill()


def test_it_leaks_no_descriptor_and_no_process() -> None:
    def use() -> None:
        run(sh("echo x"), timeout=20)
        for command in (Command(("no-such-program",)), Command(("true",), cwd="/no/such/place")):
            for start in (lambda c=command: run(c, timeout=5), lambda c=command: Stream(c)):
                with pytest.raises(OperationFailed):
                    start()
        with Stream(sh("echo x; sleep 60")) as stream:
            stream.read(10, timeout=20)
        with pytest.raises(TimedOut):
            run(Command(("sleep", "60")), timeout=0.05)

    assert_nothing_is_left(use)


def assert_nothing_is_left(use: Callable[[], None]) -> None:
    use()
    before, living = open_files(), children()
    for _ in range(3):
        use()
    wait_until(lambda: len(open_files()) <= len(before), "the closing of descriptors")
    wait_until(lambda: set(children()) <= set(living), "the end of the processes")
