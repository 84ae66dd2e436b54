"""`arcbackupd setup` and `arcbackupctl doctor` on a fresh host with real systemd, beside a real stack.

The tests tell one story, in their order: a host on which nothing is set up, setting it up, living with it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import booted
from tests.harness.engine import Engine
from tests.harness.installed import CONFIG, DROP_INS, SOCKET, UNIT, InstalledDaemon
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack
from tests.harness.systemd_host import SystemdHost, build_wheel, build_wheelhouse
from tests.harness.terminal import Terminal

pytestmark = pytest.mark.slow

MEMBER, NEWCOMER, OUTSIDER = "ada", "grace", "oscar"
DROP_IN = f"{DROP_INS}/paths.conf"
FIVE_MINUTES = 300
OF_THE_MACHINE = {"clock": "the clock", "trial-dump": "a trial dump"}
"""Checks whose outcome is the machine's: it may have no clock to synchronise with, and there is no direct path into
another container from one, which this host is."""


@pytest.fixture(scope="module")
def observatory(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a stack whose containers carry Compose's labels."""
    with ArcsecondStack(docker_engine, 16, labelled=True) as stack:
        (stack.install_dir / ".env").chmod(0o600)
        yield stack


@pytest.fixture(scope="module")
def systemd_host(docker_engine: Engine, observatory: ArcsecondStack) -> Iterator[SystemdHost]:
    """Return a host with real systemd."""
    with booted(docker_engine, observatory.directory) as host:
        yield host


@pytest.fixture(scope="module")
def fresh(
    systemd_host: SystemdHost,
    repository: Path,
    observatory: ArcsecondStack,
    tmp_path_factory: pytest.TempPathFactory,
) -> InstalledDaemon:
    """Return the daemon installed, and nothing set up."""
    wheel = build_wheel(repository, tmp_path_factory.mktemp("wheel"))
    wheels = build_wheelhouse(
        wheel, constraints=repository / "constraints.txt", into=tmp_path_factory.mktemp("wheelhouse")
    )
    systemd_host.install(repository, wheel, wheels)
    for user in (MEMBER, NEWCOMER, OUTSIDER):
        systemd_host.add_user(user)
    return InstalledDaemon(systemd_host, observatory)


@dataclass
class Done:
    """How a run of setup ended."""

    status: int
    said: str
    seconds: float = 0


