"""The peers, each by its own code: Arcsecond's client and borgmatic, in environments of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.parameters import WORK
from bench.site import HOUR, Site, say
from tests.harness.engine import EngineUnavailable, install_packages
from tests.harness.process import CommandFailed, run, wait_until

ARCSECOND = "arcsecond>=4.5"
BORGMATIC = "borgmatic>=2"


class Missing(Exception):
    """A peer can't run here; the text says why."""


def programs(*names: str) -> None:
    """Have programs whose packages have their names. Raise Missing with what keeps them from being there."""
    if absent := [name for name in names if shutil.which(name) is None]:
        packages = ["borgbackup" if name == "borg" else name for name in absent]
        if os.geteuid() != 0:
            raise Missing(f"not installed, and only root may: {', '.join(packages)}")
        try:
            install_packages(*packages)
        except EngineUnavailable as error:
            raise Missing(str(error)) from error


def _environment(name: str, python: str, requirement: str) -> Path:
    """Return the interpreter of a virtual environment with what is required, made if need be."""
    home = WORK / name
    done = home / ".done"
    if not done.exists():
        say(f"installing {requirement}")
        shutil.rmtree(home, ignore_errors=True)
        try:
            run([python, "-m", "venv", str(home)], timeout=120)
            pip = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, requirement], timeout=600)
        except CommandFailed as error:
            raise Missing(f"{requirement} couldn't be installed: {error}") from error
        done.touch()
    return home / "bin" / "python"


def _version(python: Path, package: str) -> str:
    script = f"from importlib.metadata import version; print(version({package!r}))"
    return run([str(python), "-c", script]).stdout.strip()


# Arcsecond's client

_DUMP = """
import importlib, pathlib, sys
backups = importlib.import_module("arcsecond.hosting.backups")
assert backups._ensure_install_dir(sys.argv[1]), "it doesn't take the install directory"
backups._take_safety_backup(pathlib.Path(sys.argv[2]), False)
"""


@dataclass(frozen=True)
class Arcsecond:
    """Arcsecond's own client, with an install directory and a directory of backups of its own."""

    site: Site
    python: Path
    version: str

    @classmethod
    def get(cls, site: Site) -> Arcsecond:
        """Install it. Raise Missing where that can't be."""
        python = _environment("arcsecond", _python312(), ARCSECOND)
        client = cls(site, python, _version(python, "arcsecond"))
        client._write_install()
        return client

    @property
    def backups(self) -> Path:
        """Return its directory of backups."""
        return self.site.peers / "arcsecond" / "shared" / "db_backups"

    @property
    def _install(self) -> Path:
        return self.site.peers / "arcsecond" / "install"

    def only(self, *dumps: Path) -> None:
        """Let its backups be these files, and no others."""
        shutil.rmtree(self.backups)
        self.backups.mkdir()
        for path in dumps:
            os.link(path, self.backups / path.name)

    def dump(self) -> int:
        """Take its safety dump, and return the bytes of the file."""
        before = set(self.backups.iterdir())
        self._run("-c", _DUMP, str(self._install), str(self.backups))
        [path] = set(self.backups.iterdir()) - before
        size = path.stat().st_size
        path.unlink()
        return size

    def list(self) -> int:
        """List its backups, and return how many it calls compatible."""
        return self._run("-m", "arcsecond.cli", "backups", "list", "--dir", str(self._install)).count("✅")

    def restore(self, name: str) -> None:
        """Restore a backup, without a safety dump.

        It brings the services up by Compose, which has nothing here to bring up: the caller starts them.
        """
        command = ["backups", "restore", name, "--no-safety-backup", "--dir", str(self._install)]
        said = self._run("-m", "arcsecond.cli", *command, stdin=f"{name}\n")
        if "Restore completed" not in said:
            raise CommandFailed(f"Arcsecond's client didn't complete its restore: {said}")

    def _run(self, *arguments: str, stdin: str = "") -> str:
        env = {**self.site.engine.env, "HOME": str(self.site.peers / "arcsecond"), "LC_ALL": "C.UTF-8"}
        return run([str(self.python), *arguments], env=env, timeout=4 * HOUR, stdin=stdin).stdout

    def _write_install(self) -> None:
        self._install.mkdir(parents=True, exist_ok=True)
        self.backups.mkdir(parents=True, exist_ok=True)
        # Without services: Compose would not take over containers that it hasn't made.
        (self._install / "docker-compose.yml").write_text("services: {}\n", encoding="utf-8")
        stack = self.site.stack
        lines = {
            "SHARED_DATA_PATH": str(self.backups.parent),
            "POSTGRES_USER": stack.user,
            "POSTGRES_DB": stack.db,
            "POSTGRES_PASSWORD": stack.password,
        }
        env = self._install / ".env"
        env.touch(mode=0o600)
        env.write_text("".join(f"{key}={value}\n" for key, value in lines.items()), encoding="utf-8")


