"""The direct path and the engine's stream: the same dumps, the same restores, and nobody is trusted on the way."""

from __future__ import annotations

import gzip
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from arcbackupd.installation import read_installation
from arcbackupd.niceness import NORMAL
from arcbackupd.operations.database import Database
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.stack.containers import ContainerEngine
from tests.e2e.conftest import tidied
from tests.e2e.restoring import Quick
from tests.e2e.support import dump_at_hand, fingerprint, processes
from tests.harness import images
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine, EngineUnavailable
from tests.harness.process import wait_until
from tests.harness.stack import SOCKET_DIR, ArcsecondStack
from tests.require import require

pytestmark = pytest.mark.slow

BY_HAND = {"dump": {"enabled": False}}
SLOWER = "the slower path"
UNIT = Path(__file__).parents[2] / "systemd" / "arcbackupd.service"


FRAMES = """CREATE TABLE frames AS SELECT n, encode(sha512(n::text::bytea), 'hex') AS header
    FROM generate_series(1, 300000) AS n"""


@pytest.fixture(scope="module")
def whole(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a database without a backend, whose start would bring a dump of its own."""
    with ArcsecondStack(docker_engine, 16, with_backend=False) as stack:
        stack.psql(FRAMES)
        yield stack


@pytest.fixture
def stack(whole: ArcsecondStack) -> ArcsecondStack:
    """Return it running, without backups."""
    return tidied(whole)


class LimitedDaemon(Daemon):
    """A daemon with the capabilities that its unit gives, but for some."""

    def __init__(self, stack: ArcsecondStack, *, without: tuple[str, ...] = (), data_path: str = "auto") -> None:
        super().__init__(stack, jobs=BY_HAND, engine={"data_path": data_path})
        granted = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
        names = {name.removeprefix("CAP_").lower() for line in granted for name in line.split()}
        kept = "".join(f",+{name}" for name in sorted(names - set(without)))
        self.wrapper = ("setpriv", f"--bounding-set=-all{kept}", "--inh-caps=-all", "--")


def pipes(stack: ArcsecondStack) -> str:
    """Return the pipes' directories that there are in the database's container."""
    find = ["find", "/tmp", "/dev/shm", "/var/tmp", "-maxdepth", "1", "-name", "arcbackupd-pipe-*"]
    return stack.exec(stack.database, *find, check=False).stdout.strip()  # not every container has all of them


def output_of(stack: ArcsecondStack, program: str, descriptor: int) -> str:
    """Return what a descriptor of a program in the database's container is."""
    [pid] = processes(stack, program)
    return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())


@pytest.mark.parametrize("data_path", ["direct", "stream"])
def test_both_paths_bring_the_same_dump_and_the_same_restore(quick: Quick, data_path: str) -> None:
    stack = quick.stack
    with Daemon(stack, jobs=BY_HAND, engine={"data_path": data_path}) as daemon:
        taken = daemon.json("backup")
        text = gzip.decompress(daemon.path(taken["name"]).read_bytes())
        by_hand = stack.pg(["pg_dump", "-U", stack.user, "-d", stack.db]).stdout
        assert _without_key(text) == _without_key(by_hand.encode())
        before = fingerprint(stack)
        stack.psql("CREATE TABLE later AS SELECT 1 AS n")
        assert fingerprint(stack) != before
        assert daemon.json("restore", taken["name"], "--yes")["outcome"] == "restored"
        assert fingerprint(stack) == before
        assert pipes(stack) == ""
        assert not daemon.log_lines(SLOWER)


def _without_key(text: bytes) -> bytes:
    return re.sub(rb"\\(un)?restrict [A-Za-z0-9]+", b"", text)


def test_by_itself_it_takes_the_direct_path_and_leaves_no_name_of_it(stack: ArcsecondStack) -> None:
    with Daemon(stack, jobs=BY_HAND) as daemon, dump_at_hand(daemon):
        assert "/arcbackupd-pipe-" in output_of(stack, "pg_dump", 1)
        assert pipes(stack) == ""


def test_a_load_takes_it_too(quick: Quick) -> None:
    with Daemon(quick.stack, jobs=BY_HAND) as daemon:
        name = quick.drop_in_held()
        wait_until(lambda: any(row["name"] == name for row in daemon.listed()), "the dump in the list")
        with quick.held(), daemon.client("restore", name, "--yes", "--force"):
            quick.wait_held()
            assert "/arcbackupd-pipe-" in output_of(quick.stack, "psql", 0)
            assert pipes(quick.stack) == ""
            daemon.ctl("status", status=None)


