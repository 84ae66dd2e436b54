"""What may go wrong while a dump is taken: never a name that isn't proved, never a rest, always told once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import tidied
from tests.e2e.support import (
    dump_at_hand,
    dump_sessions,
    partial_size,
    small_disk,
    table_locked,
    wait_for_no_process,
    wait_for_process,
)
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack

BULK = """CREATE TABLE bulk AS
    SELECT n, md5(n::text) || md5((-n)::text) AS hex FROM generate_series(1, 2500000) AS n"""
"""Rows that make a dump of 180 MB, and a file of 95 MB: one that takes long enough to be disturbed."""

BY_HAND = {"dump": {"enabled": False}}
IMPATIENT = {"wait_for_database": "1s", "stall_timeout": "2s"}


@pytest.fixture(scope="module")
def bulky(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return the module's stack, whose dumps take seconds; it has no backend, so nothing is dumped by itself."""
    with ArcsecondStack(docker_engine, 16, with_backend=False) as stack:
        stack.psql(BULK)
        yield stack


@pytest.fixture
def daemon(bulky: ArcsecondStack) -> Iterator[Daemon]:
    """Return a running daemon that takes no dump unless it is asked."""
    with Daemon(tidied(bulky), dump=IMPATIENT, jobs=BY_HAND) as daemon:
        yield daemon


# In the middle of a dump


def test_pg_dump_killed_in_its_container(daemon: Daemon) -> None:
    """When pg_dump is killed, the dump fails, is said to have been killed, and nothing is left."""
    with dump_at_hand(daemon) as client:
        os.kill(wait_for_process(daemon.stack), signal.SIGKILL)
        _assert_failed(daemon, client, "pg_dump was killed by signal 9.")
    _assert_clean(daemon)


def test_docker_client_ended_by_sigterm(daemon: Daemon) -> None:
    """The docker client that exits 0 with a cut stream makes no dump, and pg_dump is ended in its container."""
    with dump_at_hand(daemon) as client:
        [executing] = daemon.children("exec", "pg_dump")
        os.kill(executing, signal.SIGTERM)
        _assert_failed(daemon, client, "pg_dump ended as if all were well, but its dump isn't whole: cut short")
        assert dump_sessions(daemon.stack) == 0
    _assert_clean(daemon)


def test_docker_client_ended_while_pg_dump_goes_on(daemon: Daemon) -> None:
    """A pg_dump that nobody listens to any more isn't left behind in the container, whatever it is doing."""
    with daemon.client("backup") as client:
        _wait_for_a_part(daemon)
        [executing] = daemon.children("exec", "pg_dump")
        os.kill(executing, signal.SIGTERM)
        _assert_failed(daemon, client, "pg_dump ended as if all were well, but its dump isn't whole: cut short")
    _assert_clean(daemon)


@pytest.mark.parametrize(
    ("how", "sentences"),
    [
        ("stop", ["The database server ended while pg_dump was at work."]),
        ("kill", ["The database server ended while pg_dump was at work.", "pg_dump was killed by signal 9."]),
    ],
)
def test_database_container_ends(daemon: Daemon, how: str, sentences: list[str]) -> None:
    """When the database's container ends, the dump fails, and the next one after its start is good."""
    stack = daemon.stack
    with daemon.client("backup") as client:
        _wait_for_a_part(daemon)
        stack.engine.run(how, stack.database)
        _assert_failed(daemon, client, *sentences)
    assert daemon.json("backup", status=1)["error"]["code"] == "container-stopped"
    stack.start_container(stack.database)
    stack.wait_database()
    _assert_clean(daemon)


def test_paused_database_ends_in_a_stall_timeout(daemon: Daemon) -> None:
    """A dump that a paused database holds up is given up, and what it left there is ended by the next one."""
    stack = daemon.stack
    with dump_at_hand(daemon) as client:
        stack.engine.run("pause", stack.database)
        try:
            _assert_failed(daemon, client, "pg_dump wrote nothing for 2 s and was killed.")
            began = time.monotonic()
            answer = daemon.json("backup", status=1)
            assert answer["error"]["message"] == f"The database container {stack.database} is paused."
            assert time.monotonic() - began < 5
        finally:
            stack.engine.run("unpause", stack.database)
        assert dump_sessions(stack) == 1
        daemon.json("backup")
        assert dump_sessions(stack) == 0
    wait_for_no_process(stack)
    assert (len(daemon.names()), daemon.leftovers()) == (1, [])


