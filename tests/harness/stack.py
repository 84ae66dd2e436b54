"""An Arcsecond-like stack of real containers: a PostgreSQL, a Django backend, an install directory.

    with ArcsecondStack(docker(), major=16) as stack:
        stack.seed(100_000)
        stack.psql("SELECT count(*) FROM observations_photometry")

The containers have no network: the backend reaches the database over its Unix socket, in a
volume that they share. Names carry a random suffix, so that stacks can run side by side.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness import images
from tests.harness.engine import LABEL, Engine, work_dir
from tests.harness.process import CommandFailed, wait_until

PGDATA = "/var/lib/postgresql/data"
SOCKET_DIR = "/var/run/postgresql"

PROBE = (
    "--health-cmd=python /app/healthcheck.py",
    "--health-interval=1s",
    "--health-timeout=5s",
    "--health-retries=3",
    "--health-start-period=60s",
)

COMPOSE = """\
# The containers of this stack are started by the test harness, not by Compose.
services:
  db:
    image: postgres:{major}
    container_name: {database}
    environment:
      POSTGRES_USER: ${{POSTGRES_USER}}
      POSTGRES_DB: ${{POSTGRES_DB}}
      POSTGRES_PASSWORD: ${{POSTGRES_PASSWORD}}
    volumes:
      - db-data:/var/lib/postgresql/data
  api:
    image: {image}
    container_name: {backend}
    depends_on: [db]
    volumes:
      - ${{SHARED_DATA_PATH}}:/data
volumes:
  db-data:
