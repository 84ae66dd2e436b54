"""A held backend as systemd ends its daemon in every way there is: each time it is let go within seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from arcbackupd.messages import MessageId
from arcbackupd.stack.freezer import Freezer, find_freezer
from tests.e2e.support import booted, table_locked, waiting_dumps
from tests.harness.engine import Engine
from tests.harness.installed import InstalledDaemon
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack
from tests.harness.systemd_host import SystemdHost, build_wheel, build_wheelhouse

pytestmark = pytest.mark.slow

LONG = 90.0
"""Seconds that a busy machine may take for anything."""

SOON = {"min_interval": "1ms"}
BOOT_NOTE = "/var/lib/arcbackupd/boot.json"
HOLD_NOTE = "/var/lib/arcbackupd/hold.json"
RESTART_SOON = "[Service]\nRestartSec=200ms\n"


@pytest.fixture(scope="module")
def observatory(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a running stack."""
    with ArcsecondStack(docker_engine, 16) as stack:
        yield stack


@pytest.fixture(scope="module")
def systemd_host(docker_engine: Engine, observatory: ArcsecondStack) -> Iterator[SystemdHost]:
    """Return a host with real systemd."""
    with booted(docker_engine, observatory.directory) as host:
        yield host


@pytest.fixture(scope="module")
def installed(
    systemd_host: SystemdHost, observatory: ArcsecondStack, request: pytest.FixtureRequest
) -> InstalledDaemon:
    """Return the daemon, installed from its wheel and started."""
    repository = request.config.rootpath
    wheel = build_wheel(repository)
    wheels = build_wheelhouse(wheel, "docutils", constraints=repository / "constraints.txt")
    systemd_host.install(repository, wheel, wheels, data=observatory.shared_data)
    daemon = InstalledDaemon(systemd_host, observatory)
    daemon.configure()
    systemd_host.run(["systemctl", "enable", "--now", "arcbackupd.socket", "arcbackupd.service"])
    wait_until(lambda: _there(daemon, BOOT_NOTE), "the dump of the backend's start", seconds=LONG, interval=0.2)
    return daemon


@pytest.fixture
def daemon(installed: InstalledDaemon) -> InstalledDaemon:
    """Return the daemon running on its basic configuration, beside a backend that runs."""
    installed.host.run(["systemctl", "reset-failed", "arcbackupd.service"], check=False)
    installed.as_at_first()
    return installed


def _there(daemon: InstalledDaemon, path: str) -> bool:
    return daemon.host.run(["test", "-e", path], check=False).returncode == 0


def started_with(daemon: InstalledDaemon, drop_in: str = "", **boot: str) -> None:
    """Start the daemon anew with such a drop-in and settings of boot, and wait until it hears events."""
    daemon.drop_in("test", RESTART_SOON + drop_in)
    daemon.configure(boot={**SOON, **boot})
    daemon.systemctl("restart")
    pgrep = ["pgrep", "-f", "docker events"]
    wait_until(lambda: daemon.host.run(pgrep, check=False).stdout, "the daemon to listen", seconds=LONG)


@contextmanager
def backend_held(daemon: InstalledDaemon) -> Iterator[Freezer]:
    """Within it the backend stands still, and its dump waits for a lock on a table."""
    stack = daemon.stack
    with table_locked(stack):
        stack.restart_backend(wait=False)
        identity = stack.engine.run("inspect", "--format", "{{.Id}}", stack.backend).stdout.strip()
        freezer = find_freezer(identity)
        wait_until(lambda: freezer.is_frozen() and waiting_dumps(stack), "the backend to be held", seconds=LONG)
        try:
            yield freezer
        finally:
            freezer.thaw()
    stack.wait_backend()


def wait_let_go(daemon: InstalledDaemon, freezer: Freezer) -> None:
    """Wait until the backend goes on, and nothing says any more that it is held."""
    wait_until(lambda: not freezer.is_frozen(), "the backend to go on", seconds=LONG)
    wait_until(lambda: not _there(daemon, HOLD_NOTE), "the note of the hold to go", seconds=LONG, interval=0.2)


# Ways to end


def kill_all(daemon: InstalledDaemon) -> None:
    """Kill everything that the service has at once, the shell that guards the hold included."""
    daemon.host.run(["systemctl", "kill", "--signal=KILL", "arcbackupd.service"])


def kill_main(daemon: InstalledDaemon) -> None:
    """Kill the main process, as the kernel does when memory runs out."""
    daemon.signal("KILL")