def test_dump_waits_no_longer_for_a_lock_than_it_may(bulky: ArcsecondStack) -> None:
    """A table that somebody holds makes the dump fail after dump.lock_timeout, and it says that it was a lock."""
    with Daemon(tidied(bulky), dump={"lock_timeout": "1s"}, jobs=BY_HAND) as daemon:
        with table_locked(bulky, "bulk"):
            error = daemon.json("backup", status=1)["error"]
        assert error["message"] == "The dump waited too long for a lock on a table."
        _assert_said_once(daemon, error["message"])
        _assert_clean(daemon)


# The daemon's own end


def test_daemon_killed_in_the_middle_of_a_dump(daemon: Daemon) -> None:
    """After SIGKILL no name is published, and the next start sweeps the partial and ends the dump on the server."""
    with dump_at_hand(daemon) as client:
        daemon.kill()
        assert client.wait(30) == 5
        assert dump_sessions(daemon.stack) == 1
        assert len(daemon.leftovers()) == 1
        daemon.start()
        daemon.wait_log("Ended 1 abandoned pg_dump on the database server")
        assert daemon.log_lines("Removed what an interrupted dump left")
        assert dump_sessions(daemon.stack) == 0
    _assert_clean(daemon)


def test_abandoned_pg_dump_does_not_stay_in_the_container(daemon: Daemon) -> None:
    """After SIGKILL of the daemon, its pg_dump in the container comes to its end, even if the daemon stays away."""
    with daemon.client("backup"):
        _wait_for_a_part(daemon)
        daemon.kill()
        wait_for_no_process(daemon.stack, seconds=30)
    assert dump_sessions(daemon.stack) == 0
    daemon.start()
    _assert_clean(daemon)


def test_daemon_told_to_stop_lets_a_dump_finish(daemon: Daemon) -> None:
    """After SIGTERM a dump that goes on is finished first, and its client is told."""
    with daemon.client("backup", "--json") as client:
        _wait_for_a_part(daemon)
        assert daemon.stop() == 0
        said, _ = client.communicate(timeout=30)
    assert client.returncode in (0, 5)
    assert (len(daemon.names()), daemon.leftovers()) == (1, [])
    assert daemon.log_lines(f"Took {daemon.names()[0]}"), said


def test_daemon_told_to_stop_abandons_a_dump_that_does_not_end(bulky: ArcsecondStack) -> None:
    """After SIGTERM a dump that gets no further is abandoned within seconds, on the server too."""
    with Daemon(tidied(bulky), jobs=BY_HAND) as daemon, dump_at_hand(daemon):
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
        _assert_said_once(daemon, "It was abandoned because the daemon stops; nothing was left behind.", hint=False)
        assert (daemon.names(), daemon.leftovers()) == ([], [])
        assert dump_sessions(bulky) == 0
    wait_for_no_process(bulky)


# The disk


@pytest.mark.parametrize(("size", "sentence"), [("8m", "is too full for a dump: "), ("80m", "no space was left")])
def test_full_disk(bulky: ArcsecondStack, size: str, sentence: str) -> None:
    """A disk without room for a dump is told before it, one that gets full meanwhile then, with nothing left."""
    shared = tidied(bulky).directory / f"disk-{size}"
    shared.mkdir(exist_ok=True)
    with small_disk(shared, size):
        bulky.write_env(SHARED_DATA_PATH=str(shared))
        with Daemon(bulky, jobs=BY_HAND) as daemon:
            error = daemon.json("backup", status=1)["error"]
            assert error["code"] == "disk-full"
            assert sentence in error["message"]
            _assert_said_once(daemon, error["message"])
            assert [path.name for path in (shared / "db_backups").iterdir()] == [".arcbackupd.lock"]
            assert dump_sessions(bulky) == 0
            wait_for_no_process(bulky)
            bulky.write_env()
            assert daemon.json("backup")["outcome"] == "published"


# Before a dump begins


def test_missing_container_is_told(bulky: ArcsecondStack) -> None:
    """A name that no container has is told with the setting that may be wrong."""
    error = _refused(tidied(bulky), engine={"database": "no-such-container"})
    assert error["message"] == "The database container no-such-container does not exist."
    assert "engine.database" in error["hint"]


def test_stopped_container_is_told(bulky: ArcsecondStack) -> None:
    """A stopped database is told with how to start it."""
    tidied(bulky).stop_container(bulky.database)
    try:
        error = _refused(bulky)
    finally:
        tidied(bulky)
    assert error["message"] == f"The database container {bulky.database} is not running."
    assert f"docker start {bulky.database}" in error["hint"]