def setup(daemon: InstalledDaemon, *options: str) -> Done:
    """Run `arcbackupd setup` without a terminal."""
    began = time.monotonic()
    done = daemon.host.run(["arcbackupd", "setup", *options], check=False, timeout=FIVE_MINUTES)
    return Done(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


@pytest.fixture(scope="module")
def first(fresh: InstalledDaemon) -> Done:
    """Return how setting it up went."""
    return setup(fresh, "--yes", "--user", MEMBER)


@pytest.fixture
def daemon(fresh: InstalledDaemon, first: Done) -> InstalledDaemon:
    """Return the daemon, set up."""
    assert first.status == 0, first.said
    return fresh


def written(daemon: InstalledDaemon) -> str:
    """Return all that setup could have written, with its times."""
    script = "stat -c '%n %Y %a %U:%G' /etc/arcbackupd/* $1/*; cat /etc/arcbackupd/* $1/*.conf; cat /etc/group"
    return daemon.host.run(["sh", "-c", script, "-", DROP_INS], check=False).stdout


# Before


def test_a_dry_run_shows_what_it_would_write_and_writes_nothing(fresh: InstalledDaemon) -> None:
    before = written(fresh)
    done = setup(fresh, "--dry-run", "--user", MEMBER)
    assert done.status == 0, done.said
    assert f'+install_dir = "{fresh.stack.install_dir}"' in done.said
    assert f'+database = "{fresh.stack.database}"' in done.said
    assert f"+ReadWritePaths={fresh.stack.shared_data}" in done.said
    assert f"usermod --append --groups arcbackup {MEMBER}" in done.said
    assert "systemctl enable arcbackupd.socket arcbackupd.service" in done.said
    assert written(fresh) == before
    assert not fresh.is_active()
    assert not fresh.stack.backups.exists()


def test_without_a_terminal_nothing_is_done_unless_one_says_yes(fresh: InstalledDaemon) -> None:
    before = written(fresh)
    done = setup(fresh)
    assert done.status == 4
    assert "Say --yes if you mean it" in done.said
    assert written(fresh) == before


def test_somebody_other_than_root_is_refused(fresh: InstalledDaemon) -> None:
    done = fresh.host.run(["arcbackupd", "setup", "--yes"], user=OUTSIDER, check=False)
    assert done.returncode == 4
    assert "sudo arcbackupd setup" in done.stderr


def test_a_wrong_password_is_told_and_nothing_is_written(fresh: InstalledDaemon) -> None:
    before = written(fresh)
    fresh.stack.write_env(POSTGRES_PASSWORD="wrong")
    try:
        done = setup(fresh, "--yes")
    finally:
        fresh.stack.write_env()
    assert done.status == 1
    assert f"The database refuses the password of {fresh.stack.user}." in done.said
    assert "Make POSTGRES_PASSWORD in .env the one that the server knows" in done.said
    assert "Nothing was changed, since a check failed." in done.said
    assert "wrong" not in done.said.replace("wrong-password", "")
    assert written(fresh) == before
    assert not fresh.is_active()


def test_without_the_units_it_says_how_to_install_them(fresh: InstalledDaemon) -> None:
    unit, away = "/usr/local/lib/systemd/system/arcbackupd.socket", "/root/arcbackupd.socket"
    fresh.host.run(["sh", "-c", f"mv {unit} {away} && systemctl daemon-reload"])
    try:
        done = setup(fresh, "--yes")
    finally:
        fresh.host.run(["sh", "-c", f"mv {away} {unit} && systemctl daemon-reload"])
    assert done.status == 2
    assert "systemd doesn't know arcbackupd.socket" in done.said
    assert "make install-host" in done.said


# Setting it up


def test_one_command_leads_to_a_running_service_and_a_listed_backup_within_five_minutes(
    daemon: InstalledDaemon, first: Done
) -> None:
    print(f"stopwatch: {first.seconds:.1f} s from `arcbackupd setup --yes` to the first backup")
    assert first.seconds < FIVE_MINUTES
    assert daemon.is_active()
    assert daemon.host.show(UNIT, "UnitFileState")["UnitFileState"] == "enabled"
    (listed,) = daemon.json("list", user=MEMBER)["backups"]
    assert listed["name"] in first.said
    assert str(daemon.stack.backups) in first.said
    assert daemon.entries(BACKUP=listed["name"])


def test_what_it_wrote_is_the_configuration_and_the_drop_in_for_root_alone(daemon: InstalledDaemon) -> None:
    assert f'#install_dir = "/srv/arcsecond"\ninstall_dir = "{daemon.stack.install_dir}"\n' in daemon.host.read(
        CONFIG
    )
    assert f"ReadWritePaths={daemon.stack.shared_data}\n" in daemon.host.read(DROP_IN)
    modes = daemon.host.run(["stat", "-c", "%a %U:%G", CONFIG, DROP_IN]).stdout.split("\n")
    assert modes[:2] == ["640 root:root", "644 root:root"]
    daemon.ctl("check-config")


def test_a_second_run_changes_nothing(daemon: InstalledDaemon) -> None:
    before, pid = written(daemon), daemon.pid
    done = setup(daemon, "--yes", "--user", MEMBER)
    assert done.status == 0, done.said
    assert "nothing needs to be changed" in done.said
    assert written(daemon) == before
    assert daemon.pid == pid


def test_what_the_operator_wrote_is_kept_and_replaced_only_by_force_with_a_copy(daemon: InstalledDaemon) -> None:
    other = daemon.stack.directory / "elsewhere"
    other.mkdir()
    for name in (".env", "docker-compose.yml"):
        (other / name).write_bytes((daemon.stack.install_dir / name).read_bytes())
    (other / ".env").chmod(0o600)
    text = daemon.host.read(CONFIG).replace("#keep_days = 14", "keep_days  =  30  # the dome is dark")
    daemon.host.write(CONFIG, text, mode=0o640)
    assert setup(daemon, "--yes").status == 0
    assert daemon.host.read(CONFIG) == text

    refused = setup(daemon, "--yes", "--install-dir", str(other))
    assert refused.status == 4
    assert "somebody wrote install_dir is" in refused.said
    assert daemon.host.read(CONFIG) == text

    done = setup(daemon, "--yes", "--install-dir", str(other), "--force")
    assert done.status == 0, done.said
    assert daemon.host.read(CONFIG) == text.replace(f'"{daemon.stack.install_dir}"', f'"{other}"')
    copies = daemon.host.run(["sh", "-c", f"cat {CONFIG}.*.bak"]).stdout
    assert copies == text
    daemon.host.run(["sh", "-c", f"mv {CONFIG}.*.bak {CONFIG}"])
    daemon.systemctl("restart")


def test_a_person_on_a_terminal_is_asked_who_may_look_and_whether_to_go_on(daemon: InstalledDaemon) -> None:
    argv = daemon.host.engine.argv("exec", "-it", daemon.host.name, "arcbackupd", "setup")
    with Terminal(argv, env=daemon.host.engine.env) as terminal:
        terminal.wait_for("Who may look at backups and take one")
        terminal.type("nobody-knows")
        terminal.wait_for("No such user: nobody-knows")
        terminal.wait_for("Who may look at backups and take one")
        terminal.type(NEWCOMER)
        terminal.wait_for(f"Add {NEWCOMER} to the group arcbackup")
        terminal.wait_for("Do it?")
        terminal.type("n")
        assert terminal.wait_end() == 4
        assert "Nothing was done." in terminal.text
    assert NEWCOMER not in daemon.host.read("/etc/group").partition("\narcbackup:")[2].partition("\n")[0]
    with Terminal(argv, env=daemon.host.engine.env) as terminal:
        terminal.wait_for("Who may look at backups and take one")
        terminal.type(NEWCOMER)
        terminal.wait_for("Do it?")
        terminal.type("y")
        assert terminal.wait_end() == 0, terminal.text
    assert daemon.json("list", user=NEWCOMER)["backups"]


# The doctor


def doctor(daemon: InstalledDaemon, status: int, *, user: str | None = None) -> dict[str, dict[str, Any]]:
    """Return what the doctor finds, by the names of the checks; it must end with that status."""
    found = daemon.json("doctor", user=user, status=status)["findings"]
    return {finding["name"]: finding for finding in found}


def healthy(daemon: InstalledDaemon) -> int:
    """Return the status with which the doctor ends where all is well, but for what is the machine's."""
    done = daemon.host.run(["arcbackupctl", "doctor"], check=False)
    ill = [line for line in done.stdout.splitlines() if line.startswith(("warning", "failed"))]
    titles = tuple(f"warning  {title}" for title in OF_THE_MACHINE.values())
    assert [line for line in ill if not line.startswith(titles)] == [], done.stdout
    return 1 if ill else 0


def test_where_all_is_well_the_doctor_says_so_of_every_check(daemon: InstalledDaemon) -> None:
    found = doctor(daemon, healthy(daemon), user=MEMBER)
    states = {name: finding["state"] for name, finding in found.items() if name not in OF_THE_MACHINE}
    assert states.pop("encryption") == "skipped"
    assert set(states.values()) == {"ok"}, found
    assert found["trial-dump"]["message"].startswith("The schema came out whole")
    assert found["hold"]["message"].endswith((".freeze.", "freezer.state."))
    assert daemon.stack.password not in str(found)
    assert not daemon.partials()


def test_a_stopped_database_is_told_with_what_to_do(daemon: InstalledDaemon) -> None:
    daemon.stack.stop_container(daemon.stack.database)
    try:
        found = doctor(daemon, 2)
        said = daemon.ctl("doctor", status=2)
    finally:
        daemon.stack.start_container(daemon.stack.database)
        daemon.stack.wait_database()
    assert found["database-container"]["state"] == "failed"
    assert f"docker start {daemon.stack.database}" in found["database-container"]["hint"]
    for name in ("database", "pg-dump", "trial-dump"):
        assert found[name]["state"] == "skipped"
        assert "the database's container" in found[name]["message"]
    assert f"failed   the database's container: {daemon.stack.database} is not running." in said
    assert "1 check failed" in said


def test_an_env_for_all_eyes_and_a_changed_configuration_are_warnings(daemon: InstalledDaemon) -> None:
    text = daemon.host.read(CONFIG)
    env = daemon.stack.install_dir / ".env"
    env.chmod(0o644)
    daemon.host.write(
        CONFIG, f"{text}\n[retention]\nkeep_days = 99\n".replace("\n[retention]\n\n", "\n"), mode=0o640
    )
    try:
        found = doctor(daemon, 2)
        assert found["configuration"]["state"] == "failed"  # a table twice
        daemon.host.write(
            CONFIG, f'{text}\n[destinations.nas]\ntype = "directory"\npath = "/mnt/nas"\n', mode=0o640
        )
        found = doctor(daemon, 1)
    finally:
        env.chmod(0o600)
        daemon.host.write(CONFIG, text, mode=0o640)
    assert found["env"]["state"] == "warning"
    assert f"chmod 600 {env}" in found["env"]["hint"]
    assert found["configuration"]["state"] == "warning"
    assert "systemctl reload arcbackupd" in found["configuration"]["hint"]


def test_a_socket_that_is_open_to_everybody_is_told(daemon: InstalledDaemon) -> None:
    daemon.host.run(["chmod", "666", SOCKET])
    try:
        found = doctor(daemon, 2)["socket"]
    finally:
        daemon.host.run(["chmod", "660", SOCKET])
    assert (found["state"], "Everyone on this host" in found["message"]) == ("failed", True)


@contextmanager
def small_disk(daemon: InstalledDaemon) -> Iterator[None]:
    """Within it the shared data are on a disk without room for a backup."""
    place = str(daemon.stack.shared_data)
    daemon.host.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", place])
    try:
        yield
    finally:
        daemon.host.run(["umount", place])


def test_too_little_space_is_told(daemon: InstalledDaemon) -> None:
    with small_disk(daemon):
        found = doctor(daemon, 2)
    assert found["directory"]["state"] == "ok"
    assert found["space"]["state"] == "failed"
    assert "too full for a backup" in found["space"]["message"]
    assert "retention.keep_days" in found["space"]["hint"]


def test_a_drop_in_that_is_not_in_force_is_told_and_so_is_a_directory_that_can_not_be_written(
    daemon: InstalledDaemon,
) -> None:
    text = daemon.host.read(DROP_IN)
    daemon.host.write(DROP_IN, "[Service]\nNice=0\n")
    assert "daemon-reload" in doctor(daemon, 1)["unit"]["hint"]
    daemon.host.run(["systemctl", "daemon-reload"])
    unit = doctor(daemon, 1)["unit"]
    assert unit["message"] == f"Changed since the daemon started: {DROP_IN}."
    assert unit["hint"] == "`systemctl restart arcbackupd.service`."
    daemon.systemctl("restart")
    found = doctor(daemon, 2)
    assert found["unit"]["state"] == "ok"
    assert found["directory"]["state"] == "failed"
    assert f"ReadWritePaths={daemon.stack.shared_data}" in found["directory"]["hint"]

    # and setup repairs it, without taking away what somebody wrote there
    done = setup(daemon, "--yes")
    assert done.status == 0, done.said
    assert daemon.host.read(DROP_IN).startswith("[Service]\nNice=0\n")
    assert f"ReadWritePaths={daemon.stack.shared_data}" in daemon.host.read(DROP_IN)
    healthy(daemon)
    daemon.host.write(DROP_IN, text)
    daemon.host.run(["systemctl", "daemon-reload"])
    daemon.systemctl("restart")


def test_a_backend_that_can_not_be_held_is_a_warning(daemon: InstalledDaemon) -> None:
    daemon.drop_in("cgroups", "[Service]\nReadOnlyPaths=/sys/fs/cgroup\nReadWritePaths=\n" + _paths(daemon))
    daemon.systemctl("restart")
    try:
        found = doctor(daemon, 1)
    finally:
        daemon.host.run(["rm", f"{DROP_INS}/cgroups.conf"])
        daemon.host.run(["systemctl", "daemon-reload"])
        daemon.systemctl("restart")
    assert found["hold"]["state"] == "warning"
    assert "Read-only file system" in found["hold"]["message"]


def _paths(daemon: InstalledDaemon) -> str:
    return f"ReadWritePaths={daemon.stack.shared_data} -/run/arcbackupd\n"


def test_a_destination_that_can_not_be_used_is_a_warning(daemon: InstalledDaemon) -> None:
    text = daemon.host.read(CONFIG)
    more = '\n[destinations.nas]\ntype = "directory"\npath = "/mnt/nas/arcsecond"\n'
    daemon.host.write(CONFIG, text + more, mode=0o640)
    daemon.systemctl("restart")
    try:
        found = doctor(daemon, 1)
    finally:
        daemon.host.write(CONFIG, text, mode=0o640)
        daemon.systemctl("restart")
    assert found["destination-nas"]["state"] == "warning"
    assert "/mnt/nas/arcsecond" in found["destination-nas"]["message"]


def test_who_may_not_ask_the_daemon_is_told_which_group_to_join(daemon: InstalledDaemon) -> None:
    found = doctor(daemon, 3, user=OUTSIDER)
    assert found["socket"]["state"] == "failed"
    assert f"usermod -aG arcbackup {OUTSIDER}" in found["socket"]["hint"]
    assert found["service"]["state"] == "ok"


def test_a_daemon_that_is_down_is_told_with_what_systemd_says(daemon: InstalledDaemon) -> None:
    text = daemon.host.read(CONFIG)
    daemon.host.run(["systemctl", "stop", "arcbackupd.socket", "arcbackupd.service"])
    try:
        found = doctor(daemon, 5)
        assert found["service"]["message"] == "arcbackupd.service is inactive (dead)."
        assert "systemctl start arcbackupd.service" in found["service"]["hint"]
        assert found["socket"]["state"] == "failed"
        daemon.host.write(CONFIG, f"{text}\nnonsense\n", mode=0o640)
        daemon.host.run(["systemctl", "start", "arcbackupd.service"], check=False)
        wait_until(lambda: "not valid TOML" in daemon.log(), "the refusal in the journal", interval=0.2)
        said = _said(daemon)
    finally:
        daemon.host.write(CONFIG, text, mode=0o640)
        for verb in ("stop", "start"):
            daemon.host.run(["systemctl", verb, "arcbackupd.socket", "arcbackupd.service"])
    assert "not valid TOML" in said
    healthy(daemon)


def _said(daemon: InstalledDaemon) -> str:
    done: subprocess.CompletedProcess[str] = daemon.host.run(["arcbackupctl", "doctor"], check=False, timeout=120)
    assert done.returncode == 5, done.stdout
    return done.stdout