def hang(daemon: InstalledDaemon) -> None:
    """Let the main process hang until the watchdog's time is up."""
    daemon.signal("STOP")


def stop(daemon: InstalledDaemon) -> None:
    """Stop the service properly."""
    daemon.systemctl("stop")


@pytest.mark.parametrize(
    ("end", "drop_in"),
    [
        (kill_all, ""),
        (kill_main, ""),
        (hang, "WatchdogSec=2s\n"),
        (kill_all, "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=1\n"),
        (stop, ""),
    ],
    ids=["systemctl kill", "SIGKILL", "watchdog", "start limit", "stop"],
)
def test_however_the_daemon_ends_the_backend_is_let_go(
    daemon: InstalledDaemon, end: Callable[[InstalledDaemon], None], drop_in: str
) -> None:
    started_with(daemon, drop_in)
    with backend_held(daemon) as freezer:
        end(daemon)
        wait_let_go(daemon, freezer)
    if "StartLimit" in drop_in:
        daemon.host.wait_state("arcbackupd.service", "failed", LONG)


def test_a_timer_of_systemds_lets_go_where_nothing_else_can(daemon: InstalledDaemon) -> None:
    started_with(daemon, "ExecStopPost=\nRestart=no\n", max_hold="20s")
    with backend_held(daemon) as freezer:
        timers = ["systemctl", "list-units", "--plain", "--no-legend", "arcbackupd-let-go-*.timer"]
        wait_until(lambda: daemon.host.run(timers).stdout, "the timer", seconds=LONG, interval=0.1)
        kill_all(daemon)
        wait_until(lambda: not freezer.is_frozen(), "the backend to go on", seconds=LONG)


def test_the_next_start_lets_go_what_was_left_and_says_so(daemon: InstalledDaemon) -> None:
    started_with(daemon, "ExecStopPost=\nRestart=no\n")
    with backend_held(daemon) as freezer:
        kill_all(daemon)
        daemon.host.wait_state("arcbackupd.service", "failed", LONG)
        assert _there(daemon, HOLD_NOTE)
        freezer.freeze()  # the guard may see the end of the daemon's pipe an instant before its own
        daemon.systemctl("start")
        wait_let_go(daemon, freezer)
        assert daemon.wait_entry(LONG, MESSAGE_ID=MessageId.HOLD_LEFT_OVER)["PRIORITY"] == "4"
        assert "A held backend was found and let go" in daemon.log()


def test_in_its_sandbox_it_holds_dumps_and_lets_go(daemon: InstalledDaemon) -> None:
    started_with(daemon)
    before = daemon.names()
    daemon.stack.restart_backend()
    wait_until(lambda: len(daemon.names()) > len(before), "the boot's dump", seconds=LONG, interval=0.5)
    row = daemon.json("inspect", "1")["backup"]
    assert (row["reason"], row["before_migrations"]) == ("boot", True), row["not_surely_before"]
    timers = ["systemctl", "list-units", "--plain", "--no-legend", "arcbackupd-let-go-*"]
    wait_until(lambda: not daemon.host.run(timers).stdout, "the timer to go", seconds=LONG, interval=0.2)
    writable = daemon.host.run(
        ["nsenter", "-t", str(daemon.pid), "-m", "sh", "-c", "! mkdir /sys/fs/cgroup/memory/arcbackupd-probe"],
        check=False,
    )
    assert writable.returncode == 0


def test_a_unit_ordered_before_the_stacks_own_takes_a_backup_first(daemon: InstalledDaemon) -> None:
    seen, unit = "/root/seen", "arcbackupd-before@observatory.service"
    listing = f"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'ls {daemon.stack.backups} >{seen}'\n"
    daemon.host.write("/etc/systemd/system/observatory.service", listing)
    daemon.host.run(["systemctl", "daemon-reload"])
    daemon.host.run(["systemctl", "enable", unit])
    verified = daemon.host.run(["systemd-analyze", "verify", unit])
    assert verified.stdout + verified.stderr == ""
    before = daemon.names()
    daemon.systemctl("start", "observatory.service")
    [new, *_] = daemon.names()
    assert new not in before
    assert new in daemon.host.read(seen).split()
    daemon.stack.stop_container(daemon.stack.database)  # no backup then, and no reason not to start
    try:
        daemon.systemctl("start", "observatory.service")
    finally:
        daemon.stack.start_container(daemon.stack.database)
        daemon.stack.wait_database()