def test_wrong_password_is_told(bulky: ArcsecondStack) -> None:
    """A password that the server refuses is told with where to correct it, and without showing it."""
    tidied(bulky).write_env(POSTGRES_PASSWORD="not-the-one")
    error = _refused(bulky)
    assert error["message"] == f"The database refuses the password of {bulky.user}."
    assert "POSTGRES_PASSWORD in .env" in error["hint"]
    assert "not-the-one" not in str(error)


def test_missing_password_is_told(bulky: ArcsecondStack) -> None:
    """An .env without the password is told, and `status` is critical for it."""
    tidied(bulky).write_env(POSTGRES_PASSWORD="")
    error = _refused(bulky)
    assert error["message"] == "POSTGRES_PASSWORD missing from .env"
    assert str(bulky.install_dir) in error["hint"]


def test_missing_engine_socket_is_told(bulky: ArcsecondStack) -> None:
    """An engine that isn't there is told as one that doesn't run."""
    error = _refused(tidied(bulky), engine={"socket": f"unix://{bulky.directory}/no-such.sock"})
    assert error["message"] == "The docker engine is not running."
    assert "systemctl start docker" in error["hint"]


def test_missing_docker_is_told(bulky: ArcsecondStack) -> None:
    """A host without docker is told what to install."""
    empty = bulky.directory / "empty"
    empty.mkdir(exist_ok=True)
    error = _refused(tidied(bulky), environment={"PATH": str(empty)})
    assert error["message"] == "docker is not installed on this host."
    assert "Install docker" in error["hint"]


def test_failed_job_is_told_once(bulky: ArcsecondStack) -> None:
    """A dump by schedule that fails is one error in the log, and `status` tells it until one succeeds."""
    tidied(bulky).write_env(POSTGRES_PASSWORD="not-the-one")
    with Daemon(bulky, jobs=BY_HAND) as daemon:
        daemon.json("jobs", "run", "dump", status=1)
        sentence = f"The database refuses the password of {bulky.user}."
        _assert_said_once(daemon, sentence)
        assert sentence in daemon.ctl("status", status=None).out
        bulky.write_env()
        daemon.json("jobs", "run", "dump")
        assert sentence not in daemon.ctl("status", status=0).out


# Helpers


def _wait_for_a_part(daemon: Daemon) -> None:
    wait_for_process(daemon.stack)
    wait_until(lambda: partial_size(daemon) > 100_000, "a part of a dump", interval=0.002)


def _refused(
    stack: ArcsecondStack, environment: dict[str, str] | None = None, **settings: object
) -> dict[str, str]:
    """Return the error that a backup ends with, after seeing that it was told as it should be."""
    settings = {"dump": IMPATIENT, "jobs": BY_HAND, **settings}
    with Daemon(stack, environment=environment, **settings) as daemon:
        began = time.monotonic()
        error: dict[str, str] = daemon.json("backup", status=1)["error"]
        assert time.monotonic() - began < 10
        assert daemon.ctl("backup", status=1).err.startswith(f"arcbackupctl: {error['message']}\n  hint: ")
        assert len([line for line in daemon.log_lines(error["message"]) if "operation=dump" in line]) == 2
        assert (daemon.names(), daemon.leftovers()) == ([], [])
        return error


def _assert_failed(daemon: Daemon, client: subprocess.Popen[str], *sentences: str) -> None:
    """See that the client fails with one of the sentences and a hint, and that the log says it once."""
    said, _ = client.communicate(timeout=60)
    assert client.returncode == 1
    [sentence] = [sentence for sentence in sentences if f"arcbackupctl: {sentence}" in said]
    assert "  hint: " in said
    _assert_said_once(daemon, sentence)
    assert (daemon.names(), daemon.leftovers()) == ([], [])


def _assert_said_once(daemon: Daemon, sentence: str, *, hint: bool = True) -> None:
    """See that the log has one entry with the sentence, an error, and what to do below it."""
    lines = daemon.log().splitlines()
    [place] = [number for number, line in enumerate(lines) if sentence in line]
    assert lines[place].split()[1] == "error"
    assert not hint or lines[place + 1].startswith("     ")


def _assert_clean(daemon: Daemon) -> None:
    """See that nothing is left of a failed dump, here and in the container, and that the next one is good."""
    wait_for_no_process(daemon.stack)
    assert dump_sessions(daemon.stack) == 0
    assert (daemon.names(), daemon.leftovers()) == ([], [])
    assert daemon.json("backup")["outcome"] == "published"
