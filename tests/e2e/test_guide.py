"""docs/guide.md, from its first command to its last: what it says to type is typed, and shows what it says.

What the reader does with make, Arcsecond's own tool or Compose, none of which is here, is done to the same
containers in its place: the actions below.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.console import Action, Command, Console, steps
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack

pytestmark = pytest.mark.slow

ROWS = 2_000
"""Of photometry; the guide tells how many there are."""
PAGE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
ALL = list(steps(PAGE))
BY_HAND = {"dump": {"schedule": "0 0 1 1 *"}}
"""No dump comes by itself between those of the guide."""


class Observatory:
    """What the guide is about: containers, a daemon beside them, and what the reader does to both."""

    def __init__(self, engine: Engine, bin_dir: Path, running: ExitStack) -> None:
        self._engine = engine
        self._bin = bin_dir
        self._running = running
        self.places: dict[str, str] = {}
        self._begin(running.enter_context(ArcsecondStack(engine, 16)))
        self.stack.seed(ROWS)

    def _begin(self, stack: ArcsecondStack) -> None:
        self.stack = stack
        self.daemon = Daemon(stack, jobs=BY_HAND, boot={"min_interval": "1s"})
        self._let_psql_in()
        self._running.callback(self.daemon.kill)
        self.places.clear()
        self.places |= {
            "/srv/arcsecond/data": str(stack.shared_data),
            "/srv/arcsecond": str(stack.install_dir),
            "/etc/arcbackupd/config.toml": str(self.daemon.config),
            "arcsecond-db": stack.database,
            "arcsecond-api": stack.backend,
        }

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        """What the comments of the guide name."""
        return {
            "install": self.install,
            "upgrade Arcsecond": self.upgrade,
            "go back to the release before": self.go_back,
            "rotate the password": self.rotate_password,
            "stop the services": self.stop_services,
            "continue on the new host": self.continue_on_new_host,
            "start PostgreSQL 18 on an empty volume": self.start_postgres_18,
            "start the services": self.start_services,
        }

    def environment(self) -> dict[str, str]:
        """The reader's: arcbackupctl and docker are found, and speak to this daemon and engine."""
        path = os.pathsep.join([str(self._bin), os.environ.get("PATH", os.defpath)])
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("ARCBACKUPD_")},
            **self._engine.env,
            "PATH": path,
            "ARCBACKUPD_SOCKET": str(self.stack.control_socket),
            "ARCBACKUPD_CONFIG": str(self.daemon.config),
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "200",
        }

    def install(self) -> None:
        self.daemon.start()
        self.daemon.wait_boot_dumps(1)

    def upgrade(self) -> None:
        self._migration = self.stack.add_migration()
        by_hand = self.daemon.path(self.daemon.names()[1])
        # One by hand that is younger would stand for that of the start.
        wait_until(lambda: time.time() - by_hand.stat().st_ctime > 61, "the backup by hand to be old", seconds=90)
        self._restarted(self.stack.replace_backend)

    def go_back(self) -> None:
        self.stack.remove_migration(self._migration)
        self._restarted(self.stack.replace_backend)

    def rotate_password(self) -> None:
        self.stack.psql(f"ALTER ROLE {self.stack.user} PASSWORD 'rotated'")
        self.stack.password = "rotated"
        self.stack.write_env()
        self._let_psql_in()

    def stop_services(self) -> None:
        self.stack.stop_container(self.stack.backend)

    def start_services(self) -> None:
        # The dump from just before stands for the one of this start.
        self.stack.start_container(self.stack.backend)
        self.stack.wait_backend()

    def continue_on_new_host(self) -> None:
        """The old host's daemon stays behind; .env and the shared data have come along."""
        old = self.stack
        self.daemon.stop()
        new = ArcsecondStack(self._engine, 16)
        new.password = old.password
        self._begin(self._running.enter_context(new))
        self.daemon.start()
        self.daemon.wait_boot_dumps(1)
        shutil.copytree(old.backups, new.backups, dirs_exist_ok=True)

    def start_postgres_18(self) -> None:
        data, _ = self.stack._volumes()
        self._engine.run("rm", "-f", self.stack.database)
        self._engine.run("volume", "rm", data)
        self._engine.run("volume", "create", data)
        self.stack.major = 18
        self.stack.create_database_container()
        self._let_psql_in()

    def _restarted(self, restart: Callable[[], None]) -> None:
        """Restart the backend, and wait for the dump that is taken then."""
        before = len(self.daemon.names())
        restart()
        self.daemon.wait_boot_dumps(before + 1)

    def _let_psql_in(self) -> None:
        """As PostgreSQL's own image does: on its socket it asks nobody for a password."""
        line = f"*:*:*:*:{self.stack.password}"
        write = 'umask 077; printf "%s\\n" "$0" >~/.pgpass'
        self.stack.exec(self.stack.database, "sh", "-c", write, line)


@pytest.fixture
def observatory(docker_engine: Engine, tmp_path: Path) -> Iterator[Observatory]:
    """Return one as the guide's reader has it, before the daemon is installed."""
    for name, module in (("arcbackupctl", "arcbackupd.ctl.main"), ("arcbackupd", "arcbackupd")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    with ExitStack() as running:
        yield Observatory(docker_engine, tmp_path, running)


@pytest.mark.timeout(900)
def test_the_guide_runs_from_its_first_command_to_its_last(observatory: Observatory) -> None:
    names: dict[str, str] = {}
    for step in ALL:
        Console(observatory.environment(), observatory.actions, observatory.places, names).follow(step)


def test_the_guide_has_commands_for_each_of_its_parts() -> None:
    assert sum(isinstance(step, Command) for step in ALL) > 25
    assert {step.name for step in ALL if isinstance(step, Action)} >= {"install", "upgrade Arcsecond"}
