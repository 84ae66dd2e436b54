"""No containers: PostgreSQL and the backend run on the host. For bare metal, the demo and tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from arcbackupd.errors import ArcbackupdError
from arcbackupd.niceness import NORMAL, Niceness
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.settings import LocalEngine as LocalSettings
from arcbackupd.stack.command import Command
from arcbackupd.stack.engine import ContainerRun, ServiceState
from arcbackupd.stack.process import Dialogue, Finished, Output, Stream, run

_ASK_SECONDS = 30
_POSTGRES = frozenset({"psql", "pg_dump"})
"""PostgreSQL's own programs, which must be those of ``bin_dir`` and no others."""


class LocalEngine:
    """Runs PostgreSQL's programs on the host, as root's choice of user when the daemon is root.

    Loading a dump is running a program (``\\!`` in one runs a shell), so psql never runs as root.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings.local or LocalSettings()
        self._services = settings.services

    def in_database(
        self,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        niceness: Niceness = NORMAL,
        fed: bool = False,
    ) -> Command:
        """See `Engine.in_database`; a program's input is always its own here."""
        del fed
        program, *arguments = argv
        place = {"PGPORT": str(self._settings.port)}
        if self._settings.host:
            place["PGHOST"] = self._settings.host
        wrapper = (*self._as_user(self._settings.os_user), *niceness.wrapper())
        return Command((*wrapper, self._path(program), *arguments), {**place, **environment}, "/", program)

    def open_output(
        self, argv: tuple[str, ...], environment: Mapping[str, str], *, niceness: Niceness = NORMAL
    ) -> Output:
        """See `Engine.open_output`."""
        return Stream(self.in_database(argv, environment, niceness=niceness))

    def open_dialogue(
        self, argv: tuple[str, ...], environment: Mapping[str, str], *, niceness: Niceness = NORMAL
    ) -> Dialogue:
        """See `Engine.open_dialogue`."""
        return Dialogue(self.in_database(argv, environment, niceness=niceness, fed=True))

    def in_backend(self, argv: tuple[str, ...]) -> Command:
        """See `Engine.in_backend`."""
        directory = self._settings.manage_dir
        user = self._as_user(self._settings.manage_os_user or self._settings.os_user)
        cwd = str(directory) if directory else None
        return Command((*user, *argv), cwd=cwd, name=" ".join(argv[-3:]))

    def backend_run(self) -> ContainerRun | None:
        """The run of the process in ``backend_pidfile``; without that setting, always the same run."""
        if self._settings.backend_pidfile is None:
            return ContainerRun("local", "local")
        try:
            pid = int(self._settings.backend_pidfile.read_text().split()[0])
            started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (OSError, ValueError, IndexError):
            return None
        return ContainerRun(f"{pid} {started}", "local")

    def backend_exists(self) -> bool:
        """It is the host's own; nobody takes it away."""
        return True

    def watch_backend(self) -> Command | None:
        """There are no events to wait for."""
        return None

    def services(self) -> list[ServiceState]:
        """See `Engine.services`; the service manager says which are active."""
        if self._settings.service_manager is None:
            return []
        return [ServiceState(name, self._is_active(name), "") for name in self._services]

    def start_service(self, name: str) -> Command:
        """See `Engine.start_service`."""
        return self._manage("start", name)

    def stop_service(self, name: str) -> Command:
        """See `Engine.stop_service`."""
        return self._manage("stop", name)

    def version(self) -> str:
        """There is none."""
        return "This host, without containers"

    def state_of(self, name: str) -> ServiceState | None:
        """See `Engine.state_of`: there are no containers."""
        del name
        return None

    def database_addresses(self) -> tuple[str, ...]:
        """It is reached as the settings say, and in no other way."""
        return ()

    def throwaways(self, owner: str) -> None:
        """There are no containers."""
        del owner

    def explain(self, finished: Finished) -> ArcbackupdError | None:
        """There is no engine that could fail."""
        del finished
        return None

    def _is_active(self, name: str) -> bool:
        return run(self._manage("is-active", name), timeout=_ASK_SECONDS).status == 0

    def _manage(self, verb: str, name: str) -> Command:
        return Command((*(self._settings.service_manager or ()), verb, name), name=f"{verb} of {name}")

    def _path(self, program: str) -> str:
        own = self._settings.bin_dir and self._settings.bin_dir / program
        if own and (own.exists() or program in _POSTGRES):
            return str(own)
        return shutil.which(program) or program

    def _as_user(self, user: str) -> tuple[str, ...]:
        if os.geteuid() != 0 or user == "root":
            return ()
        return ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--")
