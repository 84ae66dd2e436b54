"""The demo: the main job as an operator lives it, on a throwaway database, every line of it real output."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from arcbackupd.demo.server import EmbeddedPostgres

DATABASE = "arcsecond_docker"
_ROWS = 300_000
_START_SECONDS = 30
_BOOT_SECONDS = 60
_PROJECT = Path(__file__).parent / "observatory"


class DemoFailed(Exception):
    """A step didn't do what it should; the text says which, and what was seen."""


def tell(*, keep: bool) -> int:
    """Run the whole story; return the exit status. ``keep`` leaves everything running at its end."""
    home = Path(tempfile.mkdtemp(prefix="arcbackupd-demo-", dir="/tmp"))  # a socket's path must be short
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        observatory = Observatory(home)
        stack.callback(observatory.close)
        try:
            _story(observatory)
        except (DemoFailed, subprocess.SubprocessError) as error:
            print(f"\nThe demo failed: {error}", file=sys.stderr)
            return 1
        if keep:
            stack.pop_all()
            observatory.leave_running()
        else:
            print("\nThat was all; the database, the daemon and the backups are removed again.")
    return 0


def _story(observatory: Observatory) -> None:
    _say("A throwaway PostgreSQL, a Django backend with real migrations, some hundred thousand rows")
    observatory.build()
    _say("The daemon, in the foreground; below are its own log lines")
    observatory.start_daemon()
    _say("The backend boots. The daemon sees it and takes a dump")
    observatory.start_backend()
    observatory.wait_for_boot_dump()
    observatory.ctl("list")
    observatory.ctl("inspect", "1")
    _say("An observer adds data; a second dump, by hand")
    observatory.observe()
    observatory.ctl("backup")
    _say("Nothing changed since: a third dump takes no space")
    observatory.ctl("backup")
    _say("An upgrade brings a migration: what is a backup from before it worth?")
    observatory.upgrade()
    observatory.ctl("list")
    observatory.listing()
    _say("What would pruning remove, and why does the rest stay?")
    observatory.ctl("prune", "--dry-run")
    _say("A disaster: tables are dropped while the observatory works. What would a restore do?")
    name = observatory.newest()
    observatory.lose_tables()
    observatory.ctl("restore", name, "--dry-run")
    _say("The restore: loaded beside the live database, checked, swapped in")
    observatory.ctl("restore", name, "--yes")
    observatory.count()
    _say("Not the backup that was meant? What was replaced is still there, for a day")
    observatory.ctl("rollback", "--yes")
    observatory.count()
    _say("And back once more: that was the right one after all")
    observatory.ctl("rollback", "--yes")
    observatory.count()
    _say("Am I safe?")
    observatory.ctl("status")


