"""The daemon on a host: installed from its wheel, run by systemd, looking after a real stack."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arcbackupd.messages import MessageId
from tests.e2e.support import (
    booted,
    change,
    command_lines,
    dump_half_way,
    dump_sessions,
    fingerprint,
    upgrade_in_a_dump,
    upgrade_in_wait,
)
from tests.harness import bridge
from tests.harness.engine import Engine
from tests.harness.installed import ADMINS, CONFIG, DROP_INS, NEVER, SOCKET, SOCKET_UNIT, InstalledDaemon
from tests.harness.plugins import build_plugin
from tests.harness.process import wait_until
from tests.harness.s3 import S3Server
from tests.harness.stack import ArcsecondStack
from tests.harness.systemd_host import CHECKOUT, VENV, SystemdHost, build_wheel, build_wheelhouse, install_command

pytestmark = pytest.mark.slow

ROWS = 300_000
"""Enough that what is on its way between pg_dump and the file, some MiB, isn't all."""

MEMBER, ADMIN, OUTSIDER = "ada", "kepler", "oscar"

BOOT_NOTE = "/var/lib/arcbackupd/boot.json"

MANUAL = tuple(
    f"/usr/local/share/man/{page}"
    for page in ("man1/arcbackupctl.1", "man5/arcbackupd.toml.5", "man8/arcbackupd.8")
)

IDLE_SECONDS = 60
IDLE_MEMORY = 60 << 20
IDLE_WAKEUPS = 5.0
"""A second. What a wakeup costs is the machine's affair, and told by the benchmark; how many there are is ours."""
SPINNING = 0.1
"""Of a processor: one that never sleeps is never woken either."""

EXPOSURE = 2.0
"""What `systemd-analyze security` may say at most."""

SOON = "[Service]\nRestartSec=200ms\n"

WEATHER = """
    import hashlib
    from pydantic import SecretStr
    from arcbackupd.jobs import Job, JobOutcome, JobSettings

    class WeatherSettings(JobSettings):
        token: SecretStr

    class WeatherJob(Job[WeatherSettings]):
        name = "weather"
        Settings = WeatherSettings

        async def run(self) -> JobOutcome:
            digest = hashlib.sha256(self.settings.token.get_secret_value().encode()).hexdigest()
            return JobOutcome("clear sky", fields={"digest": digest, "seen": repr(self.settings)})
"""


# The host


