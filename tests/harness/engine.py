"""A working container engine: the one that is there, or a private one that we start.

    python -m tests.harness.engine start [docker|podman]     prints the engine's address
    python -m tests.harness.engine status [docker|podman]
    python -m tests.harness.engine stop [docker|podman]      ends only what `start` started
    python -m tests.harness.engine clean [docker|podman]     removes what killed test runs left

A private engine keeps everything below its own directory and listens on its own socket, so
that nobody's own containers are disturbed. It runs on until `stop`, for the next run to find.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.harness.process import CommandFailed, exclusive, run, wait_until

Kind = Literal["docker", "podman"]

PACKAGES: dict[Kind, tuple[str, ...]] = {
    "docker": ("docker.io", "mmdebstrap", "debian-archive-keyring"),
    "podman": ("podman",),
}
"""What Debian and Ubuntu call the engines, and what the images are built with."""

LABEL = "arcbackupd-test"
"""Every container and volume of the harness carries this label."""

START_SECONDS = 60.0
"""How long a fresh engine may take to answer."""


class EngineUnavailable(Exception):
    """No engine can be had here; the text says why, and what would help."""


@dataclass(frozen=True)
class Engine:
    """An engine that answers, and how to talk to it."""

    kind: Kind
    url: str

    @property
    def socket(self) -> Path:
        """Return the path of the engine's API socket."""
        return Path(self.url.removeprefix("unix://"))

    @property
    def env(self) -> dict[str, str]:
        """Return what to set so that the engine's own client finds this engine."""
        return {"DOCKER_HOST" if self.kind == "docker" else "CONTAINER_HOST": self.url}

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line for this engine's client."""
        if self.kind == "docker":
            return ["docker", *arguments]
        return ["podman", "--remote", "--url", self.url, *arguments]

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run the engine's client; see process.run."""
        return run(
            self.argv(*arguments), timeout=timeout, check=check, env={**(env or {}), **self.env}, stdin=stdin
        )

    def answers(self) -> bool:
        """Return whether the engine can be reached now."""
        try:
            return self.run("info", timeout=20, check=False).returncode == 0
        except CommandFailed:
            return False

    def limits(self) -> list[str]:
        """Return the arguments that `run` and `create` need on every machine we know."""
        if self.kind == "docker":
            return ["--network", "none"]
        return ["--network", "none", "--ulimit", "nofile=10000:10000", "--ulimit", "nproc=10000:10000"]


def work_dir() -> Path:
    """Return the directory of private engines and of test stacks.

    Not below /tmp or a home: units with PrivateTmp and ProtectHome must see the stacks.
    """
    if chosen := os.environ.get("ARCBACKUPD_TEST_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/arcbackupd-test")
    return Path(f"/var/tmp/arcbackupd-test-{os.geteuid()}")


def find_docker() -> Engine | None:
    """Return a Docker engine that already answers: the one asked for, ours, or the user's."""
    asked = os.environ.get("DOCKER_HOST")
    candidates = [asked] if asked else [_private("docker").url, _context_url()]
    engines = (Engine("docker", url) for url in candidates if url.startswith("unix://"))
    return next((engine for engine in engines if engine.answers()), None)


def docker() -> Engine:
    """Return a Docker engine that answers, installing and starting one when it must.

    Raise EngineUnavailable when there is none and this machine doesn't let us start one.
    """
    if engine := find_docker():
        return engine
    _require_root("docker")
    with exclusive(work_dir() / "engine.lock"):
        _install("docker")
        # Another run may have started it meanwhile, or its package did.
        if engine := find_docker():
            return engine
        engine = _private("docker")
        _start_dockerd(engine)
    return engine


def podman() -> Engine:
    """Return podman behind its API socket, installing and starting it when it must.

    Raise EngineUnavailable when that can't be.
    """
    engine = _private("podman")
    if engine.answers():
        return engine
    _require_root("podman")
    with exclusive(work_dir() / "engine.lock"):
        if not engine.answers():
            _install("podman")
            _start_podman(engine)
    return engine


def stop(kind: Kind) -> bool:
    """End the private engine of this kind; return whether one ran. Nobody else's is touched."""
    pid = _running_pid(kind)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: _running_pid(kind) is None, f"the end of {kind}, process {pid}", seconds=60)
    return True


def clean(engine: Engine) -> int:
    """Remove all containers and volumes of the harness; return how many. Ends running tests."""
    label = f"label={LABEL}"
    containers = engine.run("ps", "-aq", "--filter", label).stdout.split()
    volumes = engine.run("volume", "ls", "-q", "--filter", label).stdout.split()
    if containers:
        engine.run("rm", "-f", "-v", *containers, timeout=300)
    if volumes:
        engine.run("volume", "rm", "-f", *volumes, timeout=300)
    for directory in ("stacks", "scratch"):
        shutil.rmtree(work_dir() / directory, ignore_errors=True)
    return len(containers) + len(volumes)