"""


class ArcsecondStack:
    """A database and a backend container with their install directory; use as a context manager."""

    def __init__(
        self,
        engine: Engine,
        major: int = 16,
        *,
        database: str | None = None,
        backend: str | None = None,
        with_backend: bool = True,
        healthcheck: bool = False,
        base_dir: Path | None = None,
        postgres_args: Sequence[str] = ("-c", "fsync=off"),
        database_options: Sequence[str] = (),
        import_seconds: float = 0,
        labelled: bool = False,
    ) -> None:
        """Plan a stack.

        `base_dir` is where the install directory is made; whoever runs the daemon must reach it.
        `healthcheck` gives the backend a probe of the engine's, each second (Docker only:
        podman's needs systemd). `database_options` are further ones of the engine's for the database's container.
        `import_seconds` is how much longer the backend's code takes to be imported than this small one's.
        `labelled`: its containers have the labels of a Compose project in its install directory.
        """
        suffix = secrets.token_hex(4)
        self.engine = engine
        self.major = major
        self.database = database or f"arcsecond-db-{suffix}"
        self.backend = backend or f"arcsecond-api-{suffix}"
        self.user = "arcsecond_docker"
        self.db = "arcsecond_docker"
        self.password = f"pw-{secrets.token_hex(8)}"
        self.services: list[str] = [self.backend] if with_backend else []
        self._suffix = suffix
        self._healthcheck = healthcheck
        self._base_dir = base_dir
        self._postgres_args = list(postgres_args)
        self._database_options = list(database_options)
        self._import_seconds = import_seconds
        self._labelled = labelled
        self._directory: Path | None = None

    # Where things are

    @property
    def directory(self) -> Path:
        """Return the stack's own directory, which holds all that it has on the host."""
        if self._directory is None:
            raise RuntimeError("the stack wasn't started: use it as a context manager")
        return self._directory

    @property
    def install_dir(self) -> Path:
        """Return the directory of docker-compose.yml and .env."""
        return self.directory / "install"

    @property
    def shared_data(self) -> Path:
        """Return SHARED_DATA_PATH."""
        return self.directory / "shared"

    @property
    def backups(self) -> Path:
        """Return where the daemon keeps its dumps; it makes this itself."""
        return self.shared_data / "db_backups"

    @property
    def state_dir(self) -> Path:
        """Return a place for the daemon's state; it makes this itself."""
        return self.directory / "state"

    @property
    def control_socket(self) -> Path:
        """Return a path for the daemon's control socket."""
        return self.directory / "control.sock"

    @property
    def app(self) -> Path:
        """Return this stack's own copy of the Django project, /app in its containers."""
        return self.directory / "app"

    # Life

    def __enter__(self) -> ArcsecondStack:
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
        """Write the install directory, start the containers and wait until they are ready."""
        self._write_files()
        for volume in self._volumes():
            self.engine.run("volume", "create", "--label", LABEL, volume)
        self.create_database_container()
        if self.services:
            self.create_backend_container()
            self.wait_backend()

    def close(self) -> None:
        """Remove everything of this stack. May be called again."""
        containers = {self.database, self.backend, *self.services}
        self.engine.run("rm", "-f", "-v", *sorted(containers), check=False, timeout=120)
        self.engine.run("volume", "rm", "-f", *self._volumes(), check=False, timeout=120)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def create_database_container(self) -> None:
        """Create and start the database container on the stack's volumes; wait until it answers."""
        self._run(
            self.database,
            images.postgres(self.engine, self.major),
            [
                *self._volume_arguments(),
                "--volume",
                f"{self._volumes()[0]}:{PGDATA}",
                "--env",
                f"PGDATA={PGDATA}",
                "--env",
                "POSTGRES_INITDB_ARGS=--auth-local=scram-sha-256",
                "--stop-signal",
                "SIGINT",
                "--shm-size",
                "128m",
                *self._project_labels("arcsecond-db"),
                *self._database_options,
            ],
            ["postgres", *self._postgres_args],
        )
        self.wait_database()

    def create_backend_container(self, image: str | None = None, probe: Sequence[str] | None = None) -> None:
        """Create and start the backend container: it migrates, then serves. `probe` overrides its health check."""
        probe = probe or (PROBE if self._healthcheck else ())
        importing = f"sleep {self._import_seconds} && {images.BACKEND_COMMAND}"
        self._run(
            self.backend,
            image or images.backend(self.engine),
            [
                *self._app_arguments(),
                *self._project_labels("arcsecond-api"),
                "--stop-signal",
                "SIGINT",
                "--stop-timeout",
                "5",
                *probe,
            ],
            ["sh", "-c", importing] if self._import_seconds else [],
        )

    def add_service(
        self,
        role: str = "arcsecond-worker",
        argv: Sequence[str] = (),
        *,
        needs: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> str:
        """Start one more service that uses the database, and return its container's name.

        By default a worker that keeps one connection and writes a row each second. `needs` are the roles of
        services that Compose starts before it, `arguments` more ones for the engine's `run`.
        """
        name = f"{role}-{self._suffix}"
        command = list(argv) or ["python", "manage.py", "worker"]
        self.services.append(name)
        common = [*self._app_arguments(), *_compose_labels(role, needs), "--stop-timeout", "2"]
        self._run(name, images.backend(self.engine), [*common, *arguments], command)
        return name

    def remove_service(self, name: str) -> None:
        """Remove a service that was added."""
        self.services.remove(name)
        self.engine.run("rm", "-f", "-v", name, check=False, timeout=120)

    # Containers

    def start_container(self, name: str) -> None:
        """Start a stopped container."""
        self.engine.run("start", name)

    def stop_container(self, name: str) -> None:
        """Stop a container properly."""
        self.engine.run("stop", name)

    def kill_container(self, name: str, sig: str = "KILL") -> None:
        """Send a signal to a container's first process."""
        self.engine.run("kill", "--signal", sig, name)

    def restart_backend(self, *, wait: bool = True) -> None:
        """Restart the backend container, which migrates again."""
        self.engine.run("restart", self.backend)
        if wait:
            self.wait_backend()

    def replace_backend(self, image: str | None = None) -> None:
        """Remove the backend container and create a new one, as an upgrade does."""
        self.engine.run("rm", "-f", self.backend)
        self.create_backend_container(image)
        self.wait_backend()

    def state(self, name: str) -> dict[str, Any]:
        """Return the engine's `State` of a container."""
        return dict(self._inspect(name)["State"])

    def health(self, name: str | None = None) -> str:
        """Return a container's health as the engine sees it: starting, healthy, unhealthy."""
        return str(self.state(name or self.backend)["Health"]["Status"])

    def logs(self, name: str) -> str:
        """Return what a container wrote."""
        done = self.engine.run("logs", name, check=False)
        return done.stdout + done.stderr

    def exec(
        self,
        name: str,
        *argv: str,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 120,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in a container."""
        variables = [part for key in env or {} for part in ("-e", key)]
        interactive = ["-i"] if stdin else []
        arguments = ["exec", *interactive, *variables, name, *argv]
        return self.engine.run(*arguments, env=env, check=check, timeout=timeout, stdin=stdin)

    def wait_database(self, seconds: float = 60) -> None:
        """Wait until the database container's own first process accepts connections."""
        wait_until(self._database_ready, f"{self.database} to accept connections", seconds=seconds)

    def wait_backend(self, seconds: float = 90) -> None:
        """Wait until the backend answers over HTTP, its migrations done, and the engine knows."""
        wait_until(self._backend_ready, f"{self.backend} to answer", seconds=seconds, interval=0.2)

    # The database

    def psql(self, sql: str, db: str | None = None, *, timeout: float = 300) -> str:
        """Run `sql` in `db`; return its rows, unaligned, columns parted by `|`."""
        argv = [
            "psql",
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            self.user,
            "-d",
            db or self.db,
            "-f",
            "-",
        ]
        return self.pg(argv, stdin=sql + "\n", timeout=timeout).stdout.rstrip("\n")

    def pg(
        self, argv: Sequence[str], *, stdin: str = "", check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs in the database container, with the password."""
        # The name tells the daemon that it isn't the backend's session.
        env = {"PGPASSWORD": self.password, "PGAPPNAME": "arcbackupd-tests"}
        return self.exec(self.database, *argv, env=env, stdin=stdin, check=check, timeout=timeout)

    def create_database(self, name: str) -> None:
        """Create an empty database beside the live one."""
        self.pg(["createdb", "-U", self.user, "--template=template0", name])

    def seed(self, rows: int = 300_000) -> None:
        """Add about `rows` rows of photometry, and a third as many observations."""
        script = (self.app / "seed.sql").read_text(encoding="utf-8")
        self.psql(f"SET seed.rows = {rows};\nBEGIN;\n{script}\nCOMMIT;")

    # The application

    def manage(self, *argv: str, check: bool = True) -> str:
        """Run `python manage.py …` in the running backend and return what it printed."""
        return self.exec(self.backend, "python", "manage.py", *argv, check=check).stdout

    def add_migration(
        self,
        name: str = "0004_remarks",
        operations: str | None = None,
        *,
        app: str = "targets",
        after: str = "0003_object_class_index",
    ) -> Path:
        """Drop one more migration into the project, pending until the backend starts again.

        `operations` is Python source of a list's items, with `migrations` and `models` at hand;
        left out, the column `remarks` is added to the targets.
        """
        body = operations or 'migrations.AddField("Target", "remarks", models.TextField(null=True))'
        path = self.app / app / "migrations" / f"{name}.py"
        path.write_text(
            "from django.db import migrations, models\n\n\n"
            "class Migration(migrations.Migration):\n"
            f"    dependencies = [({app!r}, {after!r})]\n"
            f"    operations = [{body}]\n",
            encoding="utf-8",
        )
        return path

    def remove_migration(self, path: Path) -> None:
        """Take a migration out of the code again; what it did to the database stays."""
        path.unlink()

    # Configuration

    def settings(self, *, inside: bool = False, **overrides: Any) -> dict[str, Any]:
        """Return the daemon's settings for this stack; tables in `overrides` are merged in.

        The engine's address is among them, but for a daemon `inside` a SystemdHost, where the
        engine is at its usual place.
        """
        values: dict[str, Any] = {
            "install_dir": str(self.install_dir),
            "state_dir": str(self.state_dir),
            "engine": {
                "kind": self.engine.kind,
                **({} if inside else {"socket": self.engine.url}),
                "database": self.database,
                "backend": self.backend,
                "services": list(self.services),
            },
            "control": {"socket": str(self.control_socket)},
        }
        return _merged(values, overrides)

    def settings_toml(self, *, inside: bool = False, **overrides: Any) -> str:
        """Return the same as the text of a config.toml."""
        return to_toml(self.settings(inside=inside, **overrides))

    def write_env(self, **variables: str) -> None:
        """Write the install's .env, with `variables` laid over the usual ones."""
        values = {"SHARED_DATA_PATH": str(self.shared_data), **self._database_settings(), **variables}
        _write_variables(self.install_dir / ".env", values)

    # Inside

    def _write_files(self) -> None:
        base = self._base_dir or work_dir() / "stacks"
        base.mkdir(parents=True, exist_ok=True)
        self._directory = Path(tempfile.mkdtemp(prefix="arcsecond-", dir=base))
        self._directory.chmod(0o755)
        self.install_dir.mkdir()
        self.shared_data.mkdir()
        for path in images.project_files():
            target = self.app / path.relative_to(images.OBSERVATORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        self.write_env()
        _write_variables(self.directory / "containers.env", self._database_settings())
        text = COMPOSE.format(major=self.major, database=self.database, backend=self.backend, image="arcsecond/api")
        (self.install_dir / "docker-compose.yml").write_text(text, encoding="utf-8")

    def _run(self, name: str, image: str, arguments: Sequence[str], command: Sequence[str] = ()) -> None:
        common = ["run", "--detach", "--name", name, "--label", LABEL, *self.engine.limits()]
        # Not the install's .env: what a test writes there is the daemon's to read.
        env_file = ["--env-file", str(self.directory / "containers.env")]
        self.engine.run(*common, *env_file, *arguments, image, *command, timeout=120)

    def _database_settings(self) -> dict[str, str]:
        return {
            "POSTGRES_USER": self.user,
            "POSTGRES_DB": self.db,
            "POSTGRES_PASSWORD": self.password,
        }

    def _app_arguments(self) -> list[str]:
        return [
            *self._volume_arguments(),
            "--volume",
            f"{self.app}:/app:ro",
            "--env",
            f"POSTGRES_HOST={SOCKET_DIR}",
        ]

    def _project_labels(self, role: str) -> list[str]:
        project = f"com.docker.compose.project.working_dir={self.install_dir}"
        return ["--label", project, *_compose_labels(role, ())] if self._labelled else []

    def _volume_arguments(self) -> list[str]:
        return ["--volume", f"{self._volumes()[1]}:{SOCKET_DIR}"]

    def _volumes(self) -> tuple[str, str]:
        return f"arcbackupd-test-data-{self._suffix}", f"arcbackupd-test-run-{self._suffix}"

    def _inspect(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.engine.run("container", "inspect", name).stdout)[0])

    def _require_running(self, name: str) -> None:
        if not self.state(name)["Running"]:
            raise CommandFailed(f"{name} ended: {self.logs(name)[-3000:]}")

    def _database_ready(self) -> bool:
        """Tell a server that is PID 1 from the one that an official image's initdb runs first."""
        first_line = self.exec(self.database, "head", "-n1", f"{PGDATA}/postmaster.pid", check=False)
        if first_line.stdout.strip() != "1":
            self._require_running(self.database)
            return False
        argv = ["pg_isready", "-q", "-U", self.user, "-d", self.db]
        return self.exec(self.database, *argv, check=False).returncode == 0

    def _backend_ready(self) -> bool:
        self._require_running(self.backend)
        if self._healthcheck:
            return self.health() == "healthy"
        return self.exec(self.backend, "python", "healthcheck.py", check=False).returncode == 0


def _compose_labels(role: str, needs: Sequence[str]) -> list[str]:
    """Return the labels that Compose puts on a service's container."""
    needed = ",".join(f"{need}:service_started:false" for need in needs)
    return [
        "--label",
        f"com.docker.compose.service={role}",
        "--label",
        f"com.docker.compose.depends_on={needed}",
    ]


def to_toml(values: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested values as TOML; a mapping is a table."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in values.items():
        if isinstance(value, Mapping):
            name = f"{prefix}{_key(key)}"
            text += f"\n[{name}]\n{to_toml(value, f'{name}.')}"
    return text


def _write_variables(path: Path, values: Mapping[str, str]) -> None:
    path.touch(mode=0o600)
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()), encoding="utf-8")


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isascii() and bare.isalnum() else json.dumps(key)


def _value(value: object) -> str:
    # JSON's strings, numbers and lists of these are TOML's, but for U+007F.
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, value in overrides.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = _merged(below, value)  # noqa: PLW2901  (the table it becomes)
        result[key] = value
    return result
