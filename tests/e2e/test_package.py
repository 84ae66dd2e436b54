"""The Debian package on a fresh host with real systemd, from installation to purge, looking after a real stack.

What runs in it is the one file, with the host's own Python. The tests follow one another on the same host.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from arcbackupd import __version__
from arcbackupd.messages import MessageId
from tests.e2e.support import booted, change, upgrade_in_a_dump
from tests.harness.engine import Engine
from tests.harness.installed import ADMINS, CONFIG, NEVER, InstalledDaemon
from tests.harness.package import build_one_file, build_package
from tests.harness.plugins import build_plugin
from tests.harness.process import run
from tests.harness.stack import ArcsecondStack
from tests.harness.systemd_host import SystemdHost
from tests.harness.tools import tool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 300_000
"""Enough that what is on its way between pg_dump and the file, some MiB, isn't all."""

OLD = "0.0.1"
CACHE = "/var/cache/arcbackupd"
PLUGINS = "/usr/local/lib/arcbackupd/plugins"
MEMBER, OUTSIDER = "ada", "oscar"

EM_AARCH64 = 183
"""The kind of machine that a shared library is for (elf.h)."""

NOT_OURS = ("/dev/*", "/proc/*", "/run/*", "/sys/*", "/tmp/*", "/srv/*", "/var/log/*", "/var/lib/dpkg/*", "*.pyc")
"""Places where the host, dpkg and Python write what they like."""

WEATHER = """
    from arcbackupd.jobs import Job, JobOutcome, JobSettings

    class WeatherJob(Job[JobSettings]):
        name = "weather"
        Settings = JobSettings

        async def run(self) -> JobOutcome:
            return JobOutcome("clear sky")
"""


@dataclass(frozen=True)
class Packages:
    """The package of this repository, and the same of a lower version."""

    new: Path
    old: Path