def test_what_the_unit_grants_is_enough(stack: ArcsecondStack) -> None:
    with LimitedDaemon(stack, data_path="direct") as daemon:
        assert daemon.json("backup")["outcome"] == "published"


def test_without_the_right_to_look_it_takes_the_engine_s_stream_and_says_so_once(stack: ArcsecondStack) -> None:
    with LimitedDaemon(stack, without=("sys_ptrace",)) as daemon:
        for _ in range(2):
            stack.psql("INSERT INTO frames SELECT max(n) + 1, '' FROM frames")
            assert daemon.json("backup")["outcome"] == "published"
        [line] = daemon.log_lines(SLOWER)
        assert "Permission denied" in line
        assert pipes(stack) == ""


def test_where_nothing_else_may_be_used_that_is_an_error(stack: ArcsecondStack) -> None:
    with LimitedDaemon(stack, without=("sys_ptrace",), data_path="direct") as daemon:
        error = daemon.json("backup", status=1)["error"]
        assert error["code"] == "no-direct-path"
        assert "Permission denied" in error["message"]
        assert 'engine.data_path = "auto"' in error["hint"]
        wait_until(lambda: pipes(stack) == "", "the pipe to go")
        assert (daemon.names(), daemon.leftovers()) == ([], [])


TRICKS = {
    "link": 'ln -s /etc/hostname "$1"',
    "file": 'touch "$1"',
    "open to others": '"$0.real" "$1"; chmod 777 "${1%/*}"',
    "second name": '"$0.real" "$1"; ln "$1" "$1-second"',
    "none": "exit 1",
}


@contextmanager
def replaced(stack: ArcsecondStack, program: str, script: str) -> Iterator[None]:
    """Within it a script stands for a program of the database's container, which is beside it as ``$0.real``."""
    path = stack.exec(stack.database, "sh", "-c", f"command -v {program}").stdout.strip()
    stack.exec(stack.database, "sh", "-c", f"mv {path} {path}.real; cat >{path}; chmod 755 {path}", stdin=script)
    try:
        yield
    finally:
        stack.exec(stack.database, "mv", f"{path}.real", path)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_container_that_offers_anything_but_a_pipe_of_its_own_gets_the_stream(
    stack: ArcsecondStack, trick: str
) -> None:
    script = f"#!/bin/sh\n{TRICKS[trick]}\n"
    with replaced(stack, "mkfifo", script), Daemon(stack, jobs=BY_HAND) as daemon:
        taken = daemon.json("backup")
        assert taken["outcome"] == "published"
        assert daemon.ctl("inspect", taken["name"], "--verify").status == 0
        assert daemon.log_lines(SLOWER)
    assert pipes(stack) == ""


CONTAINERS = {
    "read-only": (["--read-only"], "/dev/shm"),
    "noexec /tmp": (["--tmpfs", "/tmp:noexec,mode=1777"], "/tmp"),
    "full /tmp": (["--tmpfs", "/tmp:nr_inodes=1,mode=1777"], "/dev/shm"),
    "nothing writable": (["--read-only", "--ipc", "none"], None),
}
"""Options of the database's container, and where the pipe is made in it."""


@pytest.mark.parametrize("container", CONTAINERS)
def test_whatever_the_container_allows_the_dump_comes(docker_engine: Engine, container: str) -> None:
    """The direct path by whichever place can be written; without any the stream, which the journal says."""
    options, place = CONTAINERS[container]
    options = [*options, "--env", f"PGHOST={SOCKET_DIR}"]  # the server's own default is in /tmp
    settings = ["fsync=off", "dynamic_shared_memory_type=mmap", f"unix_socket_directories={SOCKET_DIR}"]
    arguments = [part for setting in settings for part in ("-c", setting)]
    with (
        ArcsecondStack(
            docker_engine, 16, with_backend=False, postgres_args=arguments, database_options=options
        ) as stack,
        LimitedDaemon(stack) as daemon,
    ):
        stack.psql(FRAMES)
        with dump_at_hand(daemon):
            output = output_of(stack, "pg_dump", 1)
        assert output.startswith(f"{place}/arcbackupd-pipe-" if place else "pipe:")
        assert bool(daemon.log_lines(SLOWER)) is (place is None)
        assert daemon.json("backup")["outcome"] == "unchanged"
        assert pipes(stack) == ""


