"""What tests do to a stack and its processes: look at them, hold them, and compare data."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.harness import images
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine, EngineUnavailable
from tests.harness.installed import InstalledDaemon
from tests.harness.process import CommandFailed, run, wait_until
from tests.harness.stack import ArcsecondStack
from tests.harness.systemd_host import SystemdHost
from tests.require import require

# Processes


def command_lines() -> dict[int, list[str]]:
    """Return the argument lists of all processes of the host, those in containers too."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (words := _read(entry / "cmdline")):
            found[int(entry.name)] = words.rstrip("\0").split("\0")
    return found


@contextmanager
def watching_arguments() -> Iterator[set[tuple[str, ...]]]:
    """Collect the argument lists of all processes of the host, for as long as it lasts."""
    seen: set[tuple[str, ...]] = set()
    ending = threading.Event()

    def watch() -> None:
        while not ending.is_set():
            seen.update(map(tuple, command_lines().values()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ending.set()
        thread.join()


def processes(stack: ArcsecondStack, program: str, container: str | None = None) -> list[int]:
    """Return the ids, as the host has them, of a program's processes in a container (the database's)."""
    identity = stack.engine.run("inspect", "--format", "{{.Id}}", container or stack.database).stdout.strip()
    mine = (pid for pid, words in command_lines().items() if Path(words[0]).name == program)
    return [pid for pid in mine if identity in _read(Path(f"/proc/{pid}/cgroup"))]


def wait_for_process(stack: ArcsecondStack, program: str = "pg_dump") -> int:
    """Wait until a program runs in the database's container and return its process id."""
    return wait_until(lambda: processes(stack, program), f"{program} in {stack.database}", interval=0.01)[0]


def wait_for_no_process(stack: ArcsecondStack, program: str = "pg_dump", seconds: float = 10) -> None:
    """Wait until no process of a program is left in the database's container."""
    wait_until(lambda: not processes(stack, program), f"the end of {program} in {stack.database}", seconds=seconds)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:  # it has ended
        return ""


# Dumps at hand


@contextmanager
def table_locked(stack: ArcsecondStack, table: str = "targets_target") -> Iterator[None]:
    """Hold a table, so that a dump that begins waits for it."""
    variables = {"PGPASSWORD": stack.password, "PGAPPNAME": "arcbackupd-tests"}
    names = [word for name in variables for word in ("-e", name)]
    argv = stack.engine.argv("exec", "-i", *names, stack.database, "psql", "-XAtq")
    with subprocess.Popen(
        [*argv, "-U", stack.user, "-d", stack.db],
        env={**os.environ, **stack.engine.env, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n")
        session.stdin.flush()
        assert session.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            session.stdin.close()


def waiting_dumps(stack: ArcsecondStack) -> int:
    """Return how many dumps of the daemon's the server holds up by a lock."""
    return _sessions(stack, "AND wait_event_type = 'Lock'")


def dump_sessions(stack: ArcsecondStack) -> int:
    """Return how many dumps of the daemon's the server serves."""
    return _sessions(stack)


def _sessions(stack: ArcsecondStack, condition: str = "") -> int:
    sql = f"SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'arcbackupd-dump%' {condition}"
    return int(stack.psql(sql))


@contextmanager
def dump_at_hand(daemon: Daemon, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Let a client ask for a backup and stop its pg_dump when a part of it is written; it goes on in the end."""
    with daemon.client("backup", *arguments) as client:
        pid = wait_for_process(daemon.stack)
        wait_until(lambda: partial_size(daemon) > 100_000, "a part of a dump", interval=0.002)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield client
        finally:
            _let_go_on(pid)


@contextmanager
def dump_half_way(daemon: InstalledDaemon) -> Iterator[int]:
    """Hold a dump when a part of it is written; give the process of its pg_dump, which goes on in the end."""
    with ThreadPoolExecutor() as pool:  # looked for at once: it may be done before its client is
        asked = pool.submit(daemon.ctl, "backup", "--no-wait")
        pid = wait_for_process(daemon.stack)
        wait_until(lambda: sum(map(daemon.size, daemon.partials())) > 100_000, "a part of a dump", interval=0.002)
        os.kill(pid, signal.SIGSTOP)
    try:
        asked.result()
        assert dump_sessions(daemon.stack) == 1, "pg_dump was done before it was held"
        yield pid
    finally:
        _let_go_on(pid)


@contextmanager
def upgrade_in_wait(daemon: InstalledDaemon, command: Sequence[str]) -> Iterator[Future[object]]:
    """Upgrade while a dump is held, which goes on at the end; enter once the upgrade waits for it."""
    said = "/var/log/upgrade"
    argv = ["sh", "-c", f'exec "$@" >{said}', "-", *command]
    with ThreadPoolExecutor() as pool, dump_half_way(daemon):
        upgrade: Future[object] = pool.submit(daemon.host.run, argv, timeout=300)
        wait_until(
            lambda: upgrade.done() or "Waiting for" in daemon.host.run(["cat", said], check=False).stdout,
            "the upgrade to wait",
            seconds=240,
        )
        assert not upgrade.done(), upgrade.result()
        yield upgrade


def upgrade_in_a_dump(daemon: InstalledDaemon, command: Sequence[str]) -> None:
    """Upgrade while a dump is held; once the upgrade waits for it let it go on, and wait for the new version."""
    pid = daemon.pid
    with upgrade_in_wait(daemon, command) as upgrade:
        assert daemon.pid == pid
    upgrade.result()
    daemon.wait_restarted(pid)


def partial_size(daemon: Daemon) -> int:
    """Return the bytes of the dump that is being written."""
    return sum(daemon.path(name).stat().st_size for name in daemon.leftovers())


def _let_go_on(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


# Data


def fingerprint(stack: ArcsecondStack, db: str | None = None) -> dict[str, str]:
    """Return a checksum of every table's rows, and every sequence's value, by name."""
    relations = stack.psql(
        "SELECT format('%I.%I', n.nspname, c.relname), c.relkind FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'S')"
        " AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        db,
    )
    kinds = dict(line.rsplit("|", 1) for line in relations.splitlines())
    queries = (_ROWS if kind == "r" else _SEQUENCE for kind in kinds.values())
    sums = stack.psql(";".join(query.format(name) for name, query in zip(kinds, queries, strict=True)), db)
    return dict(zip(kinds, sums.splitlines(), strict=True))


_ROWS = """SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C")), '')
    FROM {0} AS t"""
_SEQUENCE = "SELECT last_value || ' ' || is_called FROM {0}"


def restore_by_hand(dump: Path, stack: ArcsecondStack, db: str) -> None:
    """Load a dump into a new database, as an operator does who has nothing but a shell."""
    stack.create_database(db)
    into = stack.engine.argv(
        "exec", "-i", "-e", "PGPASSWORD", stack.database, "psql", "-X", "-q", "-o", "/dev/null"
    )
    command = ["-v", "ON_ERROR_STOP=1", "-U", stack.user, "-d", db]
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", 'gunzip -c "$0" | "$@"', str(dump), *into, *command],
        env={**os.environ, **stack.engine.env, "PGPASSWORD": stack.password},
        check=True,
        timeout=120,
    )


def change(stack: ArcsecondStack) -> None:
    """Change the database's content, so that the next dump is another one."""
    stack.psql("UPDATE targets_target SET priority = priority + 1 WHERE id = (SELECT min(id) FROM targets_target)")


# Hosts


@contextmanager
def booted(engine: Engine, *mounts: Path) -> Iterator[SystemdHost]:
    """Give a host with real systemd, and with these directories of ours; require it where there can be none."""
    try:
        images.systemd(engine)
    except EngineUnavailable as error:
        require("docker", str(error))
    host = SystemdHost(engine, mounts=mounts)
    try:
        host.start()
    except CommandFailed as error:
        host.close()
        require("systemd", f"no container with systemd boots here: {error}")
    try:
        yield host
    finally:
        host.close()


# Disks


@contextmanager
def small_disk(mounted: Path, size: str) -> Iterator[None]:
    """Mount a filesystem of that size on a directory for as long as it lasts."""
    if os.geteuid() != 0:
        require("root", "only root may mount a small file system")
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mounted)])
    try:
        yield
    finally:
        run(["umount", "--lazy", str(mounted)])