def _python312() -> str:
    """Return a Python 3.12, which Arcsecond's client needs. Raise Missing where there is none."""
    on_path = shutil.which("python3.12")
    versions = Path.home() / ".pyenv" / "versions"
    for candidate in [on_path, *map(str, sorted(versions.glob("3.12.*/bin/python"), reverse=True))]:
        # A shim of pyenv's may be there and lead nowhere.
        if candidate and run([candidate, "-c", "import venv, ensurepip"], check=False).returncode == 0:
            return candidate
    raise Missing("there is no Python 3.12 here, which Arcsecond's client needs")


# borgmatic


@dataclass(frozen=True)
class Borgmatic:
    """borgmatic's hook for PostgreSQL, to a borg repository of its own for each dump: nothing is there to reuse."""

    site: Site
    python: Path
    version: str

    @classmethod
    def get(cls, site: Site) -> Borgmatic:
        """Install borg and borgmatic. Raise Missing where that can't be."""
        import sys

        programs("borg")
        python = _environment("borgmatic", sys.executable, BORGMATIC)
        borg = run(["borg", "--version"]).stdout.strip()
        return cls(site, python, f"{_version(python, 'borgmatic')} ({borg})")

    @property
    def _home(self) -> Path:
        return self.site.peers / "borgmatic"

    def prepare(self) -> None:
        """Make an empty repository."""
        shutil.rmtree(self._home, ignore_errors=True)
        (self._home / "run").mkdir(parents=True)
        stack = self.site.stack
        config = f"""\
repositories:
    - path: {self._home}/repository
source_directories: []
borg_base_directory: {self._home}/borg
user_runtime_directory: {self._home}/run
user_state_directory: {self._home}/state
unknown_unencrypted_repo_access_is_ok: true
postgresql_databases:
    - name: {stack.db}
      username: {stack.user}
      format: plain
      pg_dump_command: docker exec --env PGPASSWORD {stack.database} pg_dump
"""
        (self._home / "config.yaml").write_text(config, encoding="utf-8")
        self._run("repo-create", "--encryption", "none")

    def dump(self) -> int:
        """Dump into the repository, and return the bytes of it."""
        self._run("create")
        return sum(path.stat().st_size for path in (self._home / "repository").rglob("*") if path.is_file())

    def _run(self, *arguments: str) -> None:
        argv = [str(self.python.with_name("borgmatic")), "--config", str(self._home / "config.yaml"), *arguments]
        run(argv, env=self.site.env, timeout=HOUR)


# The commands of the specification


def dump_command(site: Site, *, interactive: str = "") -> str:
    """Return the words that run pg_dump in the database's container."""
    stack = site.stack
    return f"docker exec {interactive} --env PGPASSWORD {stack.database} pg_dump -U {stack.user} -d {stack.db}"


def piped(site: Site, compressor: str) -> int:
    """Dump through a pipe into a compressor, and return the bytes of the file."""
    target = site.peers / "piped.sql.gz"
    site.shell(f"{dump_command(site)} | {compressor} > {target}")
    size = target.stat().st_size
    target.unlink()
    return size


def to_nowhere(site: Site) -> int:
    """Let pg_dump write to nowhere inside the container: no dump can be faster."""
    stack = site.stack
    script = f"pg_dump -U {stack.user} -d {stack.db} >/dev/null"
    site.shell(f"docker exec --env PGPASSWORD {stack.database} sh -c '{script}'")
    return 0


def through_engine(site: Site) -> int:
    """Let pg_dump's output come through the engine's stream, and go nowhere from there."""
    site.shell(f"{dump_command(site)} >/dev/null")
    return 0


def services_stopped_and_started(site: Site, load: Callable[[], None]) -> None:
    """Load with the backend stopped, and wait until it is healthy again."""
    site.engine.run("stop", site.stack.backend)
    load()
    start_again(site)


def start_again(site: Site) -> None:
    """Start the backend and wait until it is healthy."""
    site.engine.run("start", site.stack.backend)
    wait_until(lambda: site.stack.health() == "healthy", "the backend to be healthy", seconds=300)


def psql_command(site: Site, *words: str) -> Sequence[str]:
    """Return the words that run one of PostgreSQL's programs in the container."""
    return ["docker", "exec", "--env", "PGPASSWORD", site.stack.database, *words]