def test_a_killed_daemon_leaves_no_pipe(stack: ArcsecondStack) -> None:
    with Daemon(stack, jobs=BY_HAND) as daemon, dump_at_hand(daemon):
        os.kill(daemon.pid, signal.SIGKILL)
        assert pipes(stack) == ""


def database(stack: ArcsecondStack) -> Database:
    """Return the stack's database as the daemon reaches it."""
    settings = EngineSettings(
        socket=f"unix://{stack.engine.socket}", database=stack.database, backend=stack.backend
    )
    return Database(ContainerEngine(settings), read_installation(stack.install_dir))


@pytest.mark.parametrize("end", ["leave", "kill"])
def test_who_goes_before_anything_is_agreed_leaves_no_pipe(stack: ArcsecondStack, end: str) -> None:
    abandon(stack, end)


def abandon(stack: ArcsecondStack, end: str) -> None:
    """Start a dump, agree on nothing, go, and see that nothing stays."""
    output = database(stack).open_dump("arcbackupd-dump-test", timedelta(minutes=1), niceness=NORMAL)
    with output:
        wait_until(lambda: pipes(stack), "the pipe", interval=0.01)
        if end == "kill":
            output.kill()
    wait_until(lambda: pipes(stack) == "", "the pipe to go")
    assert not processes(stack, "pg_dump")


def test_what_a_killed_container_left_is_swept_when_it_is_old(stack: ArcsecondStack) -> None:
    old, young = "/tmp/arcbackupd-pipe-old", "/tmp/arcbackupd-pipe-young"
    stack.exec(stack.database, "sh", "-c", f"mkdir {old} {young}; mkfifo {old}/pipe; touch -d '2 hours ago' {old}")
    with Daemon(stack, jobs=BY_HAND) as daemon:
        daemon.json("backup")
    assert pipes(stack) == young
    stack.exec(stack.database, "rmdir", young)


def test_a_database_killed_in_the_middle_ends_a_direct_dump(stack: ArcsecondStack) -> None:
    with Daemon(stack, jobs=BY_HAND, engine={"data_path": "direct"}) as daemon:
        with dump_at_hand(daemon, "--json") as client:
            stack.kill_container(stack.database)
            out, _ = client.communicate(timeout=60)
        assert client.returncode == 1
        assert '"error"' in out
        assert (daemon.names(), daemon.leftovers()) == ([], [])
    tidied(stack)


@pytest.fixture(scope="module")
def pod(podman_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a database in a container of podman's."""
    try:
        images.postgres(podman_engine, 16)
    except EngineUnavailable as error:
        require("podman", str(error))
    with ArcsecondStack(podman_engine, 16, with_backend=False) as stack:
        stack.psql(FRAMES)
        yield stack


@pytest.mark.podman
def test_podman_has_the_direct_path_too(pod: ArcsecondStack) -> None:
    with Daemon(tidied(pod), jobs=BY_HAND, engine={"data_path": "direct"}) as daemon:
        taken = daemon.json("backup")
        before = fingerprint(pod)
        pod.psql("CREATE TABLE later AS SELECT 1 AS n")
        assert daemon.json("restore", taken["name"], "--yes", "--force")["outcome"] == "restored"
        assert fingerprint(pod) == before
        assert pipes(pod) == ""


@pytest.mark.podman
@pytest.mark.parametrize("end", ["leave", "kill"])
def test_podman_leaves_no_pipe_when_nobody_answers(pod: ArcsecondStack, end: str) -> None:
    abandon(pod, end)


def test_who_keeps_the_pipe_open_does_not_keep_the_dump(stack: ArcsecondStack) -> None:
    """The engine's client tells that pg_dump has ended."""
    script = '#!/bin/sh\nsleep 600 2>/dev/null </dev/null &\nexec "$0.real" "$@"\n'
    with replaced(stack, "pg_dump", script), Daemon(stack, jobs=BY_HAND, engine={"data_path": "direct"}) as daemon:
        assert daemon.json("backup", timeout=60)["outcome"] == "published"
        assert processes(stack, "sleep")
    for pid in processes(stack, "sleep"):
        os.kill(pid, signal.SIGKILL)
