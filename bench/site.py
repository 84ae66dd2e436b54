"""The place where it all happens: the stack under Arcsecond's own names, our daemon beside it, and commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import data
from bench.parameters import Parameters
from tests.harness.daemon import Daemon
from tests.harness.engine import LABEL, Engine
from tests.harness.process import CommandFailed, run, wait_until
from tests.harness.stack import PROBE, ArcsecondStack

DATABASE, BACKEND = "arcsecond-db", "arcsecond-api"
"""Arcsecond's client knows its containers by these names only."""

HOUR = 3600.0

QUIET: dict[str, Any] = {
    "jobs": {"dump": {"enabled": False}, "prune": {"enabled": False}},
    # The starts of the backend that measurements cause are not what is measured.
    "boot": {"min_interval": "48h"},
    # Every dump is a file of its own, as a first one is.
    "dump": {"link_unchanged": False},
}
"""What keeps the daemon from working by itself between what is measured."""


@dataclass
class Site:
    """A running stack, and what is known of its data."""

    stack: ArcsecondStack
    parameters: Parameters
    length: int = 0
    """Bytes of SQL that pg_dump writes now."""
    _filled: int = field(default=0, repr=False)

    @property
    def engine(self) -> Engine:
        """Return the engine that runs the stack."""
        return self.stack.engine

    @property
    def env(self) -> dict[str, str]:
        """Return the environment in which the peers' commands run; the password goes by it, and by it only."""
        return {**self.engine.env, "PGPASSWORD": self.stack.password, "LC_ALL": "C.UTF-8"}

    @property
    def peers(self) -> Path:
        """Return where the peers write, on the file system of the backups."""
        path = self.stack.directory / "peers"
        path.mkdir(exist_ok=True)
        return path

    def fill(self, size: int) -> None:
        """Have data of about `size` bytes of SQL."""
        if self._filled != size:
            say(f"filling the database: {size / 1e6:.0f} MB of SQL")
            self.length = data.fill(self.stack, size)
            self._filled = size

    def settle(self) -> None:
        """Begin equally: what was written before is on disk, the database's part too."""
        self.stack.psql("CHECKPOINT", timeout=600)
        os.sync()

    def shell(self, script: str, *, env: Mapping[str, str] | None = None, timeout: float = HOUR) -> str:
        """Run a pipeline; a failure of any part of it is one. Raise CommandFailed, which shows the script."""
        argv = ["bash", "-c", f"set -euo pipefail; {script}"]
        return run(argv, env={**self.env, **(env or {})}, timeout=timeout).stdout

    def probed(self) -> None:
        """Give the backend a health check of every second, for what waits until it is healthy."""
        self.engine.run("rm", "-f", self.stack.backend)
        self.stack.create_backend_container(probe=PROBE)
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until the engine calls the backend healthy."""
        wait_until(lambda: self.stack.health() == "healthy", "the backend to be healthy", seconds=120)

    @contextmanager
    def daemon(self, **settings: Any) -> Iterator[Daemon]:
        """Run the daemon, with further settings, until the end of the block."""
        with Daemon(self.stack, **self._settings(settings)) as daemon:
            yield daemon
            if daemon.runs():
                daemon.stop(seconds=120)

    def prime(self) -> None:
        """Let the daemon take the dump of the backend's start that it hasn't seen, and forget that dump."""
        self.clear_backups()
        shutil.rmtree(self.stack.state_dir, ignore_errors=True)
        with self.daemon() as daemon:
            daemon.wait_boot_dumps(1, seconds=600)
        self.clear_backups()

    def clear_backups(self) -> None:
        """Remove all backups."""
        shutil.rmtree(self.stack.backups, ignore_errors=True)

    def _settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        merged = {key: dict(value) for key, value in QUIET.items()}
        for key, value in settings.items():
            merged[key] = {**merged.get(key, {}), **value}
        return merged


@contextmanager
def site(engine: Engine, parameters: Parameters) -> Iterator[Site]:
    """Set up the stack, and take it away in the end."""
    _take_names(engine)
    # No arguments: a container as users have it, durable.
    stack = ArcsecondStack(engine, parameters.major, database=DATABASE, backend=BACKEND, postgres_args=())
    say("starting the stack")
    with stack:
        here = Site(stack, parameters)
        here.prime()
        yield here


def _take_names(engine: Engine) -> None:
    """Remove what a killed run left. Raise CommandFailed where the names are those of a real installation."""
    for name in (DATABASE, BACKEND):
        format_ = "{{range $key, $value := .Config.Labels}}{{$key}} {{end}}"
        found = engine.run("container", "inspect", "--format", format_, name, check=False)
        if found.returncode != 0:
            continue
        if LABEL not in found.stdout.split():
            raise CommandFailed(
                f"a container {name} is there, which isn't the bench's, and Arcsecond's client knows no other name:"
                " run this on another machine, or with DOCKER_HOST set to another engine"
            )
        volumes = engine.run(
            "container", "inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", name
        ).stdout.split()
        engine.run("rm", "-f", "-v", name, timeout=120)
        engine.run("volume", "rm", "-f", *volumes, check=False, timeout=120)


# The client, as an operator's shell starts it


def client_argv(*arguments: str) -> list[str]:
    """Return the command line of `arcbackupctl`."""
    script = Path(sys.executable).with_name("arcbackupctl")
    return (
        [str(script), *arguments] if script.exists() else [sys.executable, "-m", "arcbackupd.ctl.main", *arguments]
    )


def client_env(daemon: Daemon) -> dict[str, str]:
    """Return the environment in which the client finds the daemon."""
    return {**os.environ, "ARCBACKUPD_SOCKET": str(daemon.stack.control_socket), "NO_COLOR": "1"}


def client(daemon: Daemon, *arguments: str, timeout: float = HOUR) -> str:
    """Run `arcbackupctl` and return what it printed. Raise CommandFailed, with the daemon's log, when it fails."""
    argv = client_argv(*arguments)
    done = subprocess.run(
        argv,
        check=False,
        env=client_env(daemon),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )
    if done.returncode != 0:
        said = f"{done.stdout}{done.stderr}\nthe daemon's log:\n{daemon.log()[-4000:]}"
        raise CommandFailed(f"arcbackupctl {' '.join(arguments)} ended with {done.returncode}: {said}")
    return done.stdout


def client_json(daemon: Daemon, *arguments: str) -> dict[str, Any]:
    """Run `arcbackupctl … --json` and return its answer."""
    return dict(json.loads(client(daemon, *arguments, "--json")))


def first_byte(argv: list[str], env: Mapping[str, str]) -> float:
    """Return the seconds from starting a program to the first byte that it writes. Raise CommandFailed if none."""
    began = time.monotonic()
    with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        byte = os.read(process.stdout.fileno(), 1)
        took = time.monotonic() - began
        process.stdout.read()
    if not byte or process.returncode != 0:
        raise CommandFailed(f"{argv} ended with {process.returncode} and {'an answer' if byte else 'no answer'}")
    return took


def say(what: str) -> None:
    """Tell on the terminal what goes on."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