def install_packages(*names: str) -> None:
    """Install Debian packages by apt, as root. Raise EngineUnavailable when that fails."""
    if shutil.which("apt-get") is None:
        raise EngineUnavailable(f"no apt-get here to install {', '.join(names)}: install them yourself")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(["apt-get", "update"], timeout=300, env=env)
        argv = ["apt-get", "install", "-y", "--no-install-recommends", *names]
        run(argv, timeout=900, env=env)
    except CommandFailed as error:
        raise EngineUnavailable(f"apt couldn't install {', '.join(names)}: {error}") from error


# Inside


def _private(kind: Kind) -> Engine:
    run_dir = Path("/run/arcbackupd-test") if os.geteuid() == 0 else work_dir()
    return Engine(kind, f"unix://{run_dir}/{kind}.sock")


def _home(kind: Kind) -> Path:
    return work_dir() / kind


def _context_url() -> str:
    """Return the address that the user's own docker client uses."""
    try:
        done = run(
            ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
            timeout=20,
            check=False,
        )
    except CommandFailed:
        return ""
    return done.stdout.strip()


def _require_root(kind: Kind) -> None:
    if os.geteuid() != 0:
        raise EngineUnavailable(
            f"no {kind} engine answers, and only root may start one: start {kind}, or run the tests as root"
        )


def _install(kind: Kind) -> None:
    programs = {"docker": ("docker", "dockerd", "mmdebstrap"), "podman": ("podman",)}[kind]
    if any(shutil.which(program) is None for program in programs):
        install_packages(*PACKAGES[kind])


def _start_dockerd(engine: Engine) -> None:
    home = _home("docker")
    home.mkdir(parents=True, exist_ok=True)
    config = home / "daemon.json"
    config.write_text("{}\n", encoding="utf-8")
    if _running_pid("docker") is None:  # killed: whoever has its number now would keep a new one from starting
        _DOCKERD_PID.unlink(missing_ok=True)
    _start(
        engine,
        [
            "dockerd",
            "--host",
            engine.url,
            "--config-file",
            str(config),
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--data-root",
            str(home / "data"),
            "--exec-root",
            "/run/arcbackupd-test/docker",
            "--pidfile",
            str(_DOCKERD_PID),
        ],
    )


_DOCKERD_PID = Path("/run/arcbackupd-test/dockerd.pid")


def _start_podman(engine: Engine) -> None:
    home = _home("podman")
    home.mkdir(parents=True, exist_ok=True)
    _start(
        engine,
        [
            "podman",
            "--root",
            str(home / "data"),
            "--runroot",
            "/run/arcbackupd-test/podman",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
            "system",
            "service",
            "--time=0",
            engine.url,
        ],
    )


def _start(engine: Engine, argv: Sequence[str]) -> None:
    """Start an engine in a session of its own and wait until it answers."""
    engine.socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    log = _home(engine.kind) / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            cwd="/",  # it outlives the checkout that it was started from
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _pid_file(engine.kind).write_text(f"{process.pid}\n", encoding="ascii")
    ready = wait_until(
        lambda: process.poll() is not None or engine.answers(),
        f"{engine.kind} to answer; see {log}",
        seconds=START_SECONDS,
        interval=0.2,
    )
    if not ready or process.poll() is not None:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise EngineUnavailable(f"{argv[0]} ended at once; see {log}: {tail}")
    # It is meant to outlive us, so its end is nothing for Python to warn about.
    process.returncode = 0


def _pid_file(kind: Kind) -> Path:
    return _home(kind) / "service.pid"


def _running_pid(kind: Kind) -> int | None:
    """Return the process id of our engine, None when another process has that number."""
    try:
        pid = int(_pid_file(kind).read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if str(_home(kind)).encode() in command else None


def main(arguments: Sequence[str]) -> int:
    """Start, stop, clean or look at an engine; return the exit status."""
    verb, name, *_ = (*arguments, "", "docker")
    kind: Kind = "podman" if "podman" in arguments else "docker"
    verbs = {"start": _say_start, "status": _say_status, "stop": _say_stop, "clean": _say_clean}
    if verb not in verbs or name not in ("", "docker", "podman"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return verbs[verb](kind)
    except EngineUnavailable as error:
        print(f"no engine: {error}", file=sys.stderr)
        return 1


def _say_start(kind: Kind) -> int:
    print((docker() if kind == "docker" else podman()).url)
    return 0


def _say_status(kind: Kind) -> int:
    engine = _find(kind)
    print(engine.url if engine else "no engine answers")
    return 0 if engine else 1


def _say_stop(kind: Kind) -> int:
    print("stopped" if stop(kind) else f"no {kind} of ours runs")
    return 0


def _say_clean(kind: Kind) -> int:
    engine = _find(kind)
    print(f"removed {clean(engine) if engine else 0} containers and volumes")
    return 0


def _find(kind: Kind) -> Engine | None:
    if kind == "docker":
        return find_docker()
    engine = _private("podman")
    return engine if engine.answers() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
