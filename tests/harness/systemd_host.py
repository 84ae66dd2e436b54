"""A host with real systemd and journald, in a container that reaches the engine's socket.

    wheel = build_wheel(REPO)
    with SystemdHost(docker(), mounts=[stack.directory]) as host:
        wheelhouse = build_wheelhouse(wheel, "docutils", constraints=REPO / "constraints.txt")
        host.install(REPO, wheel, wheelhouse, data=stack.shared_data)
        host.run(["systemctl", "start", "arcbackupd"])
        host.journal(_SYSTEMD_UNIT="arcbackupd.service", JOB="dump")

Inside, `docker` at its usual socket is the engine outside, and what is mounted has the same
path as outside, so that one configuration file holds in both. There is no network.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness import images
from tests.harness.engine import LABEL, Engine, work_dir
from tests.harness.process import CommandFailed, run, wait_until

VENV = "/opt/arcbackupd"
"""Where `install` puts the package."""

CHECKOUT = "/root/arcbackupd"
"""Where `install` puts what an operator has after `git clone`."""

INSTALLED_FROM = (
    "scripts",
    "systemd",
    "manpages",
    "docs",
    "constraints.txt",
    "config.example.toml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
)
"""What of a checkout `install` needs; the package itself comes from the wheel."""

WHEELHOUSE = "/var/cache/wheelhouse"
OFFLINE = ("--no-index", "--find-links", WHEELHOUSE)
"""What pip is told on a host without network."""

HOST_PYTHON = "3.11"
"""The Python inside, for which wheels are gathered."""

INIT = "mount --make-rshared / && exec /sbin/init"
"""Without shared mounts the directory of LoadCredential= is empty."""


def install_command(wheel: Path, data: Path | None = None) -> list[str]:
    """Return what installs a wheel that a host has in /var/cache, and again."""
    given = (f"DATA={data or ''}", f"WHEEL=/var/cache/{wheel.name}", f"PIP_ARGS={' '.join(OFFLINE)}")
    return ["env", *given, f"{CHECKOUT}/scripts/host", "install"]


class SystemdHost:
    """A booted systemd container; use it as a context manager."""

    def __init__(
        self,
        engine: Engine,
        *,
        mounts: Sequence[Path] = (),
        name: str | None = None,
        run_arguments: Sequence[str] = (),
    ) -> None:
        """Plan a host that sees each of `mounts` at its own path, writable.

        `run_arguments` go to `docker run` as they are: a `--tmpfs` of limited size, say.
        """
        self.engine = engine
        self.name = name or f"arcbackupd-host-{secrets.token_hex(4)}"
        self._mounts = list(mounts)
        self._run_arguments = list(run_arguments)

    # Life

    def __enter__(self) -> SystemdHost:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Create the container, boot it and wait until systemd says that it's up."""
        self._create()
        self.wait_booted()

    def close(self) -> None:
        """Remove the container. May be called again."""
        self.engine.run("rm", "-f", "-v", self.name, check=False, timeout=120)

    def reboot(self, *, crash: bool = False) -> None:
        """Shut the host down and boot it again; with `crash`, as if the power had failed."""
        verb = ["kill"] if crash else ["stop", "--time", "30"]
        self.engine.run(*verb, self.name, timeout=120)
        self.engine.run("start", self.name)
        self.wait_booted()

    def wait_booted(self, seconds: float = 90) -> None:
        """Wait until systemd has finished booting."""
        wait_until(self._booted, f"systemd in {self.name} to boot", seconds=seconds, interval=0.2)

    # Use

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on the host, as root or as `user` with this user's groups."""
        variables = [part for key in env or {} for part in ("-e", key)]
        interactive = ["-i"] if stdin else []
        command = [*self._as_user(user), *argv] if user else argv
        arguments = ["exec", *interactive, *variables, self.name, *command]
        return self.engine.run(*arguments, env=env, check=check, stdin=stdin, timeout=timeout)

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file or directory onto the host. Not below /tmp or /run, which copying misses."""
        if target.startswith(("/tmp", "/run")):
            raise ValueError(f"{target} is on a tmpfs that the engine can't copy into: use write()")
        self.engine.run("cp", str(source), f"{self.name}:{target}", timeout=300)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file on the host, making its directory if need be."""
        self.run(["mkdir", "-p", str(Path(path).parent)])
        self.run(["sh", "-c", 'umask 077; cat >"$1"; chmod "$2" "$1"', "-", path, f"{mode:o}"], stdin=text)

    def read(self, path: str) -> str:
        """Return the text of a file on the host."""
        return self.run(["cat", path]).stdout

    def add_user(self, name: str, *groups: str) -> None:
        """Add an ordinary user, in these existing groups."""
        self.run(["useradd", "--create-home", *(["-G", ",".join(groups)] if groups else []), name])

    def install(self, checkout: Path, wheel: Path, wheelhouse: Path, *, data: Path | None = None) -> str:
        """Install a wheel as `make install-host [DATA=…]` does, without network; return what that said.

        The image has no make: scripts/host is called as the Makefile calls it.
        """
        self.run(["mkdir", "-p", CHECKOUT])
        for name in INSTALLED_FROM:
            self.copy_in(checkout / name, f"{CHECKOUT}/{name}")
        self.copy_in(wheelhouse, WHEELHOUSE)
        self.copy_in(wheel, f"/var/cache/{wheel.name}")
        return self.run(install_command(wheel, data), timeout=300).stdout

    def install_package(self, wheel: Path) -> None:
        """Install one more wheel, without network, beside the daemon's own packages: a plugin of somebody's."""
        self.copy_in(wheel, f"/var/cache/{wheel.name}")
        pip = [f"{VENV}/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        self.run([*pip, *OFFLINE, f"/var/cache/{wheel.name}"])

    # Looking

    def journal(self, *arguments: str, **matches: str) -> list[dict[str, Any]]:
        """Return the journal's entries with these fields, oldest first.

        A value that isn't text is a list of bytes' numbers, as journalctl writes it.
        """
        fields = [f"{key}={value}" for key, value in matches.items()]
        argv = ["journalctl", "--output=json", "--all", "--quiet", "--no-pager", *arguments, *fields]
        # one that finds nothing exits with 1
        done = self.run(argv, check=False)
        if done.returncode not in (0, 1) or done.stderr.strip():
            raise CommandFailed(f"journalctl failed: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def wait_journal(self, seconds: float = 30, **matches: str) -> dict[str, Any]:
        """Wait for an entry with these fields and return the newest."""
        entries = wait_until(
            lambda: self.journal(**matches), f"a journal entry with {matches}", seconds=seconds, interval=0.2
        )
        return entries[-1]

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Return a unit's properties by name."""
        wanted = [f"--property={','.join(names)}"] if names else []
        text = self.run(["systemctl", "show", *wanted, unit]).stdout
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def wait_state(self, unit: str, state: str = "active", seconds: float = 60) -> None:
        """Wait until a unit's ActiveState is `state`."""
        wait_until(
            lambda: self.show(unit, "ActiveState")["ActiveState"] == state,
            f"{unit} to be {state}",
            seconds=seconds,
            interval=0.1,
        )

    # Inside

    def _create(self) -> None:
        mounts = [part for path in self._mounts for part in ("--volume", f"{path}:{path}")]
        self.engine.run(
            "run",
            "--detach",
            "--name",
            self.name,
            "--label",
            LABEL,
            "--hostname",
            self.name,
            "--network",
            "none",
            "--cgroupns",
            "host",
            "--stop-signal",
            "SIGRTMIN+3",
            "--cap-add",
            "SYS_ADMIN",
            "--cap-add",
            "SYS_PTRACE",
            "--cap-add",
            "NET_ADMIN",
            "--security-opt",
            "seccomp=unconfined",
            "--security-opt",
            "apparmor=unconfined",
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/tmp",
            "--volume",
            "/sys/fs/cgroup:/sys/fs/cgroup:rw",
            "--volume",
            f"{self.engine.socket}:/srv/engine.sock",
            *mounts,
            *self._run_arguments,
            images.systemd(self.engine),
            "sh",
            "-c",
            INIT,
            timeout=120,
        )

    def _booted(self) -> bool:
        done = self.run(["systemctl", "is-system-running"], check=False, timeout=30)
        state = done.stdout.strip()
        if state not in ("running", "degraded"):
            self._require_running()
        return state in ("running", "degraded")

    def _require_running(self) -> None:
        format_ = "{{.State.Running}}"
        running = self.engine.run("container", "inspect", "--format", format_, self.name).stdout
        if running.strip() != "true":
            logs = self.engine.run("logs", self.name, check=False)
            raise CommandFailed(f"{self.name} ended: {logs.stdout}{logs.stderr}")

    def _as_user(self, name: str) -> list[str]:
        """Return a prefix that runs a command as a login of `name` would.

        The engine's own --user goes by the image's groups, and leaves HOME as it is.
        """
        entry = self.run(["getent", "passwd", name]).stdout.strip().split(":")
        group, home = entry[3], entry[5]
        identity = [f"--reuid={name}", f"--regid={group}", "--init-groups"]
        return ["setpriv", *identity, "env", f"HOME={home}", f"USER={name}", f"LOGNAME={name}"]


def build_wheel(repository: Path, into: Path | None = None) -> Path:
    """Build the package of `repository` as a wheel and return its path."""
    target = into or _temporary("wheel-")
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(target), str(repository)]
    run(argv, timeout=300)
    return next(target.glob("*.whl"))


def build_wheelhouse(*requirements: str | Path, constraints: Path | None = None, into: Path | None = None) -> Path:
    """Gather the wheels that `requirements` (names, or wheels' paths) need on the host's Python.

    `into` may hold some already. Return the directory.
    """
    target = into or _temporary("wheelhouse-")
    limit = ["--constraint", str(constraints)] if constraints else []
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary=:all:",
        "--python-version",
        HOST_PYTHON,
        "--implementation",
        "cp",
        *limit,
        "--dest",
        str(target),
        *map(str, requirements),
    ]
    run(argv, timeout=600)
    return target


def _temporary(prefix: str) -> Path:
    base = work_dir() / "wheels"
    base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=base))
