"""The seam between arcbackupd and what runs the installation: docker, podman, or nothing but the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from arcbackupd.errors import ArcbackupdError
from arcbackupd.niceness import NORMAL, Niceness
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import Dialogue, Finished, Output
from arcbackupd.stack.throwaway import Throwaways


@dataclass(frozen=True)
class HealthCheck:
    """How the engine probes a container: failures count from the end of the start period on."""

    start_period: timedelta
    interval: timedelta
    retries: int


@dataclass(frozen=True)
class ContainerRun:
    """One run of a container: the same ``identity`` (id and start time) means that it wasn't started since.

    ``addresses`` are those of its own on networks; one without any, or on the host's network, has none.
    """

    identity: str
    image: str
    container: str = ""
    started_at: datetime | None = None
    pid: int = 0
    addresses: tuple[str, ...] = ()
    health: HealthCheck | None = None


@dataclass(frozen=True)
class Labelled:
    """A container, running or not, with the labels that Compose gave it."""

    name: str
    image: str
    running: bool
    labels: Mapping[str, str]


@dataclass(frozen=True)
class ServiceState:
    """A service as the engine knows it.

    ``started_at`` is the same for as long as it isn't started anew; while it is ``restarting`` it isn't up.
    ``health`` is ``None`` without a health check, else ``starting``, ``healthy`` or ``unhealthy``. ``needs`` are
    names of services that must run before it.
    """

    name: str
    running: bool
    started_at: str
    restarting: bool = False
    health: str | None = None
    needs: frozenset[str] = frozenset()


class Engine(Protocol):
    """Runs PostgreSQL's programs next to the server, and the backend's own next to the backend.

    ``environment`` holds secrets and settings for the program; they never appear in an argument list.
    """

    def in_database(
        self,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        niceness: Niceness = NORMAL,
        fed: bool = False,
    ) -> Command:
        """A command that runs where the database server is, over its default Unix socket.

        ``fed``: it reads its input.
        """

    def open_output(
        self, argv: tuple[str, ...], environment: Mapping[str, str], *, niceness: Niceness = NORMAL
    ) -> Output:
        """Start a program where the database server is, to read its output. Raise OperationFailed."""

    def open_dialogue(
        self, argv: tuple[str, ...], environment: Mapping[str, str], *, niceness: Niceness = NORMAL
    ) -> Dialogue:
        """Start a program there that is fed. Raise OperationFailed."""

    def in_backend(self, argv: tuple[str, ...]) -> Command:
        """A command that runs where the backend is, in its project's directory."""

    def backend_run(self) -> ContainerRun | None:
        """The present run of the backend, ``None`` when it isn't running. Raise OperationFailed when unknowable."""

    def backend_exists(self) -> bool:
        """Whether there is a backend to run. Raise OperationFailed when unknowable."""

    def watch_backend(self) -> Command | None:
        """A command that writes the events of the backend's container, a line each, as `parse_event` reads them.

        ``None``: there are none; ask `backend_run` now and then.
        """

    def services(self) -> list[ServiceState]:
        """The services that use the database, those that exist, in the configuration's order.

        Raise OperationFailed when the engine can't be asked.
        """

    def start_service(self, name: str) -> Command:
        """The command that starts one of them."""

    def stop_service(self, name: str) -> Command:
        """The command that stops one of them and waits until it has ended."""

    def version(self) -> str:
        """What it calls itself, with its version. Raise OperationFailed when it doesn't answer."""

    def state_of(self, name: str) -> ServiceState | None:
        """A container as the engine knows it; ``None`` when there is none. Raise OperationFailed as `version`."""

    def database_addresses(self) -> tuple[str, ...]:
        """The network addresses of the database's container; none where it has no network of its own."""

    def throwaways(self, owner: str) -> Throwaways | None:
        """Database containers for a drill each, of the daemon ``owner``; ``None``: there are no containers."""

    def explain(self, finished: Finished) -> ArcbackupdError | None:
        """The engine's own failure in English; ``None`` when the program inside it failed."""