@pytest.fixture(scope="module")
def packages(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Return both, built side by side: most of it is waiting for the network."""
    tool("debhelper")
    directory = tmp_path_factory.mktemp("packages")
    with ThreadPoolExecutor() as pool:
        new = pool.submit(build_package, repository, directory / "new")
        old = pool.submit(build_package, repository, directory / "old", version=OLD)
        return Packages(new.result(), old.result())


@pytest.fixture(scope="module")
def observatory(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a stack with some data."""
    with ArcsecondStack(docker_engine, 16, labelled=True) as stack:
        stack.seed(ROWS)
        yield stack


@pytest.fixture(scope="module")
def fresh(docker_engine: Engine, observatory: ArcsecondStack, packages: Packages) -> Iterator[SystemdHost]:
    """Return a host with real systemd that has both packages' files, and nothing of ours installed."""
    with booted(docker_engine, observatory.directory) as host:
        host.copy_in(packages.new, "/srv/new.deb")
        host.copy_in(packages.old, "/srv/old.deb")
        yield host


@dataclass(frozen=True)
class Installation:
    """A host where the lower version was installed."""

    host: SystemdHost
    files_before: set[str]
    said: str


@pytest.fixture(scope="module")
def installation(fresh: SystemdHost) -> Installation:
    """Return the host as `apt install` leaves it."""
    for user in (MEMBER, OUTSIDER):
        fresh.add_user(user)
    before = files(fresh)
    return Installation(fresh, before, dpkg(fresh, "--install", "/srv/old.deb"))


@pytest.fixture(scope="module")
def daemon(installation: Installation, observatory: ArcsecondStack) -> InstalledDaemon:
    """Return the daemon, set up, with the tests' configuration."""
    host = installation.host
    said = host.run(["arcbackupd", "setup", "--yes", "--user", MEMBER], check=False, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr
    host.run(["groupadd", ADMINS])
    daemon = InstalledDaemon(host, observatory)
    assert len(daemon.names()) == 1, "installed and set up, it has the first backup"
    daemon.configure()
    daemon.systemctl("restart")
    return daemon


def dpkg(host: SystemdHost, *arguments: str) -> str:
    """Run dpkg and return what it, and the package's scripts, said."""
    done = host.run(["dpkg", *arguments], env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=300)
    return done.stdout + done.stderr


def files(host: SystemdHost) -> set[str]:
    """Return what is on the host, but for the places where others write."""
    left_out = [word for pattern in NOT_OURS for word in ("!", "-path", pattern)]
    return set(host.run(["find", "/", "-xdev", *left_out]).stdout.splitlines())


def unpacked(host: SystemdHost, version: str) -> str:
    """Return the only directory where a version unpacked itself for everybody."""
    (found,) = host.run(["sh", "-c", f"ls -d {CACHE}/{version}-*"]).stdout.split()
    return found


# The package itself


def test_lintian_finds_nothing_to_say_about_it(packages: Packages) -> None:
    lintian = [tool("lintian"), "--fail-on", "error,warning", "--allow-root", "--tag-display-limit", "0"]
    done = run([*lintian, str(packages.new)], timeout=300, check=False)
    assert (done.stdout + done.stderr).strip() == ""
    assert done.returncode == 0


def test_the_one_file_is_built_for_arm_too(repository: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build_one_file(repository, tmp_path / "arcbackupd", arch="aarch64")) as archive:
        libraries = [name for name in archive.namelist() if ".so" in Path(name).suffixes]
        machines = {int.from_bytes(archive.read(name)[18:20], "little") for name in libraries}
    assert machines == {EM_AARCH64}


# Installing


def test_installing_makes_the_group_starts_nothing_and_says_what_comes_next(installation: Installation) -> None:
    host = installation.host
    assert "Next: arcbackupd setup" in installation.said
    assert host.run(["getent", "group", "arcbackup"]).stdout
    for unit in ("arcbackupd.service", "arcbackupd.socket"):
        shown = host.show(unit, "ActiveState", "UnitFileState", "LoadState")
        assert shown == {"ActiveState": "inactive", "UnitFileState": "disabled", "LoadState": "loaded"}
    assert host.run(["test", "-e", CONFIG], check=False).returncode == 1
    assert OLD in host.run(["arcbackupd", "--version"]).stdout
    said = host.run(["arcbackupd", "check-config"], check=False)
    assert (said.returncode, "There is no configuration file" in said.stderr) == (2, True)
    explained = host.run(["journalctl", "--list-catalog", MessageId.DUMP_FAILED]).stdout
    assert "A dump failed" in explained


def test_it_is_unpacked_once_and_run_by_everybody_from_where_only_root_writes(installation: Installation) -> None:
    host = installation.host
    place = unpacked(host, OLD)
    assert (
        host.run(["find", CACHE, "(", "!", "-user", "root", "-o", "-perm", "/022", "!", "-type", "l", ")"]).stdout
        == ""
    )
    said = host.run(["arcbackupctl", "--version"], user=OUTSIDER)
    assert (said.stdout.strip(), said.stderr) == (f"arcbackupctl {OLD}", "")
    assert host.run(["test", "-e", f"/home/{OUTSIDER}/.cache"], check=False).returncode == 1
    assert host.run(["readlink", f"{place}/bin/python"]).stdout.startswith("/usr/bin/python3.")


def test_without_it_a_user_has_one_of_his_own_which_root_never_runs(installation: Installation) -> None:
    host = installation.host
    place = unpacked(host, OLD)
    name, home = Path(place).name, f"/home/{OUTSIDER}"
    host.run(["mv", place, "/srv/away"])
    try:
        for _ in range(2):
            said = host.run(["arcbackupctl", "--version"], user=OUTSIDER)
            assert said.stdout.strip() == f"arcbackupctl {OLD}"
        assert said.stderr == "", "it unpacked itself again"
        trap = f"{home}/.cache/arcbackupd/{name}/bin/arcbackupctl"
        host.write(trap, "print('trapped')\n")
        assert "trapped" in host.run(["arcbackupctl"], user=OUTSIDER).stdout
        said = host.run(["arcbackupctl", "--version"], env={"HOME": home})
        assert said.stdout.strip() == f"arcbackupctl {OLD}"
        assert unpacked(host, OLD) == place
        host.run(["chown", OUTSIDER, CACHE])
        refused = host.run(["arcbackupctl", "--version"], check=False)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"Others can write to {CACHE}" in refused.stderr
    finally:
        host.run(["chown", "root", CACHE])
        host.run(["rm", "-rf", place, f"{home}/.cache"])
        host.run(["mv", "/srv/away", place])


def test_the_name_it_is_called_by_says_what_it_is(installation: Installation) -> None:
    host = installation.host
    assert host.run(["arcbackupd", "ctl", "--version"]).stdout.startswith("arcbackupctl ")
    assert host.run(["arcbackupd", "--version"]).stdout.startswith("arcbackupd, ")
    host.run(["ln", "-s", "/usr/bin/arcbackupd", "/usr/local/bin/arcbackupd-setup"])
    said = host.run(["arcbackupd-setup", "--help"], check=False)
    host.run(["rm", "/usr/local/bin/arcbackupd-setup"])
    assert "setup" in said.stdout + said.stderr


# Running


def test_its_daemon_takes_backups_with_the_hosts_python(daemon: InstalledDaemon) -> None:
    change(daemon.stack)
    name = daemon.json("backup", user=MEMBER)["name"]
    assert daemon.names()[0] == name
    daemon.ctl("inspect", name, "--verify", user=MEMBER)
    assert daemon.json("status")["state"] == "ok"
    executable = daemon.host.run(["readlink", f"/proc/{daemon.pid}/exe"]).stdout.strip()
    assert executable.startswith("/usr/bin/python3.")
    assert daemon.host.run(["systemd-analyze", "verify", "arcbackupd.service"]).stderr == ""


def test_a_plugin_of_a_third_party_runs_in_it(daemon: InstalledDaemon, tmp_path: Path) -> None:
    wheel = build_plugin(tmp_path, "observatory_weather", WEATHER, "weather = observatory_weather:WeatherJob")
    daemon.host.copy_in(wheel, f"/srv/{wheel.name}")
    daemon.host.run(["mkdir", "-p", PLUGINS])
    # What `pip install --target` does, which this host lacks.
    daemon.host.run(["python3", "-m", "zipfile", "-e", f"/srv/{wheel.name}", PLUGINS])
    daemon.configure(jobs={"weather": {"schedule": NEVER}})
    daemon.ctl("check-config")
    daemon.systemctl("restart")
    daemon.ctl("jobs", "run", "weather")
    daemon.wait_entry(JOB="weather", MESSAGE="Job weather done: clear sky")


def test_after_an_upgrade_of_the_hosts_python_it_unpacks_itself_anew_in_its_sandbox(
    daemon: InstalledDaemon,
) -> None:
    place = unpacked(daemon.host, OLD)
    daemon.host.run(["ln", "-sfn", "/usr/bin/python3.0", f"{place}/bin/python"])
    daemon.systemctl("restart")
    assert daemon.host.run(["readlink", f"{place}/bin/python"]).stdout.strip() != "/usr/bin/python3.0"
    assert daemon.names()


# Upgrading


def test_an_upgrade_keeps_all_and_lets_a_dump_at_hand_finish(daemon: InstalledDaemon) -> None:
    daemon.configure(retention={"keep_days": 99})
    config, before = daemon.host.read(CONFIG), daemon.files()
    daemon.from_now_on()
    upgrade_in_a_dump(daemon, ["dpkg", "--install", "/srv/new.deb"])
    assert __version__ in daemon.host.run(["arcbackupd", "--version"]).stdout
    assert "note:" not in daemon.ctl("list"), "the daemon that runs is the old one"
    (new,) = set(daemon.files()) - set(before)
    daemon.ctl("inspect", new, "--verify")
    assert daemon.host.read(CONFIG) == config
    assert daemon.host.show("arcbackupd.service", "UnitFileState") == {"UnitFileState": "enabled"}
    assert not daemon.entries(MESSAGE_ID=MessageId.DUMP_FAILED)


def test_what_the_old_version_unpacked_goes_once_nothing_runs_from_it(daemon: InstalledDaemon) -> None:
    host = daemon.host
    host.run(["test", "-d", unpacked(host, OLD)])
    host.run(["rm", "-rf", unpacked(host, __version__)])
    host.run(["arcbackupd", "--version"])
    assert host.run(["sh", "-c", f"ls {CACHE}"]).stdout.split() == [Path(unpacked(host, __version__)).name]
    assert daemon.names()


# Removing


def test_removed_it_leaves_settings_for_when_it_comes_again_and_purged_nothing_but_backups(
    daemon: InstalledDaemon, installation: Installation
) -> None:
    host, backups = daemon.host, daemon.files()
    dpkg(host, "--remove", "arcbackupd")
    assert host.run(["test", "-e", "/usr/bin/arcbackupd"], check=False).returncode == 1
    assert host.run(["pgrep", "-f", "arcbackupd"], check=False).stdout == ""
    assert host.read(CONFIG)

    dpkg(host, "--install", "/srv/new.deb")
    assert daemon.is_active(), "installed again, it waits for the next boot"
    assert daemon.names()

    said = dpkg(host, "--purge", "arcbackupd")
    assert "Still there: the backups" in said
    assert daemon.files() == backups
    host.run(["rm", "-rf", "/usr/local/lib/arcbackupd"])  # the plugin, which isn't the package's
    assert {path for path in files(host) - installation.files_before if not _is_hosts(path)} == set()


def _is_hosts(path: str) -> bool:
    return path.startswith(("/etc/group", "/etc/gshadow", "/var/lib/systemd/catalog", "/home/"))