@pytest.fixture(scope="module")
def observatory(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a stack with some data."""
    with ArcsecondStack(docker_engine, 16) as stack:
        stack.seed(ROWS)
        yield stack


@pytest.fixture(scope="module")
def systemd_host(docker_engine: Engine, observatory: ArcsecondStack) -> Iterator[SystemdHost]:
    """Return a host with real systemd on which nothing of ours is installed."""
    with booted(docker_engine, observatory.directory) as host:
        yield host


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the daemon's wheel."""
    return build_wheel(repository, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(
    systemd_host: SystemdHost,
    observatory: ArcsecondStack,
    repository: Path,
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> InstalledDaemon:
    """Return the daemon, installed from its wheel and enabled as README tells, and people who use it."""
    wheels = build_wheelhouse(
        wheel, "docutils", constraints=repository / "constraints.txt", into=tmp_path_factory.mktemp("wheelhouse")
    )
    systemd_host.install(repository, wheel, wheels, data=observatory.shared_data)
    systemd_host.run(["groupadd", ADMINS])
    for user, *groups in ((MEMBER, "arcbackup"), (ADMIN, "arcbackup", ADMINS), (OUTSIDER,)):
        systemd_host.add_user(user, *groups)
    daemon = InstalledDaemon(systemd_host, observatory)
    daemon.configure()
    daemon.ctl("check-config")
    systemd_host.run(["systemctl", "enable", "--now", "arcbackupd.socket", "arcbackupd.service"])
    # It hadn't seen this start of the backend: once it has noted that it has, no dump comes by itself any more.
    wait_until(
        lambda: _is_there(systemd_host, BOOT_NOTE), "the dump of the backend's start", seconds=90, interval=0.2
    )
    return daemon


def _is_there(host: SystemdHost, path: str) -> bool:
    return host.run(["test", "-e", path], check=False).returncode == 0


@pytest.fixture
def daemon(installed: InstalledDaemon) -> InstalledDaemon:
    """Return the daemon running on its basic configuration, whatever a test before did to it."""
    installed.as_at_first()
    installed.from_now_on()
    return installed


# Starting


def test_when_systemctl_start_returns_it_is_ready_and_the_journal_explains_it(daemon: InstalledDaemon) -> None:
    daemon.systemctl("stop")
    daemon.systemctl("start")
    assert daemon.is_active()
    assert daemon.show("Type") == "notify"
    (ready,) = daemon.entries(MESSAGE_ID=MessageId.DAEMON_READY)
    assert (ready["PRIORITY"], ready["_PID"]) == ("6", str(daemon.pid))
    assert "it answers on its control socket" in daemon.log()
    wait_until(lambda: daemon.show("StatusText") == f"Newest good backup: {daemon.names()[0]}", "a status line")


def test_a_wrong_configuration_is_refused_before_the_start_with_the_reason_in_the_journal(
    daemon: InstalledDaemon,
) -> None:
    daemon.drop_in("soon", SOON)
    daemon.configure(retention={"keep_days": 0})
    assert daemon.fails("restart")
    said = daemon.wait_entry(PRIORITY="3", ERROR_CODE="configuration")
    assert "/etc/arcbackupd/config.toml: retention.keep_days: " in said["MESSAGE"]
    assert "check-config" in said["HINT"]
    daemon.configure()
    wait_until(daemon.is_active, "the service to start by itself once the file is corrected", interval=0.2)


def test_the_manual_is_installed(daemon: InstalledDaemon) -> None:
    for page in MANUAL:
        assert daemon.host.read(page).count(".SH ") > 5


def test_systemd_finds_nothing_wrong_with_the_units_and_little_exposed(daemon: InstalledDaemon) -> None:
    verified = daemon.host.run(["systemd-analyze", "verify", "arcbackupd.service", "arcbackupd.socket"])
    assert verified.stdout + verified.stderr == ""
    said = daemon.host.run(["systemd-analyze", "security", "--no-pager", "arcbackupd.service"]).stdout
    exposure = float(said.partition("Overall exposure level for arcbackupd.service: ")[2].split()[0])
    print(f"exposure: {exposure}")
    assert exposure <= EXPOSURE


# The main job


def test_a_scheduled_dump_is_found_in_the_journal_by_its_fields(daemon: InstalledDaemon) -> None:
    change(daemon.stack)
    daemon.configure(jobs={"dump": {"schedule": "every 2s"}})
    daemon.systemctl("reload")
    published = daemon.wait_entry(JOB="dump", REASON="scheduled", MESSAGE_ID=MessageId.DUMP_PUBLISHED)
    name = published["BACKUP"]
    (found,) = daemon.entries(JOB="dump", BACKUP=name)
    assert found["PRIORITY"] == "6"
    assert found["_SYSTEMD_UNIT"] == "arcbackupd.service"
    assert int(found["BYTES"]) == daemon.size(name)
    assert 0 < float(found["DURATION_S"]) < 60
    assert f"A dump was published: {name}" in daemon.log()


def test_after_a_reboot_it_runs_again_by_itself(daemon: InstalledDaemon) -> None:
    before = daemon.names()
    daemon.host.reboot()
    daemon.host.wait_state("arcbackupd.service")
    assert daemon.is_active(SOCKET_UNIT)
    assert set(before) <= set(daemon.names())


# Who may do what


def test_an_ordinary_user_of_the_group_looks_and_takes_backups(daemon: InstalledDaemon) -> None:
    taken = daemon.json("backup", user=MEMBER)
    listed = daemon.json("list", user=MEMBER)["backups"]
    assert listed[0]["name"] == taken["name"]
    assert listed[0]["reason"] == "manual"
    assert daemon.json("status", user=MEMBER)["state"] == "ok"
    daemon.ctl("inspect", "latest", user=MEMBER)
    daemon.ctl("prune", "--dry-run", user=MEMBER)


@pytest.mark.parametrize(
    "command", [("prune", "--yes"), ("jobs", "pause", "prune"), ("jobs", "run", "prune")], ids=" ".join
)
def test_what_removes_or_changes_is_refused_to_that_user(daemon: InstalledDaemon, command: tuple[str, ...]) -> None:
    before = daemon.job("prune")
    said = daemon.ctl(*command, user=MEMBER, status=4)
    assert f"{MEMBER} may not" in said
    assert "root and the configured admins" in said
    assert daemon.job("prune") == before


@pytest.mark.parametrize("user", [None, ADMIN], ids=["root", "a user of the configured admin group"])
def test_what_removes_or_changes_is_done_for(daemon: InstalledDaemon, user: str | None) -> None:
    daemon.ctl("prune", "--yes", user=user)
    daemon.ctl("jobs", "pause", "prune", user=user)
    assert daemon.job("prune")["state"] == "paused"
    daemon.ctl("jobs", "resume", "prune", user=user)
    assert daemon.job("prune")["state"] == "active"


def test_an_admin_restores_and_rolls_back_and_the_journal_explains_it(
    daemon: InstalledDaemon, observatory: ArcsecondStack
) -> None:
    name = daemon.json("backup", user=ADMIN)["name"]
    before = fingerprint(observatory)
    observatory.psql("DROP TABLE observations_photometry")
    report = daemon.json("restore", name, "--yes", user=ADMIN)
    assert (report["outcome"], report["problem"]) == ("restored", None)
    assert report["snapshot"] in daemon.names()
    assert fingerprint(observatory) == before
    entry = daemon.wait_entry(MESSAGE_ID=MessageId.RESTORE_DONE)
    assert (entry["BACKUP"], entry["REPLACED"]) == (name, report["replaced"])
    assert daemon.json("rollback", "--yes", user=ADMIN)["outcome"] == "rolled-back"
    assert "public.observations_photometry" not in fingerprint(observatory)
    assert daemon.json("rollback", "--yes", user=ADMIN)["outcome"] == "rolled-back"
    assert fingerprint(observatory) == before
    assert daemon.json("status", user=MEMBER)["replaced"]
    daemon.ctl("discard-replaced", "--yes", user=ADMIN)
    assert daemon.json("status", user=MEMBER)["replaced"] == []


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("inspect", "latest"),
        ("backup",),
        ("jobs",),
        ("prune", "--dry-run"),
        ("prune", "--yes"),
        ("status",),
    ],
    ids=" ".join,
)
def test_everything_is_refused_to_who_is_not_in_the_group_and_told_which_one_to_join(
    daemon: InstalledDaemon, command: tuple[str, ...]
) -> None:
    # `status` has the exit statuses of a monitoring plugin: 3 is unknown
    said = daemon.ctl(*command, user=OUTSIDER, status=3 if command == ("status",) else 4)
    assert f"Permission denied on the socket {SOCKET}" in said
    assert "usermod -aG arcbackup" in said


def test_where_the_group_does_not_exist_root_alone_has_a_socket_and_the_journal_says_so(
    daemon: InstalledDaemon,
) -> None:
    daemon.host.run(["systemctl", "stop", "arcbackupd.service", "arcbackupd.socket"])
    daemon.host.run(["groupmod", "-n", "gone", "arcbackup"])
    try:
        daemon.systemctl("start")
        assert daemon.wait_entry(MESSAGE_ID=MessageId.SOCKET_RESTRICTED)["PRIORITY"] == "4"
        assert "systemd-sysusers" in daemon.log()
        assert daemon.host.run(["stat", "-c", "%U %a", SOCKET]).stdout.split() == ["root", "600"]
        assert daemon.names()
    finally:
        daemon.host.run(["groupmod", "-n", "arcbackup", "gone"])
        daemon.host.run(["systemctl", "restart", "arcbackupd.socket", "arcbackupd.service"], check=False)


# Stopping


def test_a_stop_lets_a_dump_at_hand_finish_and_leaves_the_socket_which_wakes_the_daemon(
    daemon: InstalledDaemon,
) -> None:
    before = daemon.files()
    with dump_half_way(daemon):
        daemon.host.run(["systemctl", "stop", "--no-block", "arcbackupd.service"])
        daemon.wait_entry(MESSAGE_ID=MessageId.DAEMON_STOPPING)
    daemon.host.wait_state("arcbackupd.service", "inactive")
    assert daemon.show("Result") == "success"
    (new,) = set(daemon.files()) - set(before)
    assert not daemon.partials()
    assert dump_sessions(daemon.stack) == 0
    assert daemon.is_active(SOCKET_UNIT)
    daemon.host.run(["test", "-S", SOCKET])

    assert daemon.names()[0] == new
    assert daemon.is_active()
    daemon.ctl("inspect", new, "--verify")


def test_a_stop_abandons_a_dump_that_takes_too_long_and_leaves_nothing_of_it(daemon: InstalledDaemon) -> None:
    before = daemon.files()
    with dump_half_way(daemon):
        began = time.monotonic()
        daemon.systemctl("stop")
        assert time.monotonic() - began < 30
        # pg_dump is still held: it wasn't its own end that ended its session
        assert dump_sessions(daemon.stack) == 0
    assert daemon.show("Result") == "success"
    assert daemon.files() == before
    (failed,) = daemon.entries(MESSAGE_ID=MessageId.DUMP_FAILED)
    assert "abandoned because the daemon stops" in failed["MESSAGE"]
    assert daemon.host.run(["pgrep", "-x", "docker"], check=False).stdout == ""
    assert [name for name in before if not name.startswith(".")] == sorted(daemon.names())


def test_a_backup_that_wakes_the_daemon_is_taken(daemon: InstalledDaemon) -> None:
    daemon.systemctl("stop")
    assert daemon.json("backup", user=MEMBER)["name"] == daemon.names()[0]


# Reloading


def test_a_reload_with_a_good_configuration_puts_it_in_force_in_the_same_process(daemon: InstalledDaemon) -> None:
    pid = daemon.pid
    daemon.configure(jobs={"dump": {"schedule": "every 3h"}})
    daemon.systemctl("reload")
    wait_until(lambda: daemon.job("dump")["schedule"] == "every 3h", "the new schedule", interval=0.2)
    assert daemon.pid == pid
    assert not daemon.entries(PRIORITY="3")


def test_a_reload_with_a_bad_configuration_fails_and_the_old_one_stays_in_force(daemon: InstalledDaemon) -> None:
    pid = daemon.pid
    daemon.configure(jobs={"dump": {"schedule": "every now and then"}})
    assert daemon.fails("reload")
    rejected = daemon.wait_entry(PRIORITY="3", MESSAGE_ID=MessageId.CONFIG_REJECTED)
    assert "jobs.dump.schedule: " in rejected["MESSAGE"]
    assert daemon.job("dump")["schedule"] == NEVER
    assert daemon.pid == pid


def test_a_bad_configuration_is_rejected_also_where_nobody_checked_it_first(daemon: InstalledDaemon) -> None:
    daemon.configure(text="\n[dmup]\n")
    daemon.signal("HUP")
    rejected = daemon.wait_entry(MESSAGE_ID=MessageId.CONFIG_REJECTED)
    assert rejected["PRIORITY"] == "3"
    assert "dmup: there is no such setting" in rejected["MESSAGE"]
    assert "The configuration was rejected" in daemon.log()
    assert daemon.job("dump")["schedule"] == NEVER
    wait_until(daemon.is_active, "the end of the reload", interval=0.2)


# Dying


def test_one_that_hangs_is_killed_by_the_watchdog_and_started_again(daemon: InstalledDaemon) -> None:
    daemon.drop_in("watchdog", f"{SOON}WatchdogSec=2s\n")
    daemon.systemctl("restart")
    pid = daemon.pid
    daemon.signal("STOP")
    daemon.wait_restarted(pid)
    assert "Watchdog timeout" in daemon.log()
    assert daemon.names()


def test_after_a_kill_in_the_middle_of_a_dump_it_starts_again_and_leaves_nothing_over(
    daemon: InstalledDaemon,
) -> None:
    daemon.drop_in("soon", SOON)
    daemon.systemctl("restart")
    before, pid = daemon.files(), daemon.pid
    with dump_half_way(daemon):
        daemon.signal("KILL")
        daemon.wait_restarted(pid)
        wait_until(lambda: dump_sessions(daemon.stack) == 0, "the end of the abandoned dump's session")
        wait_until(lambda: daemon.files() == before, "the end of what was written")
    assert daemon.wait_entry(MESSAGE="Removed what an interrupted dump left")["BACKUP"].startswith(".backup-")
    assert daemon.wait_entry(MESSAGE="Ended 1 abandoned pg_dump on the database server")["PRIORITY"] == "4"
    assert not daemon.entries(MESSAGE_ID=MessageId.DUMP_PUBLISHED)


# The sandbox


def test_without_the_drop_in_for_its_path_a_dump_fails_and_names_it(daemon: InstalledDaemon) -> None:
    before = daemon.files()
    daemon.without_drop_in("paths")
    daemon.systemctl("restart")
    said = daemon.ctl("backup", status=1)
    assert f"{daemon.stack.backups} can't be written: Read-only file system" in said
    assert f"ReadWritePaths={daemon.stack.shared_data}" in said
    assert f"{DROP_INS}/paths.conf" in said
    assert daemon.files() == before


@pytest.mark.parametrize("place", ["/etc", "/usr/local/bin", "/srv", "/home", "/opt/arcbackupd", "/root"])
def test_the_rest_of_the_host_is_read_only_to_it(daemon: InstalledDaemon, place: str) -> None:
    inside = ["nsenter", "--target", str(daemon.pid), "--mount", "touch"]
    done = daemon.host.run([*inside, f"{place}/x"], check=False)
    assert "Read-only file system" in done.stderr
    daemon.host.run([*inside, str(daemon.stack.shared_data / "x")])


@contextmanager
def beside(daemon: InstalledDaemon, user: str) -> Iterator[int]:
    """Within it a process of that user's runs on the host; give its id."""
    daemon.host.run(["systemd-run", "--unit=beside", f"--uid={user}", "--collect", "sleep", "infinity"])
    try:
        yield int(daemon.host.show("beside.service", "MainPID")["MainPID"])
    finally:
        daemon.host.run(["systemctl", "stop", "beside.service"], check=False)


def sandboxed(daemon: InstalledDaemon, command: str, *more: str) -> str:
    """Run a command in the sandbox of the unit, with lines of a drop-in behind; return its result for systemd."""
    unit = daemon.host.read("/usr/local/lib/systemd/system/arcbackupd.service")
    own = ("Exec", "Type=", "NotifyAccess=", "WatchdogSec=", "Restart", "StateDirectory", "CacheDirectory")
    lines = [line for line in unit.partition("[Install]")[0].splitlines() if not line.startswith(own)]
    lines += ["Type=oneshot", f"ExecStart={command}", *more, ""]
    daemon.host.write("/etc/systemd/system/probe.service", "\n".join(lines))
    daemon.host.run(["systemctl", "daemon-reload"])
    try:
        daemon.host.run(["systemctl", "start", "probe.service"], check=False)
        return daemon.host.show("probe.service", "Result")["Result"]
    finally:
        daemon.host.run(["systemctl", "reset-failed", "probe.service"], check=False)
        daemon.host.run(["rm", "/etc/systemd/system/probe.service"])
        daemon.host.run(["systemctl", "daemon-reload"])


def test_the_direct_path_into_a_process_of_somebody_elses_is_open_from_within_and_needs_the_one_capability(
    daemon: InstalledDaemon,
) -> None:
    with beside(daemon, MEMBER) as pid:
        look = f"/bin/ls /proc/{pid}/root/etc"
        assert sandboxed(daemon, look) == "success"
        assert sandboxed(daemon, look, "CapabilityBoundingSet=~CAP_SYS_PTRACE") == "exit-code"


def test_a_user_of_its_own_without_any_right_of_roots_takes_backups_through_the_engine(
    daemon: InstalledDaemon,
) -> None:
    env, user = daemon.stack.install_dir / ".env", "arcbackupd"
    shell = ["sh", "-c"]
    daemon.host.run(["useradd", "--system", "--user-group", "--no-create-home", user])
    daemon.configure(engine={"data_path": "stream"}, boot={"hold": False})
    daemon.host.run([*shell, f"chgrp {user} {CONFIG} {env} && chmod 640 {CONFIG} {env}"])
    daemon.host.run(["chown", "-R", f"{user}:{user}", str(daemon.stack.backups)])
    example = daemon.host.read(f"{DROP_INS}/user.conf.example")
    engine = daemon.host.run(["stat", "-L", "-c", "%g", "/run/docker.sock"]).stdout.strip()
    daemon.host.run([*shell, f"getent group {engine} || groupadd --system --gid {engine} engine"])
    daemon.drop_in("user", f"{example}SupplementaryGroups={engine}\n")
    daemon.systemctl("restart")
    try:
        assert daemon.json("backup", user=MEMBER)["name"] == daemon.names()[0]
        status = daemon.host.read(f"/proc/{daemon.pid}/status")
    finally:
        daemon.host.run(["chown", "-R", "root:root", str(daemon.stack.backups)])
        daemon.stack.write_env()
    assert "CapBnd:\t0000000000000000" in status
    assert "Uid:\t0" not in status


def network_of(daemon: InstalledDaemon, pid: int) -> str:
    return daemon.host.run(["readlink", f"/proc/{pid}/ns/net"]).stdout


@contextmanager
def bridged(daemon: InstalledDaemon, port: int) -> Iterator[None]:
    """Within it a port of this machine's is a port of the host's, which has no network."""
    way = daemon.stack.directory / "bridge.sock"
    daemon.host.copy_in(Path(bridge.__file__), "/root/bridge.py")
    argv = [sys.executable, bridge.__file__, f"unix:{way}", f"tcp:{port}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as here:
        assert here.stdout is not None
        assert here.stdout.readline() == "listening\n"
        inside = ["python3", "/root/bridge.py", f"tcp:{port}", f"unix:{way}"]
        daemon.host.run(["systemd-run", "--unit=bridge", "--collect", *inside])
        try:
            yield
        finally:
            daemon.host.run(["systemctl", "stop", "bridge.service"], check=False)
            here.kill()


def test_the_network_is_its_own_until_the_drop_in_for_copies_off_this_host_and_then_an_upload_works(
    daemon: InstalledDaemon, s3_server: S3Server
) -> None:
    assert network_of(daemon, daemon.pid) != network_of(daemon, 1)
    vault = {"type": "s3", **s3_server.table(s3_server.make_bucket())}
    with bridged(daemon, s3_server.port):
        daemon.configure(destinations={"vault": vault}, upload={"dumps": {"to": ["vault"]}})
        daemon.systemctl("restart")
        assert daemon.json("upload", status=1)["results"][0]["error"]["code"] == "destination-unreachable"

        daemon.drop_in("off-host", daemon.host.read(f"{DROP_INS}/off-host.conf.example"))
        daemon.systemctl("restart")
        assert network_of(daemon, daemon.pid) == network_of(daemon, 1)
        (result,) = daemon.json("upload")["results"]
    assert result["error"] is None
    assert result["files"] >= 1
    assert "vault" in daemon.json("list")["backups"][0]["stored"]


# Secrets


def test_a_credential_reaches_the_settings_of_a_third_party_job_and_never_the_journal(
    daemon: InstalledDaemon, tmp_path: Path
) -> None:
    token = "tok-3f1b8c55d2"
    daemon.host.install_package(
        build_plugin(tmp_path, "observatory_weather", WEATHER, "weather = observatory_weather:WeatherJob")
    )
    daemon.host.write("/etc/arcbackupd/credentials/token", token, mode=0o600)
    daemon.drop_in(
        "credentials", "[Service]\nLoadCredential=jobs__weather__token:/etc/arcbackupd/credentials/token\n"
    )
    daemon.configure(jobs={"weather": {"schedule": NEVER}})
    daemon.systemctl("restart")
    daemon.ctl("jobs", "run", "weather")
    entry = daemon.wait_entry(JOB="weather", MESSAGE="Job weather done: clear sky")
    assert entry["DIGEST"] == hashlib.sha256(token.encode()).hexdigest()
    assert "SecretStr('**********')" in entry["SEEN"]
    assert token not in daemon.host.run(["journalctl", "--output=export", "--all"]).stdout


class _CommandLines:
    """Collects the command lines of the host while it is entered, from all containers."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _CommandLines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ending.wait(0.005):
            self.seen |= {" ".join(words) for words in command_lines().values()}


def test_the_password_is_in_no_command_line_and_nowhere_in_the_journal_or_the_status(
    daemon: InstalledDaemon,
) -> None:
    wrong = "wrong-7c41e90ab3"
    with _CommandLines() as lines:
        daemon.ctl("backup")
        daemon.stack.write_env(POSTGRES_PASSWORD=wrong)
        try:
            daemon.ctl("backup", status=1)
        finally:
            daemon.stack.write_env()
        status = daemon.host.run(["systemctl", "status", "--full", "--no-pager", "arcbackupd"], check=False).stdout
    assert any("docker exec" in line and "pg_dump" in line for line in lines.seen)
    assert any(line.startswith("pg_dump ") for line in lines.seen)
    everything = daemon.host.run(["journalctl", "--output=export", "--all"]).stdout
    assert "wrong-password" in everything
    for secret in (daemon.stack.password, wrong):
        assert not [line for line in lines.seen if secret in line]
        assert secret not in everything
        assert secret not in status


# Alarms


def test_when_the_daemon_itself_fails_somebody_is_told_once_with_its_last_words(
    daemon: InstalledDaemon, repository: Path
) -> None:
    host, examples = daemon.host, repository / "systemd/arcbackupd.service.d"
    verified = host.run(["systemd-analyze", "verify", "arcbackupd-failure@test.service"])
    assert verified.stdout + verified.stderr == ""
    host.write("/usr/local/sbin/keeps-mail", "#!/bin/sh\ncat >> /root/mail\n", mode=0o755)
    host.write(
        "/etc/systemd/system/arcbackupd-failure@.service.d/test.conf",
        "[Service]\nEnvironment=SENDMAIL=/usr/local/sbin/keeps-mail RECIPIENT=ada\n",
    )
    daemon.drop_in("soon", SOON)
    for name in ("failure", "alarms"):
        daemon.drop_in(name, (examples / f"{name}.conf.example").read_text())
    daemon.systemctl("restart")
    for _ in range(2):
        pid = daemon.pid
        daemon.signal("KILL")
        daemon.wait_restarted(pid, seconds=180)
    mail = wait_until(lambda: host.run(["cat", "/root/mail"], check=False).stdout, "a mail", interval=0.2)
    assert mail.startswith("To: ada\nSubject: [arcbackupd] ")
    assert "arcbackupd.service failed\n" in mail
    assert "code=killed" in mail
    assert host.run(["cat", "/root/mail"]).stdout.count("Subject:") == 1
    daemon.systemctl("stop")
    assert host.run(["cat", "/root/mail"]).stdout.count("Subject:") == 1


# Its weight


def test_idle_it_takes_little_memory_and_seldom_wakes(daemon: InstalledDaemon) -> None:
    pid = daemon.pid
    began, woken, busy = time.monotonic(), _wakeups(daemon, pid), _processor_seconds(daemon, pid)
    time.sleep(IDLE_SECONDS)  # nothing to wait for: this is the measure
    seconds = time.monotonic() - began
    wakeups = (_wakeups(daemon, pid) - woken) / seconds
    share = (_processor_seconds(daemon, pid) - busy) / seconds
    memory = _resident_bytes(daemon, pid)
    print(f"idle: {memory / 1e6:.1f} MB resident, {wakeups:.2f} wakeups a second, {share:.3%} of a processor")
    assert memory < IDLE_MEMORY
    assert wakeups < IDLE_WAKEUPS
    assert share < SPINNING


def _wakeups(daemon: InstalledDaemon, pid: int) -> int:
    """How often its threads have gone to sleep until now, which each wakeup lets them do once."""
    status = daemon.host.run(["sh", "-c", f"cat /proc/{pid}/task/*/status"]).stdout
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))


def _processor_seconds(daemon: InstalledDaemon, pid: int) -> float:
    fields = daemon.host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(daemon: InstalledDaemon, pid: int) -> int:
    line = next(text for text in daemon.host.read(f"/proc/{pid}/status").splitlines() if text.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


# Installing it again, and taking it off


def test_installing_again_lets_a_dump_at_hand_finish_and_restarts_what_runs(
    daemon: InstalledDaemon, wheel: Path
) -> None:
    before = daemon.files()
    of_sudo = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    upgrade_in_a_dump(daemon, ["env", of_sudo, f"PREFIX={VENV}/", *install_command(wheel)])
    (new,) = set(daemon.files()) - set(before)
    daemon.ctl("inspect", new, "--verify")
    assert not daemon.entries(MESSAGE_ID=MessageId.DUMP_FAILED)
    for page in MANUAL:
        daemon.host.run(["test", "-s", page])


def test_an_installation_that_is_broken_off_as_it_waits_leaves_what_runs_and_nothing_else(
    daemon: InstalledDaemon, wheel: Path
) -> None:
    pid, before = daemon.pid, daemon.host.run(["ls", "/opt", "/tmp"]).stdout
    with upgrade_in_wait(daemon, install_command(wheel)) as upgrade:
        daemon.host.run(["pkill", "--signal", "HUP", "--full", "scripts/host install"])  # a terminal that is closed
        wait_until(upgrade.done, "the installation to end")
    assert daemon.host.run(["ls", "/opt", "/tmp"]).stdout == before
    assert daemon.pid == pid
    wait_until(lambda: not daemon.partials(), "the dump that was held to end")


def test_uninstalling_takes_the_programs_and_units_and_leaves_backups_and_settings(daemon: InstalledDaemon) -> None:
    before = daemon.files()
    daemon.host.run([f"{CHECKOUT}/scripts/host", "uninstall"])
    assert daemon.files() == before
    daemon.host.run(["test", "-s", "/etc/arcbackupd/config.toml"])
    for gone in (
        "/opt/arcbackupd",
        *MANUAL,
        "/usr/local/bin/arcbackupctl",
        "/usr/local/lib/systemd/system/arcbackupd.service",
    ):
        daemon.host.run(["test", "!", "-e", gone])
    assert (
        daemon.host.run(["systemctl", "is-active", "arcbackupd.socket"], check=False).stdout.strip() == "inactive"
    )