class Observatory:
    """A self-hosted observatory in one directory: database, backend, daemon."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._project = home / "backend"
        self._install = home / "install"
        self._pidfile = home / "backend.pid"
        self._config = home / "config.toml"
        self._socket = home / "control.sock"
        self._postgres = EmbeddedPostgres(superuser=DATABASE)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._service_manager = [sys.executable, "-m", "arcbackupd.demo.service", str(home)]

    # Its parts.

    def build(self) -> None:
        """Start the database, migrate and fill it, write what an installation and a daemon have."""
        shutil.copytree(_PROJECT, self._project, ignore=shutil.ignore_patterns("__pycache__"))
        self._install.mkdir()
        (self._home / "data").mkdir()
        self._postgres.start()
        self._postgres.create_database(DATABASE)
        self._manage("migrate", "--noinput", "-v", "0")
        self._manage("seed", "--rows", str(_ROWS))
        env = self._install / ".env"
        env.touch(mode=0o600)
        env.write_text(f"SHARED_DATA_PATH={self._home}/data\nPOSTGRES_PASSWORD=not-needed-by-a-throwaway-server\n")
        self._config.write_text(self._configuration())
        command = [sys.executable, "manage.py", "runserver", "--noreload", "127.0.0.1:0"]
        service = {"argv": command, "cwd": str(self._project), "environment": self._backend_environment()}
        (self._home / "backend.json").write_text(json.dumps(service))

    def start_daemon(self) -> None:
        """Start it, and wait until it says that it is ready, as systemd would."""
        with _ready_socket(self._home / "notify") as ready:
            command = [sys.executable, "-m", "arcbackupd", "--config", str(self._config)]
            environment = {**os.environ, "NOTIFY_SOCKET": str(self._home / "notify")}
            sys.stdout.flush()
            self._daemon = subprocess.Popen(command, env=environment, start_new_session=True)
            _await_ready(ready, self._daemon)

    def start_backend(self) -> None:
        """Start the application anew, which leaves a pidfile as a server on bare metal does."""
        self._backend("stop")
        self._backend("start")

    def close(self) -> None:
        """End all of it."""
        if self._daemon:
            self._daemon.terminate()
            self._daemon.wait(timeout=_START_SECONDS)
        self._backend("stop")
        self._postgres.close()

    def leave_running(self) -> None:
        """Say how to talk to what goes on running, and how to end it."""
        removable = " ".join(str(path) for path in [self._home, *self._postgres.detach()])
        pids = [self._pidfile.read_text().strip(), *([str(self._daemon.pid)] if self._daemon else [])]
        here = Path(sys.executable).parent
        print(
            f"\nIt goes on running. Talk to it:\n\n"
            f"    export ARCBACKUPD_SOCKET={self._socket}\n"
            f"    {here}/arcbackupctl list\n\n"
            f"Its configuration is {self._config}. End it:\n\n"
            f"    kill {' '.join(pids)} {self._postgres.pid}; sleep 2; rm -r {removable}"
        )

    # What happens to it.

    def ctl(self, *arguments: str) -> None:
        """Run arcbackupctl as an operator would. Raise DemoFailed when it fails."""
        shown = shlex.join(["arcbackupctl", *arguments])
        print(f"$ {shown}", flush=True)
        command = [sys.executable, "-m", "arcbackupd.ctl.main", *arguments]
        environment = {**os.environ, "ARCBACKUPD_SOCKET": str(self._socket)}
        done = subprocess.run(command, env=environment, timeout=_BOOT_SECONDS, check=False)
        print(flush=True)
        if done.returncode != 0:
            raise DemoFailed(f"`{shown}` ended with {done.returncode}")

    def observe(self) -> None:
        """Change the database as the application does."""
        changed = "UPDATE targets_target SET priority = 1 WHERE id % 10 = 0; SELECT count(*) FROM targets_target"
        print(f"$ psql -c {shlex.quote(changed)}\n{self._postgres.psql(changed, DATABASE)}\n", flush=True)

    def newest(self) -> str:
        """The name of the newest backup."""
        from arcbackupd.control.client import Connection

        with Connection(str(self._socket)) as daemon:
            return str(daemon.call("List")["backups"][0]["name"])

    def lose_tables(self) -> None:
        """Drop the tables with the data, as a wrong command does."""
        lost = "DROP TABLE observations_photometry, observations_observation CASCADE"
        print(f"$ psql -c {shlex.quote(lost)}\n{self._postgres.psql(lost, DATABASE)}\n", flush=True)

    def count(self) -> None:
        """Show which tables are there, and how many rows they have."""
        tables = "SELECT relname, n_live_tup FROM pg_stat_user_tables WHERE relname ~ '^(obs|targ)' ORDER BY 1"
        self._postgres.psql("ANALYZE", DATABASE)
        print(f"$ psql -c {shlex.quote(tables)}\n{self._postgres.psql(tables, DATABASE)}\n", flush=True)

    def upgrade(self) -> None:
        """Give the code one more migration, and restart the backend with it."""
        for migration in sorted((_PROJECT / "pending").glob("0*.py")):
            shutil.copy(migration, self._project / "targets" / "migrations")
        self._manage("migrate", "--noinput", "-v", "0")
        self.start_backend()

    def listing(self) -> None:
        """Show the files themselves: an unchanged dump is one more name of the same file."""
        backups = self._home / "data" / "db_backups"
        print("$ ls -lis db_backups", flush=True)
        subprocess.run(["ls", "-lis", str(backups)], check=True)

    def wait_for_boot_dump(self) -> None:
        """Wait until it is published. Raise DemoFailed when it does not come."""
        from arcbackupd.control.client import Connection

        deadline = time.monotonic() + _BOOT_SECONDS
        with Connection(str(self._socket)) as daemon:
            while all(backup["reason"] != "boot" for backup in daemon.call("List")["backups"]):
                if time.monotonic() > deadline:
                    raise DemoFailed("the dump of the backend's boot didn't come")
                time.sleep(0.2)

    def _backend(self, verb: str) -> None:
        subprocess.run([*self._service_manager, verb, "backend"], check=True, timeout=_START_SECONDS)

    def _manage(self, *arguments: str) -> None:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=self._project, env=self._backend_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DemoFailed(f"manage.py {arguments[0]} failed: {done.stderr.strip()}")

    def _backend_environment(self) -> dict[str, str]:
        return {**os.environ, **self._database_variables(), "PYTHONDONTWRITEBYTECODE": "1"}

    def _database_variables(self) -> dict[str, str]:
        return {"POSTGRES_HOST": str(self._postgres.socket_dir), "POSTGRES_DB": DATABASE, "POSTGRES_USER": DATABASE}

    def _configuration(self) -> str:
        variables = [f"{name}={value}" for name, value in self._database_variables().items()]
        manage = ["env", *variables, "PYTHONDONTWRITEBYTECODE=1", sys.executable, "manage.py"]
        account = self._postgres.user or "root"
        return f"""\
install_dir = "{self._install}"
state_dir = "{self._home}/state"

[engine]
kind = "local"
services = ["backend"]
manage = {manage!r}

[engine.local]
service_manager = {self._service_manager!r}
bin_dir = "{self._postgres.bin_dir}"
host = "{self._postgres.socket_dir}"
os_user = "{account}"
manage_dir = "{self._project}"
manage_os_user = "root"
backend_pidfile = "{self._pidfile}"

[control]
socket = "{self._socket}"
group = "{grp.getgrgid(os.getgid()).gr_name}"
"""


@contextlib.contextmanager
def _ready_socket(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(path))
        ready.settimeout(0.5)
        yield ready


def _await_ready(ready: socket.socket, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while daemon.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in ready.recv(4096):
                return
    raise DemoFailed(f"the daemon wasn't ready within {_START_SECONDS} s")


def _say(text: str) -> None:
    print(f"\n=== {text}\n", flush=True)
